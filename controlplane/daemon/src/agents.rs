//! The API server's way to node agents: one mTLS connection per exchange, pinned to the node's identity in the access table.
//!
//! HTTP/1.1 only, because a WebSocket becomes a tunnel. Logs and commands are rare, so nothing is pooled.

use crate::leaf::LeafSource;
use crate::table::Table;
use controlplane_apiserver::{Body, BoxError, NodeConnector, NodeError};
use controlplane_store::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use machined_access::tls;
use machined_ids::MachineName;
use machined_reconcile::{Restart, Supervisor};
use rustls::pki_types::ServerName;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Port of the node agent on every node.
pub(crate) const AGENT_PORT: u16 = 10250;

/// Longest time to reach an agent; a node that is slower is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reaches agents as this machine's `controlplane` service.
pub(crate) struct Agents {
    pub(crate) table: Table,
    pub(crate) leaf: LeafSource,
    pub(crate) supervisor: Supervisor,
}

impl Agents {
    async fn exchange(
        &self,
        node: &str,
        address: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, BoxError> {
        let name = MachineName::parse(node)?;
        let table = self.table.current();
        let machine = table.machines.get(&name).ok_or("the accepted step names no such machine")?;
        let expected = BTreeSet::from([machine.identity.clone()]);
        let config = tls::pinned_client_config(expected, Some(self.leaf.current()), &["http/1.1"])?;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(config, address)).await??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = Arc::new(Mutex::new(Some(connection.with_upgrades())));
        self.supervisor.spawn("agent connection", Restart::Never, move |_stop| {
            let connection = driver.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                match connection {
                    Some(connection) => connection.await,
                    None => Ok(()),
                }
            }
        });
        request.headers_mut().insert(header::HOST, HeaderValue::from_static(tls::MACHINE_NAME));
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
    }
}

async fn connect(
    config: rustls::ClientConfig,
    address: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, BoxError> {
    let address: std::net::IpAddr = address.parse()?;
    let stream = TcpStream::connect((address, AGENT_PORT)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(tls::MACHINE_NAME)?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

impl NodeConnector for Agents {
    fn call<'a>(
        &'a self,
        node: &'a str,
        address: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, NodeError>> {
        Box::pin(async move {
            let failed = |source| NodeError { node: node.to_owned(), address: address.to_owned(), source };
            self.exchange(node, address, request).await.map_err(failed)
        })
    }
}
