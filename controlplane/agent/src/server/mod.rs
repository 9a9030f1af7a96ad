//! The node's HTTPS endpoint: logs, commands and attachments for the API server, health and pods for people.
//!
//! ```text
//! GET /healthz   GET /pods
//! GET /containerLogs/{namespace}/{pod}/{container}?follow&tailLines&sinceSeconds&sinceTime&timestamps&previous&limitBytes
//! GET /exec/{namespace}/{pod}/{container}?command=..&stdin&stdout&stderr&tty      (WebSocket, v5.channel.k8s.io)
//! GET /attach/{namespace}/{pod}/{container}?stdin&stdout&stderr&tty               (the same)
//! ```
//! Who may come in is decided by the [`Doorkeeper`] before anything is read; nothing here may be asked without it.
//! Tasks: `agent endpoint`, and `agent connection` for each connection.

mod channels;
mod exec;
mod logs;
mod query;
mod sessions;

use crate::node::Node;
use bytes::Bytes;
use controlplane_client::{Body, Informer, ObjectKey, full_body};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use machined_reconcile::story;
use machined_reconcile::{Restart, Stop};
use query::Query;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Connections at a time: each is somebody's log or command, and the API server is the only caller.
const CONNECTIONS: usize = 256;
/// Longest a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Who may use the endpoint. Implemented by the daemon, which knows keys and the access table.
pub trait Doorkeeper: Send + Sync + 'static {
    /// The server side of TLS now; keys are renewed while the process runs. It must ask for a client certificate.
    fn tls(&self) -> Arc<ServerConfig>;

    /// Whether a peer that showed these certificates, and proved to have the key of the first, may come in.
    fn admits(&self, certificates: &[CertificateDer<'static>]) -> bool;
}

/// The endpoint cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("the agent cannot listen on {address}; is another agent or a kubelet running?")]
pub struct ServerError {
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// What handlers share.
struct Endpoint {
    node: Arc<Node>,
    pods: Informer<Pod>,
}

/// Starts the endpoint, if one is configured.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn start(node: Arc<Node>, pods: Informer<Pod>) -> Result<(), ServerError> {
    let Some((address, doorkeeper)) = node.config.endpoint.clone() else { return Ok(()) };
    let listener = TcpListener::bind(address).await.map_err(|source| ServerError { address, source })?;
    let listener = Arc::new(listener);
    let supervisor = node.supervisor.clone();
    let endpoint = Arc::new(Endpoint { node, pods });
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    supervisor.spawn("agent endpoint", Restart::Always, move |stop| {
        accept(Arc::clone(&listener), Arc::clone(&endpoint), Arc::clone(&doorkeeper), Arc::clone(&room), stop)
    });
    Ok(())
}

async fn accept(
    listener: Arc<TcpListener>,
    endpoint: Arc<Endpoint>,
    doorkeeper: Arc<dyn Doorkeeper>,
    room: Arc<Semaphore>,
    mut stop: Stop,
) -> Result<(), std::io::Error> {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = stop.requested() => return Ok(()),
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(%peer, "agent connection refused, too many are open");
            continue;
        };
        let parts = Mutex::new(Some((stream, place)));
        let (of, doorkeeper) = (Arc::clone(&endpoint), Arc::clone(&doorkeeper));
        endpoint.node.supervisor.spawn("agent connection", Restart::Never, move |mut stop| {
            let parts = parts.lock().expect("because no holder of this lock panics").take();
            let (endpoint, doorkeeper) = (Arc::clone(&of), Arc::clone(&doorkeeper));
            async move {
                let Some((stream, _place)) = parts else { return Ok(()) };
                tokio::select! {
                    () = serve(stream, peer, endpoint, doorkeeper) => {}
                    () = stop.requested() => {}
                }
                Ok::<(), Infallible>(())
            }
        });
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, endpoint: Arc<Endpoint>, doorkeeper: Arc<dyn Doorkeeper>) {
    let handshake = TlsAcceptor::from(doorkeeper.tls()).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "agent connection failed"),
        Err(_late) => return tracing::debug!(%peer, "agent connection failed, the handshake is too slow"),
    };
    let certificates: Vec<CertificateDer<'static>> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let admitted = doorkeeper.admits(&certificates);
    if !admitted {
        tracing::warn!(%peer, "agent connection refused, the peer may not ask agents");
    }
    let service = service_fn(move |request| {
        let endpoint = Arc::clone(&endpoint);
        async move {
            let answer = if admitted { route(endpoint, request).await } else { Err(Refusal::forbidden()) };
            Ok::<_, Infallible>(answer.unwrap_or_else(Refusal::into_response))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.with_upgrades().await {
        tracing::debug!(%peer, %error, "agent connection broke");
    }
}

/// Why a request is not served.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "only the cluster's control plane may ask agents")
    }

    fn failed(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, story(error))
    }

    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(full_body(self.message + "\n"));
        *response.status_mut() = self.status;
        response
    }
}

/// The container that a path names.
struct Named {
    pod: Arc<Pod>,
    container: String,
}

async fn route(endpoint: Arc<Endpoint>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    if request.method() != Method::GET && request.method() != Method::POST {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "use GET"));
    }
    match parts.as_slice() {
        ["healthz"] => Ok(Response::new(full_body("ok"))),
        ["pods"] => Ok(endpoint.list()),
        ["containerLogs", namespace, pod, container] => {
            let named = endpoint.find(namespace, pod, container)?;
            logs::answer(&endpoint, &named, &query).await
        }
        ["exec", namespace, pod, container] => {
            let named = endpoint.find(namespace, pod, container)?;
            exec::exec(&endpoint, &named, &query, request).await
        }
        ["attach", namespace, pod, container] => {
            let named = endpoint.find(namespace, pod, container)?;
            exec::attach(&endpoint, &named, &query, request).await
        }
        _other => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))),
    }
}

impl Endpoint {
    /// The pods of this node as a list object.
    fn list(&self) -> Response<Body> {
        let pods = self.pods.cache().list();
        let items: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items });
        let mut response = Response::new(full_body(Bytes::from(list.to_string())));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        response
    }

    /// The pod, when it is on this node and has that container.
    fn find(&self, namespace: &str, pod: &str, container: &str) -> Result<Named, Refusal> {
        let key = ObjectKey { namespace: Some(namespace.to_owned()), name: pod.to_owned() };
        let missing = || Refusal::new(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} is not on this node"));
        let found = self.pods.cache().get(&key).ok_or_else(missing)?;
        let spec = found.spec.as_ref();
        let mut names = spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
        if !names.any(|spec| spec.name == container) {
            let message = format!("container {container} is not valid for pod {pod}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        Ok(Named { pod: found, container: container.to_owned() })
    }
}
