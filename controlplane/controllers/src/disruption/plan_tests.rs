//! A budget's status from values: upstream's arithmetic (percentages of the owners' scale, rounded up), reasons and expiry.

use super::plan::{Owners, Plan, plan};
use controlplane_client::{Cache, Object};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const NOW: i64 = 1_700_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("because the time is in range")
}

fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("because the test wrote a proper object")
}

/// Deployment `web` of `replicas` with its ReplicaSet, and a ReplicaSet `alone` of three.
struct World {
    sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
}

fn world(replicas: i32) -> World {
    let (sets, deployments) = (Cache::new(), Cache::new());
    let owned = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true}]);
    let set = |name: &str, uid: &str, replicas: i32, owners: Value| {
        read(json!({
            "metadata": {"name": name, "namespace": "default", "uid": uid, "ownerReferences": owners},
            "spec": {"replicas": replicas, "selector": {}},
        }))
    };
    sets.put(set("web-1", "r1", 1, owned.clone()));
    sets.put(set("web-2", "r2", 2, owned));
    sets.put(set("alone", "a", 3, json!([])));
    deployments.put(read(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d"},
        "spec": {"replicas": replicas, "selector": {}, "template": {}},
    })));
    World { sets, deployments }
}

fn pod(name: &str, set: &str, uid: &str, ready: bool) -> Arc<Pod> {
    let owners = match set {
        "" => json!([]),
        set => json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": uid, "controller": true}]),
    };
    let ready = if ready { "True" } else { "False" };
    Arc::new(read(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "ownerReferences": owners},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    })))
}

fn of_web(count: usize, ready: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|n| pod(&format!("p{n}"), "web-1", "r1", n < ready)).collect()
}

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    read(json!({
        "metadata": {"name": "b", "namespace": "default", "generation": 4}, "spec": spec, "status": status,
    }))
}

fn planned(spec: Value, pods: &[Arc<Pod>], replicas: i32) -> Plan {
    let world = world(replicas);
    let owners = Owners { sets: &world.sets, deployments: &world.deployments };
    plan(&budget(spec, json!({})), pods, &owners, now())
}

fn numbers(plan: &Plan) -> [i32; 4] {
    let status = plan.status.as_ref().expect("because the status was empty before");
    [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed]
        .map(|number| number.expect("because it was computed"))
}

#[test]
fn bounds_are_numbers_or_shares_of_what_the_owner_wants_rounded_up() {
    // bound, replicas, pods, of them ready; expected, desired, current, allowed
    let cases = [
        (json!({"minAvailable": 2}), 5, 3, 3, [3, 2, 3, 1]),
        (json!({"minAvailable": 5}), 5, 3, 3, [3, 5, 3, 0]),
        (json!({"minAvailable": "50%"}), 5, 5, 5, [5, 3, 5, 2]),
        (json!({"minAvailable": "28%"}), 7, 7, 7, [7, 2, 7, 5]),
        (json!({"maxUnavailable": 1}), 3, 3, 3, [3, 2, 3, 1]),
        (json!({"maxUnavailable": 1}), 3, 3, 2, [3, 2, 2, 0]),
        (json!({"maxUnavailable": "30%"}), 5, 5, 5, [5, 3, 5, 2]),
        (json!({"maxUnavailable": "1%"}), 3, 3, 3, [3, 2, 3, 1]),
        (json!({"maxUnavailable": "100%"}), 3, 3, 1, [3, 0, 1, 1]),
        (json!({"maxUnavailable": 9}), 3, 3, 3, [3, 0, 3, 3]),
        (json!({"maxUnavailable": 0}), 3, 3, 3, [3, 3, 3, 0]),
        // The owner is being scaled up: those that are missing already are disruptions.
        (json!({"maxUnavailable": 1}), 5, 3, 3, [5, 4, 3, 0]),
    ];
    for (spec, replicas, pods, ready, expected) in cases {
        let plan = planned(spec.clone(), &of_web(pods, ready), replicas);
        assert_eq!(numbers(&plan), expected, "{spec} of {replicas}, {ready} of {pods} ready");
        let condition = plan.status.and_then(|status| status.conditions).expect("because it has one").remove(0);
        let reason = if expected[3] > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), reason, "{spec}");
        assert_eq!(condition.observed_generation, Some(4));
    }
}

