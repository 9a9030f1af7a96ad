//! What a budget's status should say. Pure; upstream's arithmetic, reasons and events.

use crate::pods::is_ready;
use controlplane_client::{Cache, EventType, Kind, Object, ObjectKey};
use controlplane_types::eviction::{DISRUPTION_ALLOWED, reason};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an evicted pod may still be there unmarked before it counts as healthy again: whoever evicted it died in between.
pub(super) const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

/// Where the scale of a pod's owner is looked up. Kinds that can be scaled join here.
pub(super) struct Owners<'a> {
    pub(super) sets: &'a Cache<ReplicaSet>,
    pub(super) deployments: &'a Cache<Deployment>,
}

/// What is to be written and said.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The new status, where it differs.
    pub(super) status: Option<PodDisruptionBudgetStatus>,
    /// For people, about the budget; said when the status changes.
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// Evicted pods that were not deleted in time.
    pub(super) not_deleted: Vec<Arc<Pod>>,
    /// When an evicted pod counts again.
    pub(super) again: Option<Duration>,
}

/// How many pods there should be, and how many of them healthy.
struct Expected {
    pods: i32,
    healthy: i32,
    unmanaged: bool,
}

/// Plans the status of a budget over these pods.
pub(super) fn plan(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], owners: &Owners<'_>, now: Timestamp) -> Plan {
    let old = budget.status.clone().unwrap_or_default();
    let mut plan = Plan::default();
    let expected = match expected(budget, pods, owners) {
        Ok(expected) => expected,
        Err(why) => {
            let what = format!("Failed to calculate the number of expected pods: {why}");
            plan.events.push((EventType::Warning, "CalculateExpectedPodCountFailed", what));
            plan.status = differing(&old, failed(&old, why, now));
            return plan;
        }
    };
    if pods.is_empty() {
        plan.events.push((EventType::Normal, "NoPods", "No matching pods found".to_owned()));
    }
    if expected.unmanaged {
        plan.events.push((EventType::Warning, "UnmanagedPods", UNMANAGED.to_owned()));
    }
    let disrupted = still_disrupted(&old, pods, now, &mut plan);
    let counts = |pod: &&Arc<Pod>| !pod.is_terminating() && !disrupted.contains_key(pod.name()) && is_ready(pod);
    let current = i32::try_from(pods.iter().filter(counts).count()).unwrap_or(i32::MAX);
    // A budget without pods allows nothing, so that it is safe when the first ones come and this was not computed again yet.
    let allowed = if expected.pods > 0 { (current - expected.healthy).max(0) } else { 0 };
    let generation = budget.metadata.generation;
    let (holds, why) =
        if allowed > 0 { ("True", reason::SUFFICIENT_PODS) } else { ("False", reason::INSUFFICIENT_PODS) };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(with_condition(&old, holds, why, String::new(), generation, now)),
        current_healthy: Some(current),
        desired_healthy: Some(expected.healthy),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected.pods),
        observed_generation: generation,
    };
    plan.status = differing(&old, status);
    plan
}

const UNMANAGED: &str = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB \
    cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
    \".spec.minAvailable\" field of the PDB to an integer value.";

fn differing(old: &PodDisruptionBudgetStatus, new: PodDisruptionBudgetStatus) -> Option<PodDisruptionBudgetStatus> {
    (*old != new).then_some(new)
}

/// Fails safe: nothing may be evicted while nobody knows how much is enough.
fn failed(old: &PodDisruptionBudgetStatus, why: String, now: Timestamp) -> PodDisruptionBudgetStatus {
    let conditions = with_condition(old, "False", reason::SYNC_FAILED, why, old.observed_generation, now);
    PodDisruptionBudgetStatus { disruptions_allowed: Some(0), conditions: Some(conditions), ..old.clone() }
}

fn with_condition(
    old: &PodDisruptionBudgetStatus,
    status: &str,
    reason: &str,
    message: String,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let before = conditions.iter().find(|one| one.type_ == DISRUPTION_ALLOWED && one.status == status);
    let since = before.map_or(Time(now), |one| one.last_transition_time.clone());
    conditions.retain(|one| one.type_ != DISRUPTION_ALLOWED);
    conditions.push(Condition {
        type_: DISRUPTION_ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation,
        last_transition_time: since,
    });
    conditions
}

