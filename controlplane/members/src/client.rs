//! The way to the other members: one HTTP/2 connection for each, opened when it is needed and again when it broke.
//!
//! TLS is pinned to the identity that the roster has for the member's machine when the connection is made.

use crate::wire::members_client::MembersClient;
use crate::wire::{MESSAGE_LIMIT, Packet, VoteCall, failure};
use crate::{Roster, Trust};
use controlplane_replica::{Command, Led, Member, MemberId, Peer, Peers, Reply, SnapshotInFlight, Types, Vote};
use controlplane_store::BoxFuture;
use hyper_util::rt::TokioIo;
use machined_access::tls;
use machined_ids::MachineName;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// Longest time to open a connection, TLS included: shorter than an election, so that a dead member holds up nothing.
const CONNECT_LIMIT: Duration = Duration::from_millis(900);

/// Shortest limit for log entries on their way. openraft gives a heartbeat's time, in which 4 MiB are not written anywhere.
const APPEND_LIMIT: Duration = Duration::from_secs(2);

/// A connection that says nothing is asked whether it still lives.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Pieces of a snapshot that wait for the network: some MiB.
const PIECES_WAITING: usize = 4;

/// Reaches members as this machine.
pub struct Dialler {
    trust: Arc<dyn Trust>,
    lines: Mutex<BTreeMap<MemberId, (Member, Arc<Line>)>>,
}

impl Dialler {
    /// A way to the members of `trust`'s roster.
    #[must_use]
    pub fn new(trust: Arc<dyn Trust>) -> Arc<Self> {
        Arc::new(Dialler { trust, lines: Mutex::default() })
    }
}

impl Peers for Dialler {
    fn peer(&self, id: MemberId, member: &Member) -> Arc<dyn Peer> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.get(&id) {
            Some((known, line)) if known == member => Arc::clone(line) as Arc<dyn Peer>,
            // New, or it moved.
            Some(_) | None => {
                let line = Arc::new(Line(open(Arc::clone(&self.trust), member)));
                lines.insert(id, (member.clone(), Arc::clone(&line)));
                line
            }
        }
    }
}

fn open(trust: Arc<dyn Trust>, member: &Member) -> MembersClient<Channel> {
    let machine = member.machine.clone();
    connect_lazily(trust, member.address.clone(), move |roster, identity| {
        MachineName::parse(&machine).is_ok_and(|name| roster.machines.get(&name) == Some(identity))
    })
}

/// A client for whoever is at `address`, if the roster at that moment has it as `expected` wants it.
pub(crate) fn connect_lazily(
    trust: Arc<dyn Trust>,
    address: String,
    expected: impl Fn(&Roster, &machined_ids::Fingerprint) -> bool + Clone + Send + Sync + 'static,
) -> MembersClient<Channel> {
    let connector = tower::service_fn(move |_| {
        let (trust, address, expected) = (Arc::clone(&trust), address.clone(), expected.clone());
        async move {
            let connecting = connect(&*trust, &address, expected);
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no connection in time"));
            tokio::time::timeout(CONNECT_LIMIT, connecting).await.map_err(late)?.map(TokioIo::new)
        }
    });
    // TLS is the connector's business; HTTP/2 only wants an authority.
    let endpoint = Endpoint::from_static("http://machine.cairn.internal")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    MembersClient::new(endpoint.connect_with_connector_lazy(connector))
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

async fn connect(
    trust: &dyn Trust,
    address: &str,
    expected: impl Fn(&Roster, &machined_ids::Fingerprint) -> bool + Send + Sync + 'static,
) -> io::Result<TlsStream<TcpStream>> {
    let roster = trust.roster();
    let config = tls::client_config(move |identity| expected(&roster, identity), Some(trust.leaf()), &["h2"]);
    let config = config.map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(tls::MACHINE_NAME).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// One member.
struct Line(MembersClient<Channel>);

/// Sends a packet and opens the answer.
fn exchange<T, F>(limit: Duration, call: F) -> BoxFuture<'static, io::Result<T>>
where
    T: for<'de> Deserialize<'de> + Send + 'static,
    F: Future<Output = Result<Response<Packet>, Status>> + Send + 'static,
{
    Box::pin(async move {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(failure)?.into_inner().open(),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the member did not answer in time")),
        }
    })
}

fn refused<T: Send + 'static>(error: io::Error) -> BoxFuture<'static, io::Result<T>> {
    Box::pin(std::future::ready(Err(error)))
}

/// Packs `request`, and exchanges it by the call that `rpc` names.
macro_rules! call {
    ($self:ident, $rpc:ident, $request:expr, $limit:expr) => {
        match Packet::of($request) {
            Ok(packet) => {
                let mut client = $self.0.clone();
                exchange($limit, async move { client.$rpc(packet).await })
            }
            Err(error) => refused(error),
        }
    };
}

impl Peer for Line {
    fn append(
        &self,
        request: AppendEntriesRequest<Types>,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<AppendEntriesResponse<Types>>> {
        call!(self, append, &request, limit.max(APPEND_LIMIT))
    }

    fn vote(
        &self,
        request: VoteRequest<Types>,
        pre: bool,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<VoteResponse<Types>>> {
        match Packet::of(&request) {
            Ok(packet) => {
                let mut client = self.0.clone();
                let request = VoteCall { pre, request: Some(packet) };
                exchange(limit, async move { client.vote(request).await })
            }
            Err(error) => refused(error),
        }
    }

    fn snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotInFlight,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<SnapshotResponse<Types>>> {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING);
        let reading = tokio::task::spawn_blocking(move || {
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            let head = Packet::of(&(vote, &snapshot.meta))?;
            sender.blocking_send(head).map_err(gone)?;
            snapshot.snapshot.pieces(|piece| sender.blocking_send(Packet::raw(piece)).map_err(gone))
        });
        let mut client = self.0.clone();
        Box::pin(async move {
            let sent = exchange(limit, async move { client.snapshot(ReceiverStream::new(pieces)).await }).await;
            // Reading ends when the last piece is sent, or when nobody takes more.
            let read = reading.await.map_err(io::Error::other)?;
            // A receiver that hung up says more than the pipe that it broke.
            let answer = sent?;
            read.map(|()| answer)
        })
    }

    fn transfer(
        &self,
        request: TransferLeaderRequest<Types>,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<TransferLeaderResponse<Types>>> {
        call!(self, transfer, &request, limit)
    }

    fn propose(&self, command: Command, limit: Duration) -> BoxFuture<'_, io::Result<Led<Reply>>> {
        call!(self, propose, &command, limit)
    }

    fn read_index(&self, limit: Duration) -> BoxFuture<'_, io::Result<Led<u64>>> {
        call!(self, read_index, &(), limit)
    }
}
