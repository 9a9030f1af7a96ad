//! Paths below an object: status, scale, binding, eviction, finalize, token, log, exec, attach.

use crate::body::Body;
use crate::eviction;
use crate::failure::Failure;
use crate::proxy;
use crate::query::WriteOptions;
use crate::registry::{self, Call, Change};
use crate::request::{RequestInfo, Verb};
use crate::resource::{one, patch, read_json, read_object, read_patch, wanted, written};
use crate::respond::Answer;
use crate::tokens;
use controlplane_types::object::{self, Object, list, map, text};
use controlplane_types::patch::{self as patches, PatchType};
use controlplane_types::write::Managed;
use controlplane_types::{ApiError, Endpoint, Subresource, scale};
use http::Request;
use serde_json::{Value, json};

/// Answers a request below an object.
pub(crate) async fn serve(call: &Call<'_>, info: &RequestInfo, request: Request<Body>) -> Result<Answer, Failure> {
    let found = call.kind.subresource(&call.path.subresource).ok_or_else(ApiError::no_such_resource)?;
    let verb = info.verb.as_str();
    if !found.verbs().contains(&verb) {
        return Err(ApiError::method_not_supported(&call.kind, verb).into());
    }
    match found {
        Subresource::Status => status(call, info, request).await,
        Subresource::Scale => of_scale(call, info, request).await,
        Subresource::Finalize => finalize(call, info, request).await,
        Subresource::Binding => bind(call, info, request).await,
        Subresource::Eviction => eviction::evict(call, info, request).await,
        Subresource::Token => {
            let (_, body) = read_json(request).await?;
            Ok(Answer::Value(201, tokens::request(call, body.value).await?))
        }
        Subresource::Log => proxy::log(call, &info.query).await,
        Subresource::Exec | Subresource::Attach => proxy::exec(call, &info.query, request).await,
    }
}

async fn status(call: &Call<'_>, info: &RequestInfo, request: Request<Body>) -> Result<Answer, Failure> {
    let wanted = wanted(request.headers())?;
    match info.verb {
        Verb::Get => Ok(one(call, wanted, 200, registry::get(call, None).await?)),
        Verb::Patch => patch(call, info, Endpoint::Status, request).await,
        Verb::Update
        | Verb::List
        | Verb::Watch
        | Verb::Create
        | Verb::Delete
        | Verb::DeleteCollection
        | Verb::Unknown => {
            let options = WriteOptions::parse(&info.query)?;
            let body = read_object(call, request, &options).await?;
            Ok(written(call, wanted, registry::update(call, Endpoint::Status, body, &options).await?))
        }
    }
}

/// A change that our own code makes through a subresource.
async fn change(
    call: &Call<'_>,
    options: &WriteOptions,
    subresource: Subresource,
    of: &(dyn Fn(&Value) -> Result<Value, ApiError> + Sync),
) -> Result<Value, Failure> {
    let change = Change { endpoint: Endpoint::Other(subresource), managed: Managed::Track, of };
    Ok(registry::modify(call, options, change).await?.object)
}

async fn of_scale(call: &Call<'_>, info: &RequestInfo, request: Request<Body>) -> Result<Answer, Failure> {
    let options = WriteOptions::parse(&info.query)?;
    let object = match info.verb {
        Verb::Get => registry::get(call, None).await?,
        Verb::Patch => {
            let (patch_type, body) = read_patch(request).await?;
            let of = |old: &Value| {
                let before = scale::scale_of(old);
                let after = match patch_type {
                    PatchType::Json => patches::patched(&call.kind, patch_type, &before, body.value.clone())?,
                    // A scale has no lists: all three merge alike.
                    PatchType::Merge | PatchType::Strategic | PatchType::Apply => {
                        patches::patched(&call.kind, PatchType::Merge, &before, body.value.clone())?
                    }
                };
                scale::with_scale(&call.kind, old, &after)
            };
            change(call, &options, Subresource::Scale, &of).await?
        }
        Verb::Update
        | Verb::List
        | Verb::Watch
        | Verb::Create
        | Verb::Delete
        | Verb::DeleteCollection
        | Verb::Unknown => {
            let (_, body) = read_json(request).await?;
            let of = |old: &Value| scale::with_scale(&call.kind, old, &body.value);
            change(call, &options, Subresource::Scale, &of).await?
        }
    };
    Ok(Answer::Value(200, scale::scale_of(&object)))
}

/// namespaces/finalize: the namespace controller takes its finalizer away when everything inside is gone.
async fn finalize(call: &Call<'_>, info: &RequestInfo, request: Request<Body>) -> Result<Answer, Failure> {
    let wanted = wanted(request.headers())?;
    let options = WriteOptions::parse(&info.query)?;
    let (_, body) = read_json(request).await?;
    let body = body.value;
    let of = |old: &Value| {
        if !matches!(body.resource_version(), said if said.is_empty() || said == old.resource_version()) {
            return Err(ApiError::modified(&call.kind, &call.path.name));
        }
        let mut new = old.clone();
        object::set(&mut new, &["spec"], "finalizers", json!(list(&body, &["spec", "finalizers"])));
        Ok(new)
    };
    let object = change(call, &options, Subresource::Finalize, &of).await?;
    Ok(one(call, wanted, 200, object))
}

/// pods/binding: the scheduler's decision, taken once.
async fn bind(call: &Call<'_>, info: &RequestInfo, request: Request<Body>) -> Result<Answer, Failure> {
    let options = WriteOptions::parse(&info.query)?;
    let (_, body) = read_json(request).await?;
    let body = body.value;
    let node = text(&body, &["target", "name"]);
    if node.is_empty() || !matches!(text(&body, &["target", "kind"]), "" | "Node") {
        return Err(ApiError::bad_request("target: a binding names a Node").into());
    }
    change(call, &options, Subresource::Binding, &|old| bound(call, old, &body, node)).await?;
    Ok(Answer::Value(201, success()))
}

/// The pod with its node, or why it cannot have one.
fn bound(call: &Call<'_>, old: &Value, binding: &Value, node: &str) -> Result<Value, ApiError> {
    let conflict = |why: String| Err(ApiError::conflict(&call.kind, &call.path.name, &why));
    let name = &call.path.name;
    if !binding.uid().is_empty() && binding.uid() != old.uid() {
        return conflict(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            binding.uid(),
            old.uid()
        ));
    }
    if old.is_deleting() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let assigned = text(old, &["spec", "nodeName"]);
    if !assigned.is_empty() {
        return conflict(format!("pod {name} is already assigned to node \"{assigned}\""));
    }
    if !list(old, &["spec", "schedulingGates"]).is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = old.clone();
    object::set(&mut new, &["spec"], "nodeName", node);
    for (key, value) in map(binding, &["metadata", "annotations"]).into_iter().flatten() {
        object::set(&mut new, &["metadata", "annotations"], key, value.clone());
    }
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::time(call.now),
    });
    let mut conditions = list(old, &["status", "conditions"]).to_vec();
    conditions.retain(|one| text(one, &["type"]) != "PodScheduled");
    conditions.push(condition);
    object::set(&mut new, &["status"], "conditions", conditions);
    Ok(new)
}

/// The Status of a success that has no object of its own.
pub(crate) fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
