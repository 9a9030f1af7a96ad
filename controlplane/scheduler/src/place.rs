//! The decision.

use crate::filter::{Needs, reasons};
use crate::requests::usual_requests;
use crate::score::{Candidate, scores};
use crate::snapshot::{Snapshot, manager};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// To this node.
    Bind {
        /// The node's name.
        node: String,
    },
    /// Nowhere for now.
    Unschedulable {
        /// Why, for people, as `kubectl describe` shows it.
        message: String,
    },
}

/// Decides where a pod should run. Of equally good nodes the one with fewer pods wins, then the first by name.
#[must_use]
pub fn place(pod: &Pod, snapshot: &Snapshot) -> Decision {
    let Some(needs) = Needs::of(pod) else {
        return Decision::Unschedulable { message: "the pod has no spec".to_owned() };
    };
    let mut against: BTreeMap<String, usize> = BTreeMap::new();
    let mut candidates = Vec::new();
    let mut names = Vec::new();
    let mut nodes = 0;
    for (name, node, place) in snapshot.places() {
        nodes += 1;
        let reasons = reasons(&needs, node, place);
        if reasons.is_empty() {
            candidates.push(Candidate { node, place });
            names.push(name);
        }
        for reason in reasons {
            *against.entry(reason).or_default() += 1;
        }
    }
    let scores = scores(needs.spec, &usual_requests(pod), manager(pod), &candidates);
    let best = (0..candidates.len())
        .min_by_key(|index| (std::cmp::Reverse(scores[*index]), candidates[*index].place.pods, names[*index]));
    match best {
        Some(index) => Decision::Bind { node: names[index].to_owned() },
        None if nodes == 0 => Decision::Unschedulable { message: "no nodes available to schedule pods".to_owned() },
        None => {
            let list: Vec<String> = against.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let message = format!("0/{nodes} nodes are available: {}.", list.join(", "));
            Decision::Unschedulable { message }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{asking, named, node, pod};
    use serde_json::{Value, json};

    fn nodes(names: &[&str]) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for name in names {
            snapshot.set_node(node(name, json!({"name": name}), json!({})));
        }
        snapshot
    }

    fn on(node: &str) -> Decision {
        Decision::Bind { node: node.to_owned() }
    }

    fn refused(message: &str) -> Decision {
        Decision::Unschedulable { message: message.to_owned() }
    }

    fn one_container(more: Value) -> Pod {
        let mut spec = json!({"containers": [{"name": "c"}]});
        for (key, value) in more.as_object().expect("because the test wrote an object") {
            spec[key] = value.clone();
        }
        pod(spec)
    }

    #[test]
    fn without_nodes_it_says_so() {
        assert_eq!(place(&asking("1", "1Gi"), &Snapshot::new()), refused("no nodes available to schedule pods"));
    }

    #[test]
    fn reasons_are_counted_over_all_nodes() {
        let mut snapshot = nodes(&["a", "b"]);
        snapshot.set_node(node("c", json!({}), json!({"unschedulable": true})));
        let message = "0/3 nodes are available: 3 Insufficient cpu, 1 node(s) were unschedulable.";
        assert_eq!(place(&asking("5", "1Gi"), &snapshot), refused(message));
    }

    #[test]
    fn the_emptier_node_wins_and_ties_go_by_name() {
        let mut snapshot = nodes(&["a", "b"]);
        assert_eq!(place(&asking("1", "1Gi"), &snapshot), on("a"));
        snapshot.assume(&asking("1", "2Gi"), "a");
        assert_eq!(place(&asking("1", "1Gi"), &snapshot), on("b"));
    }

    #[test]
    fn pods_of_one_controller_are_spread_even_when_they_ask_for_nothing() {
        let mut snapshot = nodes(&["a", "b", "c"]);
        let mut places = Vec::new();
        for number in 0..3 {
            let mut pod = named(&format!("p{number}"), json!({"containers": [{"name": "c"}]}));
            let owner =
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
            pod.metadata.owner_references = serde_json::from_value(owner).expect("because it is a list of owners");
            let Decision::Bind { node } = place(&pod, &snapshot) else { panic!("the pod has a place") };
            snapshot.assume(&pod, &node);
            places.push(node);
        }
        assert_eq!(places, ["a", "b", "c"]);
    }

    #[test]
    fn a_taint_needs_a_toleration_of_its_key_value_and_effect() {
        let mut snapshot = Snapshot::new();
        let taint = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]});
        snapshot.set_node(node("a", json!({}), taint));
        let message = "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.";
        let tolerating = |toleration: Value| place(&one_container(json!({"tolerations": [toleration]})), &snapshot);
        assert_eq!(place(&one_container(json!({})), &snapshot), refused(message));
        assert_eq!(tolerating(json!({"key": "gpu", "value": "no"})), refused(message));
        assert_eq!(tolerating(json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"})), refused(message));
        assert_eq!(tolerating(json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"})), on("a"));
        assert_eq!(tolerating(json!({"operator": "Exists"})), on("a"));
    }

    #[test]
    fn selector_and_required_affinity_must_both_hold() {
        let snapshot = nodes(&["a", "b"]);
        assert_eq!(place(&one_container(json!({"nodeSelector": {"name": "b"}})), &snapshot), on("b"));
        let affinity = |operator: &str| {
            let expression = json!({"key": "name", "operator": operator, "values": ["a"]});
            let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
        };
        assert_eq!(place(&one_container(json!({"affinity": affinity("NotIn")})), &snapshot), on("b"));
        let both = json!({"affinity": affinity("In"), "nodeSelector": {"name": "b"}});
        let message = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
        assert_eq!(place(&one_container(both), &snapshot), refused(message));
    }

    #[test]
    fn a_preferred_node_wins_over_an_emptier_one() {
        let mut snapshot = nodes(&["a", "b"]);
        snapshot.assume(&asking("1", "1Gi"), "b");
        let expression = json!({"key": "name", "operator": "In", "values": ["b"]});
        let term = json!({"weight": 1, "preference": {"matchExpressions": [expression]}});
        let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}});
        assert_eq!(place(&one_container(json!({"affinity": affinity})), &snapshot), on("b"));
    }

    #[test]
    fn a_host_port_and_the_number_of_pods_are_limits_too() {
        let mut snapshot = nodes(&["a"]);
        let with_port = |name: &str| {
            let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
            named(name, json!({"containers": [{"name": "c", "ports": ports}]}))
        };
        snapshot.assume(&with_port("p0"), "a");
        let message = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
        assert_eq!(place(&with_port("new"), &snapshot), refused(message));
        for number in 1..10 {
            snapshot.assume(&named(&format!("p{number}"), json!({"containers": []})), "a");
        }
        let message = "0/1 nodes are available: 1 Too many pods.";
        assert_eq!(place(&asking("0", "0"), &snapshot), refused(message));
    }
}
