//! What an eviction does to a pod and to the disruption budget over it: pure decisions, upstream's rules and words.
//!
//! The API server's `pods/eviction` carries them out: it deletes the pod, where [`judge`] says so after [`take`] wrote the budget.
//! The budget's controller (`controlplane/controllers`, `disruption`) computes the numbers that are read here.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, Cause, Details, Reason};
use crate::kind::KindInfo;
use crate::object::{self, Object, at, list, number, text};
use crate::selector::from_label_selector;

/// Entries of `status.disruptedPods` past which nothing more is evicted: the controller is not following. Upstream's number.
pub const DISRUPTED_PODS_MAX: usize = 2000;

/// Seconds after which a client should ask again while the controller has not looked at the budget yet.
const RETRY_SECONDS: u32 = 10;

/// Machine-readable cause of every refusal on behalf of a budget.
pub const BUDGET_CAUSE: &str = "DisruptionBudget";

/// The condition that says whether a disruption is allowed now.
pub const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// Reasons of [`DISRUPTION_ALLOWED`].
pub mod reason {
    /// The budget could not be computed.
    pub const SYNC_FAILED: &str = "SyncFailed";
    /// There are more healthy pods than the budget asks for.
    pub const SUFFICIENT_PODS: &str = "SufficientPods";
    /// There are not.
    pub const INSUFFICIENT_PODS: &str = "InsufficientPods";
}

/// How a pod may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// At once: no budget is over it, or it has ended or is on its way out already.
    Delete,
    /// At once, as long as it is exactly this version: what makes it free could change. The name of the budget, if one is over it.
    DeleteThisVersion(Option<&'a str>),
    /// After a disruption was taken from the budget.
    Take(&'a Value),
}

/// Decides about a pod, given all budgets of its namespace.
///
/// # Errors
/// More than one budget selects it.
pub fn judge<'a>(pod: &Value, budgets: &'a [Value]) -> Result<Verdict<'a>, ApiError> {
    match text(pod, &["status", "phase"]) {
        _ if pod.is_deleting() => return Ok(Verdict::Delete),
        "Succeeded" | "Failed" => return Ok(Verdict::Delete),
        // Not one of those that serve yet; but it may become ready in this moment.
        "Pending" => return Ok(Verdict::DeleteThisVersion(None)),
        _running => {}
    }
    let mut over = budgets.iter().filter(|budget| covers(budget, pod));
    let Some(budget) = over.next() else { return Ok(Verdict::Delete) };
    if over.next().is_some() {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(ApiError::new(Reason::InternalError, why));
    }
    // A pod that is not ready is counted nowhere: to take it away costs the budget nothing.
    let count = |key: &str| number(budget, &["status", key]).unwrap_or(0);
    let is_free = text(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
        || (count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0);
    if !is_ready(pod) && is_free {
        return Ok(Verdict::DeleteThisVersion(Some(budget.name())));
    }
    Ok(Verdict::Take(budget))
}

/// Whether the budget selects the pod. No selector selects nothing, an empty one everything.
fn covers(budget: &Value, pod: &Value) -> bool {
    let Some(selector) = at(budget, &["spec", "selector"]) else { return false };
    from_label_selector(selector).is_ok_and(|selector| selector.matches(object::map(pod, &["metadata", "labels"])))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = list(pod, &["status", "conditions"]);
    conditions.iter().any(|one| text(one, &["type"]) == "Ready" && text(one, &["status"]) == "True")
}

/// The budget after one disruption was taken from it for the pod of this name.
///
/// # Errors
/// It has none to give now (429), or its numbers are beyond belief (403).
pub fn take(kind: &KindInfo, budget: &Value, pod: &str, now: Timestamp) -> Result<Value, ApiError> {
    let name = budget.name();
    if number(budget, &["status", "observedGeneration"]).unwrap_or(0) < budget.generation() {
        return Err(still_processing(name));
    }
    let allowed = number(budget, &["status", "disruptionsAllowed"]).unwrap_or(0);
    let disrupted = object::map(budget, &["status", "disruptedPods"]).map_or(0, Map::len);
    if allowed < 0 {
        return Err(beyond_belief(kind, name, "pdb disruptions allowed is negative", None));
    }
    if disrupted > DISRUPTED_PODS_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(beyond_belief(kind, name, why, Some("too many pending evictions not confirmed by PDB controller")));
    }
    if allowed == 0 {
        return Err(refusal(why_not(budget), 0));
    }
    let mut new = budget.clone();
    object::set(&mut new, &["status"], "disruptionsAllowed", allowed - 1);
    object::set(&mut new, &["status", "disruptedPods"], pod, object::time(now));
    if allowed == 1 {
        set_allowed(&mut new, now);
    }
    Ok(new)
}

