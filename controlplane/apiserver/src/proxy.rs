//! Logs and commands: finds the pod's node and passes the exchange through to its agent.
//!
//! A WebSocket is tunnelled byte by byte after both sides have switched protocols; what is said in it is between the client and
//! the agent. Never buffers more than the copy loop's own buffers.

use crate::body::{self, Body};
use crate::failure::Failure;
use crate::query::Query;
use crate::registry::{self, Call};
use crate::respond::Answer;
use crate::tenure::{self, Tenure};
use controlplane_types::object::{list, text};
use controlplane_types::{ApiError, Reason};
use http::{HeaderName, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use machined_reconcile::{Restart, Supervisor};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

/// Headers of the WebSocket handshake, which are between the client and the agent.
const HANDSHAKE: &[HeaderName] = &[
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_ACCEPT,
];

/// Annotation that names the container meant when none is.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// pods/log.
pub(crate) async fn log(call: &Call<'_>, query: &Query) -> Result<Answer, Failure> {
    let pod = registry::get(call, None).await?;
    let container = container(&pod, query.text("container"))?;
    let path = format!("/containerLogs/{}/{}/{container}", call.path.namespace, call.path.name);
    let request = Request::get(with_query(&path, query)).body(body::empty()).map_err(bad_path)?;
    let mut response = to_agent(call, &pod, request).await?;
    response.headers_mut().remove(header::CONNECTION);
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    Ok(Answer::Raw(response))
}

/// pods/exec and pods/attach.
pub(crate) async fn exec(call: &Call<'_>, query: &Query, mut request: Request<Body>) -> Result<Answer, Failure> {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !upgrade.eq_ignore_ascii_case("websocket") {
        let message = "commands run over WebSocket only; kubectl does so from 1.30 on, older ones with \
                       KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true";
        return Err(ApiError::bad_request(message).into());
    }
    let pod = registry::get(call, None).await?;
    let container = container(&pod, query.text("container"))?;
    let path = format!("/{}/{}/{}/{container}", call.path.subresource, call.path.namespace, call.path.name);
    let mut onward = Request::get(with_query(&path, query)).body(body::empty()).map_err(bad_path)?;
    copy_handshake(request.headers(), onward.headers_mut());
    let mut answer = to_agent(call, &pod, onward).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer::Raw(answer));
    }
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    copy_handshake(answer.headers(), response.headers_mut());
    let ends = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    let name = format!("{} {}/{}", call.path.subresource, call.path.namespace, call.path.name);
    let tenure = request.extensions().get::<Tenure>().cloned();
    tunnel(&call.server.options.supervisor, name, ends, tenure);
    Ok(Answer::Raw(response))
}

/// Runs until either side closes, or whoever began it may not be served any longer. It cannot be begun again: its two ends are used up.
fn tunnel(tasks: &Supervisor, name: String, ends: (OnUpgrade, OnUpgrade), tenure: Option<Tenure>) {
    let ends = Arc::new(Mutex::new(Some((ends.0, ends.1, tenure))));
    tasks.spawn(name, Restart::Never, move |mut stop| {
        let ends = ends.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let Some((client, agent, tenure)) = ends else { return Ok::<_, Infallible>(()) };
            let (Ok(client), Ok(agent)) = tokio::join!(client, agent) else {
                tracing::debug!("a command's connection closed before it was opened");
                return Ok(());
            };
            let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
            tokio::select! {
                // How it ended is in the protocol inside; a broken connection shows at both ends.
                copied = tokio::io::copy_bidirectional(&mut client, &mut agent) => {
                    tracing::debug!(clean = copied.is_ok(), "a command's connection closed");
                }
                over = tenure::over(tenure.as_ref()) => tracing::info!(reason = %over, "a command's connection is cut off"),
                () = stop.requested() => {}
            }
            Ok(())
        }
    });
}

/// Sends a request to the agent of the pod's node.
async fn to_agent(call: &Call<'_>, pod: &Value, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let Some(nodes) = &call.server.options.nodes else {
        return Err(ApiError::new(Reason::ServiceUnavailable, "this server has no way to the nodes").into());
    };
    let node = text(pod, &["spec", "nodeName"]);
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.path.name)).into());
    }
    let kind = call.server.kind("", "v1", "nodes")?;
    let path = crate::request::ResourcePath { name: node.to_owned(), ..Default::default() };
    let found = crate::storage::get(&*call.server.store, &kind, &path, controlplane_store::Consistency::Local).await?;
    let found = found.ok_or_else(|| ApiError::not_found(&kind, node))?;
    let addresses = list(&found.object, &["status", "addresses"]);
    let internal = addresses.iter().find(|a| text(a, &["type"]) == "InternalIP");
    let Some(address) = internal.map(|a| text(a, &["address"])) else {
        let message = format!("node {node} has not reported an InternalIP yet; look at `kubectl get nodes -o wide`");
        return Err(ApiError::new(Reason::ServiceUnavailable, message).into());
    };
    nodes.call(node, address, request).await.map_err(|error| {
        tracing::warn!(node, address, source = %error.source, "a node agent did not answer");
        ApiError::internal(&format!("{error}: {}", error.source)).into()
    })
}

/// The container meant: the one named, the annotated default, or the only one.
fn container(pod: &Value, named: Option<&str>) -> Result<String, ApiError> {
    let pod_name = text(pod, &["metadata", "name"]);
    let kinds = ["containers", "initContainers", "ephemeralContainers"];
    let all = || kinds.iter().flat_map(|kind| list(pod, &["spec", kind])).map(|c| text(c, &["name"]));
    if let Some(name) = named {
        if all().any(|known| known == name) {
            return Ok(name.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {name} is not valid for pod {pod_name}")));
    }
    let annotated = text(pod, &["metadata", "annotations", DEFAULT_CONTAINER]);
    if all().any(|known| known == annotated) {
        return Ok(annotated.to_owned());
    }
    let names: Vec<&str> = list(pod, &["spec", "containers"]).iter().map(|c| text(c, &["name"])).collect();
    match names.as_slice() {
        [only] => Ok((*only).to_owned()),
        several => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            several.join(" ")
        ))),
    }
}

/// The agent's path with the client's query; the container is in the path already.
fn with_query(path: &str, query: &Query) -> String {
    let encoded = query.encode(|name| name != "container");
    if encoded.is_empty() { path.to_owned() } else { format!("{path}?{encoded}") }
}

fn bad_path(_: http::Error) -> ApiError {
    ApiError::bad_request("the names in the path cannot be passed on")
}

fn copy_handshake(from: &http::HeaderMap, to: &mut http::HeaderMap) {
    for name in HANDSHAKE {
        for value in from.get_all(name) {
            to.append(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_meant_is_named_annotated_or_alone() {
        let pod = |annotations: Value, names: &[&str]| {
            let containers: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
            json!({"metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": containers}})
        };
        let annotated = json!({"kubectl.kubernetes.io/default-container": "b"});
        let cases = [
            (pod(json!({}), &["a"]), None, Ok("a".to_owned())),
            (pod(json!({}), &["a", "b"]), Some("b"), Ok("b".to_owned())),
            (pod(annotated, &["a", "b"]), None, Ok("b".to_owned())),
            (
                pod(json!({}), &["a", "b"]),
                None,
                Err("a container name must be specified for pod p, choose one of: [a b]".to_owned()),
            ),
            (pod(json!({}), &["a"]), Some("z"), Err("container z is not valid for pod p".to_owned())),
        ];
        for (pod, named, expected) in cases {
            assert_eq!(container(&pod, named).map_err(|e| e.message), expected);
        }
    }
}