#[test]
fn each_owner_counts_once_and_a_deployment_for_all_its_sets() {
    let mut pods = of_web(2, 2);
    pods.push(pod("q", "web-2", "r2", true));
    assert_eq!(numbers(&planned(json!({"maxUnavailable": 0}), &pods, 6))[0], 6);
    pods.push(pod("a", "alone", "a", true));
    assert_eq!(numbers(&planned(json!({"maxUnavailable": 0}), &pods, 6))[0], 9);
}

#[test]
fn a_budget_over_no_pods_allows_nothing_and_says_so() {
    let plan = planned(json!({"maxUnavailable": 1}), &[], 3);
    assert_eq!(numbers(&plan), [0, 0, 0, 0]);
    assert_eq!(plan.events[0].1, "NoPods");
}

#[test]
fn pods_of_nobody_count_for_numbers_and_are_pointed_out_for_shares() {
    let pods = [pod("x", "", "", true), pod("y", "", "", true)];
    assert_eq!(numbers(&planned(json!({"minAvailable": 1}), &pods, 3)), [2, 1, 2, 1]);
    let plan = planned(json!({"maxUnavailable": 1}), &pods, 3);
    assert_eq!(numbers(&plan), [0, 0, 2, 0]);
    assert_eq!(plan.events[0].1, "UnmanagedPods");
}

#[test]
fn an_owner_that_cannot_be_counted_stops_all_evictions() {
    let of_node = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n", "controller": true}]);
    let mirror = read::<Pod>(json!({"metadata": {"name": "m", "namespace": "default", "ownerReferences": of_node}}));
    let gone = pod("g", "gone", "g", true);
    let cases = [
        (Arc::new(mirror), "Node does not implement the scale subresource"),
        (gone, "found no controllers for pod \"g\""),
    ];
    for (pod, why) in cases {
        let world = world(3);
        let owners = Owners { sets: &world.sets, deployments: &world.deployments };
        let before = json!({"disruptionsAllowed": 1, "observedGeneration": 3, "currentHealthy": 2});
        let plan = plan(&budget(json!({"maxUnavailable": 1}), before), &[pod], &owners, now());
        let status = plan.status.expect("because something changed");
        assert_eq!((status.disruptions_allowed, status.observed_generation), (Some(0), Some(3)));
        let condition = status.conditions.expect("because it has one").remove(0);
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SyncFailed", why));
    }
}

#[test]
fn an_evicted_pod_counts_as_gone_until_it_is_or_two_minutes_are_over() {
    let world = world(3);
    let owners = Owners { sets: &world.sets, deployments: &world.deployments };
    let ago = |seconds: i64| Timestamp::from_second(NOW - seconds).expect("because it is in range").to_string();
    let before = json!({"disruptedPods": {"p0": ago(30), "p1": ago(121), "vanished": ago(1)}, "disruptionsAllowed": 0});
    let plan = plan(&budget(json!({"minAvailable": 1}), before), &of_web(3, 3), &owners, now());
    assert_eq!(plan.not_deleted.iter().map(|pod| pod.name()).collect::<Vec<_>>(), ["p1"]);
    assert_eq!(plan.again, Some(Duration::from_millis(90_001)));
    assert_eq!(numbers(&plan), [3, 1, 2, 1]);
    let kept = plan.status.and_then(|status| status.disrupted_pods).expect("because one is still to go");
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["p0"]);
}

#[test]
fn a_status_that_is_right_is_not_written_again() {
    let world = world(3);
    let owners = Owners { sets: &world.sets, deployments: &world.deployments };
    let mut it = budget(json!({"maxUnavailable": 1}), json!({}));
    it.status = plan(&it, &of_web(3, 3), &owners, now()).status;
    let later = now() + SignedDuration::from_secs(60);
    assert_eq!(plan(&it, &of_web(3, 3), &owners, later).status, None);
    let fewer = plan(&it, &of_web(3, 2), &owners, later).status.expect("because one is not ready any more");
    let since = fewer.conditions.expect("because it has one").remove(0).last_transition_time;
    assert_eq!(since.0, later, "the condition turned");
}
