//! Carries bytes between a WebSocket and a process: of a command, or of the container itself.

use super::channels::{self, FromClient, STDERR, STDOUT};
use super::logs;
use crate::containerd::{ExecInput, ExecOutput, ExecSession, OutputReader};
use crate::logs::LogQuery;
use crate::node::Node;
use crate::pod::start::log_path;
use crate::runtime::{Container, ContainerId, Exec};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use machined_reconcile::story;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// Bytes read from a process at once.
const CHUNK: usize = 16 << 10;
/// Largest message from a client in bytes: kubectl sends 32 KiB at most.
const MESSAGE_LIMIT: usize = 1 << 20;

/// The client's side.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Sender = Mutex<SplitSink<Socket, Message>>;

/// The container's own streams.
pub(super) struct Attachment {
    /// The container.
    pub(super) container: Container,
    /// Whether the client sends input.
    pub(super) stdin: bool,
}

/// Makes a WebSocket of an upgraded connection.
pub(super) async fn socket(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// Runs a command until it ends or the client leaves; a command whose client left is killed.
pub(super) async fn exec(node: &Node, id: &ContainerId, exec: Exec, socket: Socket) {
    let (sender, receiver) = socket.split();
    let sender = Mutex::new(sender);
    let (session, output) = match node.containerd.open_exec(id, &exec).await {
        Ok(opened) => opened,
        Err(error) => return finish(&sender, channels::status(Err(&story(&error)))).await,
    };
    let ExecOutput { stdout, stderr } = output;
    let process = async {
        let streams = (forward(stdout, STDOUT, &sender), forward(stderr, STDERR, &sender));
        let (ended, (), ()) = tokio::join!(session.ended(), streams.0, streams.1);
        ended
    };
    let ended = tokio::select! {
        ended = process => ended,
        () = receive(receiver, &session, exec.stdin) => {
            let killed = session.kill().await;
            let ended = session.ended().await;
            killed.and(ended)
        }
    };
    let status = match ended {
        Ok(code) => channels::status(Ok(code)),
        Err(error) => channels::status(Err(&story(&error))),
    };
    finish(&sender, status).await;
}

/// Joins a running container: what it writes from now on, and its input.
pub(super) async fn attach(node: &Arc<Node>, attachment: Attachment, socket: Socket) {
    let Attachment { container, stdin } = attachment;
    let (sender, mut receiver) = socket.split();
    let sender = Mutex::new(sender);
    let path = log_path(node, &container.pod, &container.name, container.attempt);
    let query = LogQuery { tail: Some(0), follow: true, ..LogQuery::default() };
    let mut output = logs::stream(node, path, query, &container.pod, &container.id);
    let mut input = if stdin { node.containerd.container_input(&container.id).ok() } else { None };
    let write = async {
        while let Some(piece) = output.next().await {
            if send(&sender, channels::write(STDOUT, &piece)).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        while let Some(Ok(message)) = receiver.next().await {
            if let FromClient::Input(bytes) = channels::read(&message.into_data())
                && let Some(input) = &mut input
                && input.write(bytes).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    finish(&sender, channels::status(Ok(0))).await;
}

/// Takes the client's messages until it leaves.
async fn receive(mut receiver: SplitStream<Socket>, session: &ExecSession, stdin: bool) {
    let mut input: Option<ExecInput> = if stdin { session.stdin().ok() } else { None };
    while let Some(Ok(message)) = receiver.next().await {
        if message.is_close() {
            return;
        }
        let problem = match channels::read(&message.into_data()) {
            FromClient::Input(bytes) => {
                if let Some(open) = &mut input
                    && open.write(bytes).await.is_err()
                {
                    // A process that does not read its input any more is no reason to end it.
                    input = None;
                }
                None
            }
            FromClient::EndOfInput => {
                input = None;
                session.close_stdin().await.err()
            }
            FromClient::Resize { width, height } => session.resize(width, height).await.err(),
            FromClient::Other => None,
        };
        if let Some(error) = problem {
            tracing::debug!(error = story(&error), "a message of a session had no effect");
        }
    }
}

/// Carries output until its end. A client that left is noticed where its messages are read.
async fn forward(mut output: OutputReader, channel: u8, sender: &Sender) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        if send(sender, channels::write(channel, &buffer[..length])).await.is_err() {
            return;
        }
    }
}

async fn send(sender: &Sender, bytes: Vec<u8>) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    sender.lock().await.send(Message::binary(bytes)).await
}

/// Sends how it ended and closes.
async fn finish(sender: &Sender, status: Vec<u8>) {
    if send(sender, status).await.is_ok() {
        // kubectl takes any other code, none included, for a broken connection. It may close first; either way it is closed.
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _closed = sender.lock().await.send(Message::Close(Some(normal))).await;
    }
}
