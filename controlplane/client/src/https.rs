//! The [`Transport`] over mTLS: pooled connections, HTTP/2 where the server has it, reconnecting by itself.
//!
//! Whom to trust and who we are is the caller's business: it brings the TLS configuration.

use crate::transport::{Body, BoxError, Transport, TransportError};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long one address may take to answer, TLS included, before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTP/2 connection is asked for life this often, and given up after [`PING_TIMEOUT`]: a watch on a dead one would hang.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// How long the answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// An API server reached over TLS.
pub struct HttpsTransport {
    pool: Pool<Connector, Body>,
    authority: Authority,
    authorization: Option<HeaderValue>,
}

impl HttpsTransport {
    /// Reaches the first of `servers` that answers; `name` is what the server's certificate is checked for by `tls`, and the
    /// Host of each request. `tls` need not name protocols: HTTP/2 and HTTP/1.1 are offered.
    ///
    /// # Errors
    /// When `name` cannot be part of a URL.
    pub fn new(
        servers: Vec<SocketAddr>,
        name: ServerName<'static>,
        tls: &rustls::ClientConfig,
    ) -> Result<Self, http::uri::InvalidUri> {
        let port = servers.first().map_or(443, SocketAddr::port);
        let authority = match &name {
            ServerName::IpAddress(address) => {
                let address = std::net::IpAddr::from(*address);
                SocketAddr::new(address, port).to_string()
            }
            name => format!("{}:{port}", name.to_str()),
        };
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let connector = Connector { servers: servers.into(), name, tls: TlsConnector::from(Arc::new(tls)) };
        let pool = Pool::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        Ok(HttpsTransport { pool, authority: authority.parse()?, authorization: None })
    }

    /// Sends this `authorization` header with each request.
    #[must_use]
    pub fn with_authorization(mut self, value: HeaderValue) -> Self {
        self.authorization = Some(value);
        self
    }
}

impl Transport for HttpsTransport {
    fn call(
        &self,
        mut request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, TransportError>> + Send + '_>> {
        Box::pin(async move {
            let failed = |source: BoxError| TransportError { server: self.authority.to_string(), source };
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(self.authority.clone());
            *request.uri_mut() = Uri::from_parts(parts).map_err(|error| failed(error.into()))?;
            if let Some(value) = &self.authorization {
                request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            let response = self.pool.request(request).await.map_err(|error| failed(error.into()))?;
            Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
        })
    }
}

/// Opens connections for the pool.
#[derive(Clone)]
struct Connector {
    servers: Arc<[SocketAddr]>,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Connector {
    async fn connect(self) -> io::Result<TlsIo> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address of an API server is known");
        for server in self.servers.iter() {
            match tokio::time::timeout(CONNECT_TIMEOUT, self.open(*server)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{server}: {error}")),
                Err(_elapsed) => {
                    let text = format!("{server}: no connection in {} s", CONNECT_TIMEOUT.as_secs());
                    last = io::Error::new(io::ErrorKind::TimedOut, text);
                }
            }
        }
        Err(last)
    }

    async fn open(&self, server: SocketAddr) -> io::Result<TlsIo> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.name.clone(), stream).await?;
        Ok(TlsIo(TokioIo::new(stream)))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TlsIo;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsIo>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _the_only_server: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A TLS stream that tells the pool which HTTP was agreed on.
struct TlsIo(TokioIo<TlsStream<TcpStream>>);

impl Connection for TlsIo {
    fn connected(&self) -> Connected {
        let (_, session) = self.0.inner().get_ref();
        if session.alpn_protocol() == Some(b"h2") { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
