//! Opens commands and attachments: checks the request, answers the upgrade, hands the socket to a session.

use super::channels;
use super::logs::{containers, find};
use super::query::Query;
use super::sessions::{self, Attachment};
use super::{Endpoint, Named, Refusal};
use crate::runtime::{Container, Exec, State};
use controlplane_client::{Body, empty_body};
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use machined_reconcile::Restart;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Runs a command in the container.
pub(super) async fn exec(
    endpoint: &Arc<Endpoint>,
    named: &Named,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container"));
    }
    let container = running(endpoint, named).await?;
    let exec = Exec { command, terminal: query.is_set(&["tty"]), stdin: query.is_set(&["stdin", "input"]) };
    let node = Arc::clone(&endpoint.node);
    upgrade(endpoint, request, move |socket| {
        async move { sessions::exec(&node, &container.id, exec, socket).await }.boxed()
    })
}

/// Joins the container's own streams.
pub(super) async fn attach(
    endpoint: &Arc<Endpoint>,
    named: &Named,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let container = running(endpoint, named).await?;
    let attachment = Attachment { container, stdin: query.is_set(&["stdin", "input"]) };
    let node = Arc::clone(&endpoint.node);
    upgrade(endpoint, request, move |socket| async move { sessions::attach(&node, attachment, socket).await }.boxed())
}

async fn running(endpoint: &Endpoint, named: &Named) -> Result<Container, Refusal> {
    let all = containers(endpoint, named).await?;
    let found = find(&all, &named.container).filter(|container| matches!(container.state, State::Running { .. }));
    let stopped = || Refusal::new(StatusCode::BAD_REQUEST, format!("container {:?} is not running", named.container));
    found.cloned().ok_or_else(stopped)
}

type Session = futures_util::future::BoxFuture<'static, ()>;

/// Answers a WebSocket request and starts the session on what it becomes. One task, `agent session`.
fn upgrade(
    endpoint: &Endpoint,
    mut request: Request<Incoming>,
    session: impl FnOnce(sessions::Socket) -> Session + Send + 'static,
) -> Result<Response<Body>, Refusal> {
    let text = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, message);
    if !text(header::UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err(bad("commands need a WebSocket; use a kubectl of 1.31 or later"));
    }
    let key = text(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("the WebSocket request has no key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let offered = text(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or("");
    let protocol = channels::choose(offered)
        .ok_or_else(|| bad("the subprotocols v5.channel.k8s.io and v4.channel.k8s.io are spoken"))?;
    let parts = Mutex::new(Some((hyper::upgrade::on(&mut request), session)));
    endpoint.node.supervisor.spawn("agent session", Restart::Never, move |mut stop| {
        let parts = parts.lock().expect("because no holder of this lock panics").take();
        async move {
            let Some((upgrade, session)) = parts else { return Ok(()) };
            match upgrade.await {
                Ok(upgraded) => tokio::select! {
                    () = async { session(sessions::socket(upgraded).await).await } => {}
                    () = stop.requested() => {}
                },
                Err(error) => tracing::debug!(%error, "a WebSocket was not taken up"),
            }
            Ok::<(), Infallible>(())
        }
    });
    let mut response = Response::new(empty_body());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    let accept = HeaderValue::from_str(&accept).expect("because base64 is a header value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}
