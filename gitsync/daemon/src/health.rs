//! Whether an object does what it says, by its own status: the rules of `kubectl rollout status`. Pure.
//!
//! A step is healthy when every object of it is. Old pods that still answer do not make a step healthy whose new ones never do:
//! that is what reverting is for.

use controlplane_client::DynamicObject;
use gitsync_plan::ObjectKey;
use serde_json::Value;

/// Whether an object does what it should. Kinds without a rollout do as soon as they are there.
pub(crate) fn is_healthy(key: &ObjectKey, object: &DynamicObject) -> bool {
    let rollout = Rollout { spec: object.rest.get("spec"), status: object.rest.get("status") };
    let done = match (key.group.as_str(), key.kind.as_str()) {
        ("apps", "Deployment") => rollout.deployment(),
        ("apps", "StatefulSet") => rollout.stateful_set(),
        ("apps", "DaemonSet") => rollout.daemon_set(),
        _ => return true,
    };
    rollout.of_status("observedGeneration") >= object.metadata.generation.unwrap_or(0) && done
}

/// An object's wish and what became of it.
struct Rollout<'a> {
    spec: Option<&'a Value>,
    status: Option<&'a Value>,
}

impl Rollout<'_> {
    /// A number of the status; one that is not there is 0, as in Kubernetes.
    fn of_status(&self, name: &str) -> i64 {
        self.status.and_then(|status| status.get(name)).and_then(Value::as_i64).unwrap_or(0)
    }

    fn replicas(&self) -> i64 {
        self.spec.and_then(|spec| spec.get("replicas")).and_then(Value::as_i64).unwrap_or(1)
    }

    /// All pods are of the newest template, no older one is left, and all are available.
    fn deployment(&self) -> bool {
        let updated = self.of_status("updatedReplicas");
        updated >= self.replicas()
            && self.of_status("replicas") <= updated
            && self.of_status("availableReplicas") >= updated
    }

    /// All pods are ready and of the newest revision, where the set updates them by itself.
    fn stateful_set(&self) -> bool {
        let revision = |name: &str| self.status.and_then(|status| status.get(name)).and_then(Value::as_str);
        let strategy = self.spec.and_then(|spec| spec.pointer("/updateStrategy/type")).and_then(Value::as_str);
        let newest = strategy == Some("OnDelete") || revision("currentRevision") == revision("updateRevision");
        newest && self.of_status("readyReplicas") >= self.replicas()
    }

    /// Every node that should has a pod of the newest template, and it is available.
    fn daemon_set(&self) -> bool {
        let wanted = self.of_status("desiredNumberScheduled");
        self.of_status("updatedNumberScheduled") >= wanted && self.of_status("numberAvailable") >= wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn healthy(kind: &str, object: Value) -> bool {
        let group = if kind == "ConfigMap" { "" } else { "apps" };
        let key = ObjectKey {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: "hello".to_owned(),
            name: "hello".to_owned(),
        };
        is_healthy(&key, &serde_json::from_value(object).expect("because it is an object"))
    }

    fn deployment(status: Value) -> bool {
        healthy("Deployment", json!({ "metadata": { "generation": 3 }, "spec": { "replicas": 2 }, "status": status }))
    }

    #[test]
    fn a_deployment_is_healthy_when_all_its_pods_are_new_and_available() {
        let all = json!({ "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
        assert!(deployment(all));
        let old_ones_answer =
            json!({ "observedGeneration": 3, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2 });
        assert!(!deployment(old_ones_answer));
        let an_old_one_is_left =
            json!({ "observedGeneration": 3, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3 });
        assert!(!deployment(an_old_one_is_left));
        let not_seen_yet =
            json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
        assert!(!deployment(not_seen_yet));
        assert!(!deployment(Value::Null));
    }

    #[test]
    fn a_daemon_set_and_a_stateful_set_wait_for_the_newest_template_too() {
        let set = |updated| {
            let status =
                json!({ "desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": 2 });
            healthy("DaemonSet", json!({ "spec": {}, "status": status }))
        };
        assert!(set(2) && !set(1));
        let stateful = |current: &str, kind: &str| {
            let status = json!({ "readyReplicas": 1, "currentRevision": current, "updateRevision": "b" });
            healthy("StatefulSet", json!({ "spec": { "updateStrategy": { "type": kind } }, "status": status }))
        };
        assert!(stateful("b", "RollingUpdate") && !stateful("a", "RollingUpdate") && stateful("a", "OnDelete"));
    }

    #[test]
    fn what_has_no_rollout_is_healthy_as_soon_as_it_is_there() {
        assert!(healthy("ConfigMap", json!({ "data": {} })));
    }
}
