//! A Deployment's status: counts, and the two conditions that `kubectl rollout status` lives by.

use super::rollout::{Strategy, available, replicas, strategy, wanted};
use controlplane_client::Object;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;
use std::time::Duration;

/// Seconds without progress after which a rollout counts as failed, when the Deployment does not say.
const DEADLINE_SECONDS: i32 = 600;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const EXCEEDED: &str = "ProgressDeadlineExceeded";

/// What the new ReplicaSet and all of them say.
pub(crate) struct Sets<'a> {
    pub(crate) new: Option<&'a ReplicaSet>,
    pub(crate) all: &'a [Arc<ReplicaSet>],
    /// The new one's name, also when it is only about to be made.
    pub(crate) new_name: &'a str,
    /// It is about to be made.
    pub(crate) creating: bool,
}

/// The status as it should be.
pub(crate) fn status(deployment: &Deployment, sets: &Sets<'_>, now: Timestamp) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let count = |of: &dyn Fn(&ReplicaSet) -> i32| sets.all.iter().map(|set| of(set)).sum::<i32>();
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
    let existing = |set: &ReplicaSet| set.status.as_ref().map(|status| status.replicas).unwrap_or_default();
    let all_available = count(&available);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(count(&existing)),
        updated_replicas: Some(sets.new.map(existing).unwrap_or_default()),
        ready_replicas: Some(count(&ready)),
        available_replicas: Some(all_available),
        unavailable_replicas: Some((count(&wanted) - all_available).max(0)),
        collision_count: old.collision_count,
        terminating_replicas: None,
        conditions: None,
    };
    let conditions = old.conditions.clone().unwrap_or_default();
    let conditions = with(conditions, available_condition(deployment, all_available), now);
    let progress = progress(deployment, sets, &old, &status, now);
    status.conditions = Some(match progress {
        Some(progress) => with(conditions, progress, now),
        None => conditions,
    });
    status
}

struct Said {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
    /// Whether the time of the update is news, though nothing else may be.
    fresh: bool,
}

fn available_condition(deployment: &Deployment, available: i32) -> Said {
    let missing = match strategy(deployment) {
        Strategy::Recreate => 0,
        Strategy::Rolling { unavailable, .. } => unavailable,
    };
    let holds = available >= replicas(deployment) - missing;
    let (reason, message) = if holds {
        ("MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    Said { kind: AVAILABLE, holds, reason, message: message.to_owned(), fresh: false }
}

fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let total = Some(replicas(deployment));
    status.updated_replicas == total && status.replicas == total && status.available_replicas == total
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let counts = |status: &DeploymentStatus| {
        let updated = status.updated_replicas.unwrap_or_default();
        let old_left = status.replicas.unwrap_or_default() - updated;
        [updated, -old_left, status.ready_replicas.unwrap_or_default(), status.available_replicas.unwrap_or_default()]
    };
    counts(new).iter().zip(counts(old)).any(|(new, old)| *new > old)
}

/// What to say about progress; `None` leaves what is said.
fn progress(
    deployment: &Deployment,
    sets: &Sets<'_>,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    now: Timestamp,
) -> Option<Said> {
    let name = sets.new_name;
    let said = |holds, reason, message: String, fresh| Some(Said { kind: PROGRESSING, holds, reason, message, fresh });
    if deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true) {
        return None;
    }
    if is_complete(deployment, new) && !sets.creating {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        return said(true, "NewReplicaSetAvailable", message, false);
    }
    if sets.creating {
        return said(true, "NewReplicaSetCreated", format!("Created new replica set \"{name}\""), true);
    }
    if has_progressed(old, new) {
        return said(true, "ReplicaSetUpdated", format!("ReplicaSet \"{name}\" is progressing."), true);
    }
    let condition = find(old, PROGRESSING);
    let known = condition.map(|condition| condition.reason.clone().unwrap_or_default());
    match known.as_deref() {
        // Scaled, or a pod was lost, after a rollout that succeeded: no deadline runs.
        Some("NewReplicaSetAvailable") => None,
        Some(_) => {
            let passed = deadline_left(deployment, old, now).is_some_and(|left| left.is_zero());
            let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
            if passed { said(false, EXCEEDED, message, false) } else { None }
        }
        None => said(true, "FoundNewReplicaSet", format!("Found new replica set \"{name}\""), true),
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// How long a running rollout has until its deadline; `None` when none runs.
pub(crate) fn deadline_left(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let condition = find(status, PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some("NewReplicaSetAvailable" | EXCEEDED)) {
        return None;
    }
    let seconds = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).unwrap_or(DEADLINE_SECONDS);
    if seconds == i32::MAX {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0;
    let left = SignedDuration::from_secs(i64::from(seconds)) - now.duration_since(since);
    Some(Duration::try_from(left).unwrap_or_default())
}

/// The conditions with one said. Times change only when something is news.
fn with(mut conditions: Vec<DeploymentCondition>, said: Said, now: Timestamp) -> Vec<DeploymentCondition> {
    let status = if said.holds { "True" } else { "False" }.to_owned();
    let index = conditions.iter().position(|condition| condition.type_ == said.kind);
    let old = index.map(|index| conditions[index].clone());
    let same_status = old.as_ref().is_some_and(|old| old.status == status);
    let same = same_status && old.as_ref().is_some_and(|old| old.reason.as_deref() == Some(said.reason));
    if same && !said.fresh {
        return conditions;
    }
    let transition = old.filter(|_| same_status).and_then(|old| old.last_transition_time);
    let condition = DeploymentCondition {
        type_: said.kind.to_owned(),
        status,
        reason: Some(said.reason.to_owned()),
        message: Some(said.message),
        last_update_time: Some(Time(now)),
        last_transition_time: transition.or(Some(Time(now))),
    };
    match index {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
    conditions
}

/// Names a set for messages; a helper of the plan's, here because only conditions show it.
pub(crate) fn name_of(set: Option<&Arc<ReplicaSet>>) -> String {
    set.map(|set| set.name().to_owned()).unwrap_or_default()
}
