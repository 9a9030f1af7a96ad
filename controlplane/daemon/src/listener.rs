//! The TLS listener of the Kubernetes API: accepts connections, says who asks, hands requests to the API server.
//!
//! One task accepts, one task per connection serves; both belong to the Supervisor. Never looks into a request beyond its
//! `authorization` header, and leaves an audit record of each.

use crate::audit::{Audit, Call};
use crate::identify::{Asking, identify};
use crate::table::Table;
use controlplane_apiserver::{ApiServer, Body, BoxError, Caller};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use machined_access::{Proven, tls};
use machined_reconcile::{Restart, Stop, Supervisor};
use rustls::pki_types::UnixTime;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections open at once; more wait in the kernel's queue. Each costs some tens of KiB.
const CONNECTIONS_MAX: usize = 4096;

/// Longest TLS handshake; a client that is slower is not one of ours.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for the head of an HTTP/1.1 request: nobody holds a connection by typing slowly.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams of one HTTP/2 connection at once, as upstream's default.
const STREAMS_MAX: u32 = 250;

/// Longest that open requests are waited for when the process ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that a connection needs.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) api: ApiServer,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) table: Table,
    pub(crate) audit: Audit,
    pub(crate) supervisor: Supervisor,
}

impl Listener {
    /// Accepts until the process ends.
    pub(crate) async fn run(self, socket: Arc<TcpListener>, mut stop: Stop) -> Result<(), io::Error> {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            let stream = tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Out of file descriptors, or the client is gone already: no reason to end.
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = stop.requested() => return Ok(()),
            };
            let connection = Arc::new(Mutex::new(Some((self.clone(), stream, place))));
            self.supervisor.spawn("api connection", Restart::Never, move |stop| {
                let taken = connection.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move {
                    if let Some((listener, stream, _place)) = taken {
                        listener.connection(stream, stop).await;
                    }
                    Ok::<_, Infallible>(())
                }
            });
        }
    }

    async fn connection(self, stream: TcpStream, mut stop: Stop) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection closed before it began");
            return;
        }
        let remote = stream.peer_addr().ok();
        let handshake = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                return;
            }
            Err(_) => return,
        };
        let peer = tls::peer(stream.get_ref().1.peer_certificates(), UnixTime::now());
        let proven = Arc::new(Proven::new(peer));
        let service = service_fn(move |request| answer(self.clone(), remote, Arc::clone(&proven), request));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.requested() => {
                connection.as_mut().graceful_shutdown();
                // Watches do not end by themselves; what is left is cut.
                tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection broke");
        }
    }
}

/// Pause after a failed accept, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn answer(
    listener: Listener,
    remote: Option<SocketAddr>,
    proven: Arc<Proven>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let table = listener.table.current();
    let (asking, standing) = identify(&table, &proven, request.headers(), Timestamp::now());
    if let Some(standing) = standing {
        request.extensions_mut().insert(listener.table.tenure(standing));
    }
    match asking {
        Asking::Caller(caller) => drop(request.extensions_mut().insert(caller)),
        Asking::Refused(refused) => drop(request.extensions_mut().insert(refused)),
        Asking::Token => {}
    }
    // Without the query: it may name what the log must not hold.
    let call = Call { remote, method: format!("{} {}", request.method(), request.uri().path()) };
    let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
    let response = listener.api.handle(request).await;
    listener.audit.add(call, response.extensions().get::<Caller>(), response.status());
    Ok(response)
}

#[cfg(test)]
mod tests;
