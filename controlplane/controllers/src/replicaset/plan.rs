//! What a ReplicaSet needs: pods to adopt, release, create, delete; and its status.

use crate::ownership::Claimed;
use crate::pods::{is_active, is_available, is_ready, node, phase, ready_since, restarts};
use controlplane_client::{Kind, Object};
use controlplane_types::selector::typed::has_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Pods created or deleted by one plan; upstream's figure. The rest comes with the next, woken by the first.
const BURST_LIMIT: usize = 500;

/// Adds to or takes from a pod's deletion order; lower goes first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What to write.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) adopt: Vec<Arc<Pod>>,
    pub(crate) release: Vec<Arc<Pod>>,
    /// How many pods of the template.
    pub(crate) create: usize,
    pub(crate) delete: Vec<Arc<Pod>>,
    /// The status, if it differs.
    pub(crate) status: Option<ReplicaSetStatus>,
    /// When a ready pod becomes available.
    pub(crate) again: Option<Duration>,
}

/// Plans. With `may_write` false the cache is known to be behind, and only status is planned.
pub(crate) fn plan(set: &ReplicaSet, claimed: &Claimed<Pod>, may_write: bool, now: Timestamp) -> Plan {
    let active: Vec<Arc<Pod>> = claimed.owned.iter().filter(|pod| is_active(pod)).cloned().collect();
    let status = status(set, &active, now);
    let mut plan = Plan {
        again: again(set, &active, now),
        status: (set.status.as_ref() != Some(&status)).then_some(status),
        ..Plan::default()
    };
    if !may_write {
        return plan;
    }
    plan.release = claimed.strays.clone();
    plan.adopt = claimed.orphans.iter().filter(|pod| is_active(pod)).cloned().collect();
    let wanted = usize::try_from(replicas(set)).unwrap_or_default();
    let have = active.len() + plan.adopt.len();
    if have < wanted {
        plan.create = (wanted - have).min(BURST_LIMIT);
    } else if have > wanted && plan.adopt.is_empty() {
        plan.delete = first_to_go(active, (have - wanted).min(BURST_LIMIT));
    }
    plan
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn min_ready_seconds(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default()
}

fn status(set: &ReplicaSet, active: &[Arc<Pod>], now: Timestamp) -> ReplicaSetStatus {
    let count = |holds: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| holds(pod)).count() as i32;
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let empty = BTreeMap::new();
    let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref()).unwrap_or(&empty);
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: Some(count(&|pod| has_all(labels, pod.metadata.labels.as_ref()))),
        ready_replicas: Some(count(&is_ready)),
        available_replicas: Some(count(&|pod| is_available(pod, min_ready_seconds(set), now))),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        terminating_replicas: set.status.as_ref().and_then(|status| status.terminating_replicas),
    }
}

fn again(set: &ReplicaSet, active: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let seconds = min_ready_seconds(set);
    let waiting = active.iter().filter(|pod| is_ready(pod) && !is_available(pod, seconds, now));
    let left = waiting.filter_map(|pod| {
        let passed = now.duration_since(ready_since(pod)?);
        // One second more, for times in the API are cut to seconds.
        let enough = jiff::SignedDuration::from_secs(i64::from(seconds) + 1);
        Duration::try_from(enough.checked_sub(passed)?).ok()
    });
    left.min()
}

/// The `count` pods whose loss hurts least, in upstream's order.
fn first_to_go(mut active: Vec<Arc<Pod>>, count: usize) -> Vec<Arc<Pod>> {
    let mut per_node: BTreeMap<String, usize> = BTreeMap::new();
    for pod in &active {
        *per_node.entry(node(pod).unwrap_or_default().to_owned()).or_default() += 1;
    }
    active.sort_by_cached_key(|pod| {
        let progress = match phase(pod) {
            "Running" => 2,
            "Unknown" => 1,
            _pending_or_new => 0,
        };
        let cost: i32 = pod.annotation(DELETION_COST).and_then(|text| text.parse().ok()).unwrap_or_default();
        let siblings = per_node.get(node(pod).unwrap_or_default()).copied().unwrap_or_default();
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // False sorts before true: first those that are not bound, not running, not ready.
        (
            node(pod).is_some(),
            progress,
            is_ready(pod),
            cost,
            Reverse(siblings),
            Reverse(ready_since(pod)),
            Reverse(restarts(pod)),
            Reverse(created),
        )
    });
    active.truncate(count);
    active
}