fn expected(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], owners: &Owners<'_>) -> Result<Expected, String> {
    let spec = budget.spec.as_ref();
    let all = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    if let Some(most) = spec.and_then(|spec| spec.max_unavailable.as_ref()) {
        let (scale, unmanaged) = scale(pods, owners)?;
        return Ok(Expected { pods: scale, healthy: (scale - share(most, scale)?).max(0), unmanaged });
    }
    match spec.and_then(|spec| spec.min_available.as_ref()) {
        Some(IntOrString::Int(least)) => Ok(Expected { pods: all, healthy: *least, unmanaged: false }),
        Some(percent @ IntOrString::String(_)) => {
            let (scale, unmanaged) = scale(pods, owners)?;
            Ok(Expected { pods: scale, healthy: share(percent, scale)?, unmanaged })
        }
        None => Ok(Expected { pods: 0, healthy: 0, unmanaged: false }),
    }
}

/// A number as it is, a percentage of `total` rounded up.
fn share(bound: &IntOrString, total: i32) -> Result<i32, String> {
    match bound {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| format!("invalid value for IntOrString: {text:?}"))?;
            i32::try_from((percent * i64::from(total) + 99) / 100).map_err(|_| format!("{text} of {total} is too many"))
        }
    }
}

/// The sum of what the owners of the pods ask for, each owner once; and whether a pod has none.
fn scale(pods: &[Arc<Pod>], owners: &Owners<'_>) -> Result<(i32, bool), String> {
    let (mut scales, mut unmanaged) = (BTreeMap::new(), false);
    for pod in pods {
        let Some(owner) = pod.controller() else {
            unmanaged = true;
            continue;
        };
        let found = owners.scale(owner, pod.namespace().unwrap_or_default())?;
        let (uid, replicas) = found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.name()))?;
        scales.insert(uid, replicas);
    }
    Ok((scales.values().fold(0, |sum: i32, one| sum.saturating_add(*one)), unmanaged))
}

/// Whether an owner is of this kind, whatever the version.
fn is<K: Kind>(owner: &OwnerReference) -> bool {
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    owner.kind == K::RESOURCE.kind && group == K::RESOURCE.group
}

impl Owners<'_> {
    /// Uid and wanted pods of an owner, or of the Deployment behind it. Nothing when it is gone.
    fn scale(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<(String, i32)>, String> {
        let found = |name: &str| ObjectKey::in_namespace(namespace, name);
        if !is::<ReplicaSet>(owner) {
            return Err(format!("{} does not implement the scale subresource", owner.kind));
        }
        let Some(set) = self.sets.get(&found(&owner.name)).filter(|set| set.uid() == owner.uid) else {
            return Ok(None);
        };
        if let Some(above) = set.controller().filter(|above| is::<Deployment>(above))
            && let Some(deployment) = self.deployments.get(&found(&above.name)).filter(|it| it.uid() == above.uid)
        {
            let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            return Ok(Some((deployment.uid().to_owned(), replicas)));
        }
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        Ok(Some((set.uid().to_owned(), replicas)))
    }
}

/// The evicted pods that are still to go: not those that are gone or marked, and not those whose time is over.
fn still_disrupted(
    old: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut kept = BTreeMap::new();
    let limit = SignedDuration::try_from(DELETION_TIMEOUT).unwrap_or(SignedDuration::MAX);
    for pod in pods.iter().filter(|pod| !pod.is_terminating()) {
        let Some(since) = old.disrupted_pods.as_ref().and_then(|pods| pods.get(pod.name())) else { continue };
        let left = limit - now.duration_since(since.0);
        if left.is_negative() {
            plan.not_deleted.push(Arc::clone(pod));
            continue;
        }
        kept.insert(pod.name().to_owned(), since.clone());
        let left = Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1);
        plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
    }
    kept
}
