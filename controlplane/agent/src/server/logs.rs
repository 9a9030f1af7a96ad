//! Answers requests for logs by streaming a container's file.

use super::query::Query;
use super::{Endpoint, Named, Refusal};
use crate::logs::{IsOver, LogQuery, log_lines};
use crate::node::Node;
use crate::pod::plan::newest;
use crate::pod::start::log_path;
use crate::runtime::{Container, ContainerId, Kind, PodKey, Runtime, State};
use bytes::Bytes;
use controlplane_client::{Body, Object};
use futures_util::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use machined_reconcile::Restart;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Pieces of a log on their way to a slow reader.
const PIECES: usize = 64;

/// The pod's containers as the runtime has them.
pub(super) async fn containers(endpoint: &Endpoint, named: &Named) -> Result<Vec<Container>, Refusal> {
    endpoint.node.containerd.containers(named.pod.uid()).await.map_err(|error| Refusal::failed(&error))
}

/// The newest container of the name, init container or not.
pub(super) fn find<'a>(containers: &'a [Container], name: &str) -> Option<&'a Container> {
    newest(containers, Kind::App, name).or_else(|| newest(containers, Kind::Init, name))
}

pub(super) async fn answer(endpoint: &Endpoint, named: &Named, query: &Query) -> Result<Response<Body>, Refusal> {
    let containers = containers(endpoint, named).await?;
    let name = &named.container;
    let waiting = || {
        let message = format!("container {name:?} in pod {:?} is waiting to start", named.pod.name());
        Refusal::new(StatusCode::BAD_REQUEST, message)
    };
    let newest = find(&containers, name).ok_or_else(waiting)?;
    let attempt = if query.is_set(&["previous"]) {
        let message = format!("previous terminated container {name:?} in pod {:?} not found", named.pod.name());
        newest.attempt.checked_sub(1).ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, message))?
    } else {
        newest.attempt
    };
    let path = log_path(&endpoint.node, &newest.pod, name, attempt);
    let pieces = stream(&endpoint.node, path, read_query(query, Timestamp::now()), &newest.pod, &newest.id);
    let mut response = Response::new(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// Streams a log; ends when it ends, and a follower when the container has ended. One task, `log reader`.
pub(super) fn stream(
    node: &Arc<Node>,
    path: PathBuf,
    query: LogQuery,
    pod: &PodKey,
    id: &ContainerId,
) -> ReceiverStream<Bytes> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let (of, pod, id) = (Arc::clone(node), pod.clone(), id.clone());
    node.supervisor.spawn("log reader", Restart::Never, move |mut stop| {
        let (sender, path, query) = (sender.clone(), path.clone(), query.clone());
        let (node, pod, id) = (Arc::clone(&of), pod.clone(), id.clone());
        async move {
            let is_over: IsOver = Box::new(move || {
                let (node, pod, id) = (Arc::clone(&node), pod.clone(), id.clone());
                Box::pin(async move { !is_running(&node, &pod, &id).await })
            });
            tokio::select! {
                read = log_lines(path, query, sender, is_over) => read,
                () = stop.requested() => Ok(()),
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn is_running(node: &Node, pod: &PodKey, id: &ContainerId) -> bool {
    match node.containerd.containers(&pod.uid).await {
        Ok(all) => all.iter().any(|c| c.id == *id && matches!(c.state, State::Running { .. })),
        // The runtime restarts; its containers go on.
        Err(_unreachable) => true,
    }
}

fn read_query(query: &Query, now: Timestamp) -> LogQuery {
    let seconds: Option<u64> = query.number("sinceSeconds");
    let ago = seconds.and_then(|seconds| now.checked_sub(Duration::from_secs(seconds)).ok());
    LogQuery {
        tail: query.number("tailLines"),
        since: query.first("sinceTime").and_then(|time| time.parse().ok()).or(ago),
        timestamps: query.is_set(&["timestamps"]),
        limit_bytes: query.number("limitBytes"),
        follow: query.is_set(&["follow"]),
    }
}
