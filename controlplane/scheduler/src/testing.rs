//! Pods and nodes for tests, written as JSON.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn pod(spec: Value) -> Pod {
    named("pod", spec)
}

pub(crate) fn named(name: &str, spec: Value) -> Pod {
    let object = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec});
    serde_json::from_value(object).expect("because the test wrote a pod")
}

/// A pod of one container with these requests.
pub(crate) fn asking(cpu: &str, memory: &str) -> Pod {
    pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}))
}

/// A node of 4 CPUs, 8 GiB and 10 pods, with more in its spec or labels.
pub(crate) fn node(name: &str, labels: Value, spec: Value) -> Arc<Node> {
    let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
    let object =
        json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": allocatable}});
    Arc::new(serde_json::from_value(object).expect("because the test wrote a node"))
}
