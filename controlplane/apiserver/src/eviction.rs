//! pods/eviction: deletes a pod, if the disruption budget over it can give one away.
//!
//! What is decided is in [`controlplane_types::eviction`]; here it is carried out. The budget's status is written first, as a
//! compare-and-write of its own: of many evictions at once each takes its own disruption, and one that dies between the two writes
//! took one too many, never one too few. The controller gives it back after a while.

use crate::body::Body;
use crate::failure::Failure;
use crate::query::{WriteOptions, parse_dry_run};
use crate::registry::{self, Call, Change, WRITE_ATTEMPTS_MAX};
use crate::request::{RequestInfo, ResourcePath};
use crate::resource::read_json;
use crate::respond::Answer;
use crate::storage;
use crate::subresource::success;
use controlplane_store::Consistency;
use controlplane_types::delete::DeleteOptions;
use controlplane_types::eviction::{Verdict, judge, mark, still_processing, take};
use controlplane_types::object::{Object, at, list, text};
use controlplane_types::write::Managed;
use controlplane_types::{ApiError, Endpoint, Reason};
use http::Request;
use serde_json::Value;

/// Answers the request.
pub(crate) async fn evict(call: &Call<'_>, info: &RequestInfo, request: Request<Body>) -> Result<Answer, Failure> {
    let mut write = WriteOptions::parse(&info.query)?;
    let (_, body) = read_json(request).await?;
    let options = read(call, &body.value, &mut write)?;
    for _ in 0..WRITE_ATTEMPTS_MAX {
        match attempt(call, &options, &write).await? {
            Attempt::Evicted => return Ok(Answer::Value(201, success())),
            Attempt::Changed => {}
        }
    }
    Err(ApiError::modified(&call.kind, &call.path.name).into())
}

/// How an attempt ended that did not fail.
enum Attempt {
    Evicted,
    /// Pod or budget changed while they were judged, and nothing was written: to be judged as they are now.
    Changed,
}

/// The deletion that the body asks for. Dry run may be said in the query, in the body, or in both.
fn read(call: &Call<'_>, eviction: &Value, write: &mut WriteOptions) -> Result<DeleteOptions, ApiError> {
    let is_eviction = matches!(text(eviction, &["kind"]), "" | "Eviction");
    let is_known = matches!(text(eviction, &["apiVersion"]), "" | "policy/v1" | "policy/v1beta1");
    if !is_eviction || !is_known {
        return Err(ApiError::bad_request("the body is no Eviction of policy/v1"));
    }
    if eviction.name() != call.path.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    if !matches!(eviction.namespace(), said if said.is_empty() || said == call.path.namespace) {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(why));
    }
    let options = at(eviction, &["deleteOptions"]).unwrap_or(&Value::Null);
    for stage in list(options, &["dryRun"]) {
        write.dry_run |= parse_dry_run(Some(stage.as_str().unwrap_or_default()))?;
    }
    DeleteOptions::from_body(options)
}

async fn attempt(call: &Call<'_>, asked: &DeleteOptions, write: &WriteOptions) -> Result<Attempt, Failure> {
    // The client's own preconditions first: a request about another pod must not cost this one's budget anything.
    registry::delete(call, asked, true).await?;
    let pod = registry::get(call, None).await?;
    let kind = call.server.kind("policy", "v1", "poddisruptionbudgets")?;
    let stored = storage::list(&*call.server.store, &kind, &call.path.namespace, Consistency::Linearizable).await?;
    let budgets: Vec<Value> = stored.into_iter().map(|one| one.object).collect();
    let guarded = match judge(&pod, &budgets)? {
        Verdict::Delete => None,
        Verdict::DeleteThisVersion(budget) => Some(budget),
        Verdict::Take(budget) => {
            if !take_from(call, budget.name(), write).await? {
                return Ok(Attempt::Changed);
            }
            None
        }
    };
    let mut options = asked.clone();
    if guarded.is_some() {
        options.resource_version.get_or_insert_with(|| pod.resource_version().to_owned());
    }
    let note = |pod: &mut Value| mark(pod, call.now);
    let deleted = registry::delete_noting(call, &options, write.dry_run, note).await;
    match (deleted, guarded) {
        (Ok(_), _) => Ok(Attempt::Evicted),
        (Err(Failure::Api(error)), Some(budget)) if is_ours(&error, asked) => match budget {
            Some(budget) => Err(still_processing(budget).into()),
            None => Ok(Attempt::Changed),
        },
        // After a disruption was taken nothing is tried again: that would take another one.
        (Err(failure), _) => Err(failure),
    }
}

/// Whether the version that did not fit was ours and not the client's.
fn is_ours(error: &ApiError, asked: &DeleteOptions) -> bool {
    error.reason == Reason::Conflict && asked.resource_version.is_none()
}

/// Takes one disruption from the budget, which is looked at anew whenever somebody else wrote it first. False: the budget went.
async fn take_from(call: &Call<'_>, budget: &str, write: &WriteOptions) -> Result<bool, Failure> {
    let kind = call.server.kind("policy", "v1", "poddisruptionbudgets")?;
    let path = ResourcePath {
        group: kind.group.clone(),
        version: kind.version.clone(),
        resource: kind.plural.clone(),
        subresource: "status".to_owned(),
        rest: String::new(),
        namespace: call.path.namespace.clone(),
        name: budget.to_owned(),
    };
    let of_budget = Call::new(call.server, kind, path, call.caller, call.agent);
    let of = |old: &Value| take(&of_budget.kind, old, &call.path.name, call.now);
    let change = Change { endpoint: Endpoint::Status, managed: Managed::Track, of: &of };
    match registry::modify(&of_budget, write, change).await {
        Err(Failure::Api(error)) if error.reason == Reason::NotFound => Ok(false),
        written => written.map(|_| true),
    }
}