/// A pod of the set's template.
pub(crate) fn new_pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name())),
            namespace: set.metadata.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![set.controller_reference()]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The conditions with a failure to write pods, or without one.
pub(crate) fn failure_conditions(set: &ReplicaSet, failure: Option<&str>, now: Timestamp) -> Vec<ReplicaSetCondition> {
    const KIND: &str = "ReplicaFailure";
    let old = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let since = old.iter().find(|condition| condition.type_ == KIND).and_then(|one| one.last_transition_time.clone());
    let mut conditions: Vec<_> = old.into_iter().filter(|condition| condition.type_ != KIND).collect();
    if let Some(message) = failure {
        conditions.push(ReplicaSetCondition {
            type_: KIND.to_owned(),
            status: "True".to_owned(),
            reason: Some("FailedCreate".to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: since.or(Some(Time(now))),
        });
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::claim;
    use serde_json::{Value, json};

    fn set(replicas: i32) -> ReplicaSet {
        let object = json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "set", "generation": 3},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}},
            },
        });
        serde_json::from_value(object).expect("because the test wrote a set")
    }

    fn pod(name: &str, owner: Option<&str>, more: Value) -> Arc<Pod> {
        let owners: Vec<Value> = owner
            .into_iter()
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}))
            .collect();
        let mut object = json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}, "ownerReferences": owners},
        });
        for (key, value) in more.as_object().expect("because the test wrote an object") {
            object[key] = value.clone();
        }
        Arc::new(serde_json::from_value(object).expect("because the test wrote a pod"))
    }

    fn running(name: &str, ready: &str) -> Arc<Pod> {
        let status = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        pod(name, Some("set"), json!({"spec": {"nodeName": "n", "containers": []}, "status": status}))
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:05Z".parse().expect("because it is a time")
    }

    fn planned(set: &ReplicaSet, pods: Vec<Arc<Pod>>) -> Plan {
        let selector = &set.spec.as_ref().expect("because the test wrote one").selector;
        plan(set, &claim(set, selector, pods), true, now())
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name()).collect()
    }

    #[test]
    fn missing_pods_are_created_and_orphans_count() {
        let plan = planned(&set(3), vec![pod("orphan", None, json!({})), running("x", "True")]);
        assert_eq!(plan.create, 1);
        assert_eq!(names(&plan.adopt), ["orphan"]);
        assert!(plan.delete.is_empty());
    }

    #[test]
    fn pods_that_ended_or_are_being_deleted_are_replaced() {
        let ended = pod("ended", Some("set"), json!({"status": {"phase": "Failed"}}));
        let mut leaving = (*running("leaving", "True")).clone();
        leaving.metadata.deletion_timestamp = Some(Time(now()));
        assert_eq!(planned(&set(1), vec![ended, Arc::new(leaving)]).create, 1);
    }

    #[test]
    fn pods_that_do_least_go_first() {
        let unbound = pod("unbound", Some("set"), json!({"spec": {"containers": []}, "status": {"phase": "Pending"}}));
        let pods = vec![running("ready", "True"), running("unready", "False"), unbound];
        assert_eq!(names(&planned(&set(1), pods).delete), ["unbound", "unready"]);
    }

    #[test]
    fn pods_of_others_are_left_alone() {
        let plan = planned(&set(0), vec![pod("other", Some("somebody"), json!({}))]);
        assert!(plan.delete.is_empty() && plan.release.is_empty() && plan.adopt.is_empty());
    }

    #[test]
    fn a_pod_that_lost_its_label_is_released_and_replaced() {
        let mut stray = (*running("stray", "True")).clone();
        stray.metadata.labels = None;
        let plan = planned(&set(1), vec![Arc::new(stray)]);
        assert_eq!(names(&plan.release), ["stray"]);
        assert_eq!(plan.create, 1);
    }

    #[test]
    fn availability_waits_for_the_minimum_time() {
        let mut set = set(1);
        set.spec.as_mut().expect("because the test wrote one").min_ready_seconds = Some(10);
        let plan = planned(&set, vec![running("x", "True")]);
        let status = plan.status.expect("because there was none");
        assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), Some(0)));
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(plan.again, Some(Duration::from_secs(6)));
    }

    #[test]
    fn a_cache_that_is_behind_leads_to_no_writes_but_status() {
        let set = set(3);
        let selector = &set.spec.as_ref().expect("because the test wrote one").selector;
        let plan = plan(&set, &claim(&set, selector, vec![]), false, now());
        assert_eq!(plan.create, 0);
        assert!(plan.status.is_some());
    }
}
