//! TLS connections from other members; the handshake proves who they are.

use machined_access::{Peer, tls};
use rustls::pki_types::UnixTime;
use std::io;
use std::net::SocketAddr;
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

/// Connections at once: two for each of the most members that make sense, and room for those that try to get in.
const CONNECTIONS_MAX: usize = 64;

/// A member that takes longer is not one of ours.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// After a failed accept, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection whose handshake is done.
pub(crate) struct MemberStream {
    tls: TlsStream<TcpStream>,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) peer: Peer,
    pub(crate) address: Option<SocketAddr>,
}

impl Connected for MemberStream {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for MemberStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for MemberStream {
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

async fn shake(acceptor: TlsAcceptor, stream: TcpStream, place: OwnedSemaphorePermit) -> Option<MemberStream> {
    let address = stream.peer_addr().ok();
    stream.set_nodelay(true).ok()?;
    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => {
            let peer = tls::peer(tls.get_ref().1.peer_certificates(), UnixTime::now());
            Some(MemberStream { tls, caller: Caller { peer, address }, _place: place })
        }
        Ok(Err(error)) => {
            tracing::debug!(?address, %error, "a member's TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Accepts until the receiver of `streams` is gone. Handshakes are tasks that end by themselves.
pub(crate) async fn accept(
    listener: &TcpListener,
    acceptor: TlsAcceptor,
    streams: mpsc::Sender<io::Result<MemberStream>>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut handshakes = tokio::task::JoinSet::new();
    loop {
        let connect = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("because nobody closes the semaphore");
            (listener.accept().await, place)
        };
        tokio::select! {
            (accepted, place) = connect => match accepted {
                Ok((stream, _)) => drop(handshakes.spawn(shake(acceptor.clone(), stream, place))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a member's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(done) = handshakes.join_next() => {
                if let Ok(Some(stream)) = done && streams.send(Ok(stream)).await.is_err() {
                    return;
                }
            }
        }
    }
}