/// Says that the budget's controller has not looked at it since it changed, or the pod changed while it was judged.
pub fn still_processing(budget: &str) -> ApiError {
    refusal(format!("The disruption budget {budget} is still being processed by the server."), RETRY_SECONDS)
}

/// Marks a pod as being evicted, for whoever sees it go.
pub fn mark(pod: &mut Value, now: Timestamp) {
    let mut conditions = list(pod, &["status", "conditions"]).to_vec();
    conditions.retain(|one| text(one, &["type"]) != "DisruptionTarget");
    conditions.push(json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": object::time(now),
    }));
    object::set(pod, &["status"], "conditions", conditions);
}

/// The budget's condition, from the number of disruptions that it allows.
fn set_allowed(budget: &mut Value, now: Timestamp) {
    let allowed = number(budget, &["status", "disruptionsAllowed"]).unwrap_or(0) > 0;
    let (status, reason) =
        if allowed { ("True", reason::SUFFICIENT_PODS) } else { ("False", reason::INSUFFICIENT_PODS) };
    let mut conditions = list(budget, &["status", "conditions"]).to_vec();
    let old = conditions.iter().position(|one| text(one, &["type"]) == DISRUPTION_ALLOWED);
    let old = old.map(|index| conditions.remove(index));
    let same = old.filter(|old| text(old, &["status"]) == status);
    let since = same.as_ref().and_then(|old| at(old, &["lastTransitionTime"]).cloned());
    conditions.push(json!({
        "type": DISRUPTION_ALLOWED, "status": status, "reason": reason, "message": "",
        "lastTransitionTime": since.unwrap_or_else(|| json!(object::time(now))),
        "observedGeneration": number(budget, &["status", "observedGeneration"]).unwrap_or(0),
    }));
    object::set(budget, &["status"], "conditions", conditions);
}

fn why_not(budget: &Value) -> String {
    let name = budget.name();
    let count = |key: &str| number(budget, &["status", key]).unwrap_or(0);
    let (desired, current) = (count("desiredHealthy"), count("currentHealthy"));
    let condition = list(budget, &["status", "conditions"]).iter().find(|one| {
        text(one, &["type"]) == DISRUPTION_ALLOWED
            && text(one, &["status"]) == "False"
            && !text(one, &["message"]).is_empty()
    });
    let said = condition.map(|one| (text(one, &["reason"]), text(one, &["message"])));
    let refused = format!("The disruption budget {name} does not allow evicting pods currently");
    match said {
        // The counts mean nothing then.
        Some((reason::SYNC_FAILED, message)) => format!("{refused} because it failed sync: {message}"),
        _any if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some((reason, message)) => format!("{refused} ({reason}): {message}"),
        None => refused,
    }
}

fn cause(message: String) -> Vec<Cause> {
    vec![Cause { reason: BUDGET_CAUSE, message, field: String::new() }]
}

fn refusal(why: String, seconds: u32) -> ApiError {
    let details = Details { causes: cause(why), retry_after_seconds: seconds, ..Details::default() };
    let message = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
    ApiError { reason: Reason::TooManyRequests, message, details: Some(Box::new(details)) }
}

fn beyond_belief(kind: &KindInfo, name: &str, why: &str, cause_text: Option<&str>) -> ApiError {
    let mut error = ApiError::forbidden(kind, name, why);
    if let Some(details) = &mut error.details {
        let text = cause_text.unwrap_or(why);
        details.causes = cause(format!("The disruption budget {name} does not allow evicting pods currently: {text}"));
    }
    error
}
