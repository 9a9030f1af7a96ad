//! TLS connections for the machine API.
//!
//! ```text
//! TCP accept -> handshake (at most HANDSHAKES_MAX at once) -> channel -> tonic
//! ```
//!
//! Anybody on the network can open a connection, so handshakes and connections are counted and timed.

use crate::gate::Connection;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use machined_access::{Proven, tls};
use rustls::pki_types::UnixTime;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Handshakes at once; each costs two signatures, and more only make all of them late.
const HANDSHAKES_MAX: usize = 16;
/// Connections at once: every operator and machine of a large cluster; beyond this new ones wait.
const CONNECTIONS_MAX: usize = 256;
/// A client that takes longer is not one of ours.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection whose handshake is done.
pub(crate) struct ApiStream {
    tls: TlsStream<TcpStream>,
    connection: Connection,
    _place: OwnedSemaphorePermit,
}

impl Connected for ApiStream {
    type ConnectInfo = Connection;
    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for ApiStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for ApiStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

async fn shake(acceptor: TlsAcceptor, stream: TcpStream, place: OwnedSemaphorePermit) -> Option<ApiStream> {
    let address = stream.peer_addr().ok();
    let _small_messages_go_at_once = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => {
            let peer = tls::peer(tls.get_ref().1.peer_certificates(), UnixTime::now());
            let connection = Connection { address, proven: Arc::new(Proven::new(peer)) };
            Some(ApiStream { tls, connection, _place: place })
        }
        Ok(Err(error)) => {
            tracing::debug!(?address, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(?address, "TLS handshake took too long");
            None
        }
    }
}

/// Accepts until the receiver of `streams` is gone.
pub(crate) async fn accept(listener: TcpListener, acceptor: TlsAcceptor, streams: mpsc::Sender<io::Result<ApiStream>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut handshakes = FuturesUnordered::new();
    loop {
        let connect = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("because nobody closes the semaphore");
            (listener.accept().await, place)
        };
        tokio::select! {
            (accepted, place) = connect, if handshakes.len() < HANDSHAKES_MAX => match accepted {
                Ok((stream, _)) => handshakes.push(shake(acceptor.clone(), stream, place)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(done) = handshakes.next() => {
                if let Some(stream) = done && streams.send(Ok(stream)).await.is_err() {
                    return;
                }
            }
        }
    }
}
