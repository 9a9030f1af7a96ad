//! What a node's agent may touch: itself, the pods bound to it, and what those pods refer to (upstream's node authorizer). And that a
//! worker's gitsync writes its own machine's object only.
//!
//! The table in [`crate::authz`] grants agents the verbs; this narrows them to objects. It only ever takes away.

use crate::authz::Attributes;
use crate::caller::{CONTROLLERS, Caller, MASTERS};
use crate::failure::Failure;
use crate::query::Query;
use crate::request::ResourcePath;
use crate::server::Inner;
use crate::storage;
use controlplane_store::Consistency;
use controlplane_types::object::{list, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// Namespace of the nodes' heartbeats.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// What a check needs to be told about the store before it can answer.
#[derive(Debug, PartialEq, Eq)]
enum Ruling {
    Yes,
    No,
    /// Yes when the pod of this name is on the node.
    PodIsMine(String),
    /// Yes when a pod on the node refers to this object.
    PodsRefer(Reference),
}

/// An object that a pod may refer to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reference {
    ConfigMap(String),
    Secret(String),
    ServiceAccount(String),
}

/// Whether a caller that the table allows may do it to this object. Callers that are no agents may.
pub(crate) async fn allows(
    server: &Inner,
    caller: &Caller,
    asked: &Attributes,
    query: &Query,
) -> Result<bool, Failure> {
    if let Some(machine) = caller.gitsync_worker() {
        let own = |path: &ResourcePath| path.subresource.is_empty() || path.name == machine;
        return Ok(asked.resource.as_ref().is_none_or(own));
    }
    let Some(node) = caller.node_name().filter(|_| !caller.in_group(MASTERS) && !caller.in_group(CONTROLLERS)) else {
        return Ok(true);
    };
    let Some(path) = &asked.resource else { return Ok(true) };
    match rule(node, path, &asked.verb, query) {
        Ruling::Yes => Ok(true),
        Ruling::No => Ok(false),
        Ruling::PodIsMine(name) => {
            let pods = pods_of(server, node, &path.namespace).await?;
            Ok(pods.iter().any(|pod| text(pod, &["metadata", "name"]) == name))
        }
        Ruling::PodsRefer(wanted) => {
            let pods = pods_of(server, node, &path.namespace).await?;
            Ok(pods.iter().any(|pod| references(pod).contains(&wanted)))
        }
    }
}

fn rule(node: &str, path: &ResourcePath, verb: &str, query: &Query) -> Ruling {
    let yes_if = |condition| if condition { Ruling::Yes } else { Ruling::No };
    let reads = matches!(verb, "get" | "list" | "watch");
    let selected = |field: &str| {
        let fields = query.get("fieldSelector").unwrap_or_default();
        let value = fields.split(',').filter_map(|term| term.split_once('='));
        value.filter(|(f, _)| *f == field).map(|(_, v)| v.trim_start_matches('=').to_owned()).next()
    };
    // A list or watch of one object by its name is a read of that object.
    let name = if path.name.is_empty() { selected("metadata.name").unwrap_or_default() } else { path.name.clone() };
    let refer = |make: fn(String) -> Reference| {
        if name.is_empty() || path.namespace.is_empty() { Ruling::No } else { Ruling::PodsRefer(make(name.clone())) }
    };
    match (path.resource.as_str(), path.subresource.as_str()) {
        ("nodes", _) => yes_if(reads || path.name == node || (verb == "create" && path.name.is_empty())),
        ("pods", _) if path.name.is_empty() => {
            yes_if(reads && selected("spec.nodeName").is_some_and(|value| value == node))
        }
        ("pods", _) => Ruling::PodIsMine(path.name.clone()),
        ("configmaps", _) => refer(Reference::ConfigMap),
        ("secrets", _) => refer(Reference::Secret),
        ("serviceaccounts", _) => refer(Reference::ServiceAccount),
        ("leases", _) => {
            let own = path.name == node || (verb == "create" && path.name.is_empty());
            yes_if(path.namespace == NODE_LEASES && own)
        }
        _ => Ruling::Yes,
    }
}

/// Pods bound to the node in a namespace.
async fn pods_of(server: &Inner, node: &str, namespace: &str) -> Result<Vec<Value>, Failure> {
    if namespace.is_empty() {
        return Ok(vec![]);
    }
    let kind = server.kind("", "v1", "pods")?;
    let pods = storage::list(&*server.store, &kind, namespace, Consistency::Local).await?;
    let bound = pods.into_iter().map(|stored| stored.object);
    Ok(bound.filter(|pod| text(pod, &["spec", "nodeName"]) == node).collect())
}

/// Everything that a pod's spec names and its agent therefore has to read.
fn references(pod: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut add = |make: fn(String) -> Reference, value: &Value, path: &[&str]| {
        let name = text(value, path);
        if !name.is_empty() {
            found.insert(make(name.to_owned()));
        }
    };
    add(Reference::ServiceAccount, pod, &["spec", "serviceAccountName"]);
    for secret in list(pod, &["spec", "imagePullSecrets"]) {
        add(Reference::Secret, secret, &["name"]);
    }
    for volume in list(pod, &["spec", "volumes"]) {
        add(Reference::ConfigMap, volume, &["configMap", "name"]);
        add(Reference::Secret, volume, &["secret", "secretName"]);
        for source in list(volume, &["projected", "sources"]) {
            add(Reference::ConfigMap, source, &["configMap", "name"]);
            add(Reference::Secret, source, &["secret", "name"]);
        }
    }
    let kinds = ["initContainers", "containers", "ephemeralContainers"];
    for container in kinds.iter().flat_map(|kind| list(pod, &["spec", kind])) {
        for variable in list(container, &["env"]) {
            add(Reference::ConfigMap, variable, &["valueFrom", "configMapKeyRef", "name"]);
            add(Reference::Secret, variable, &["valueFrom", "secretKeyRef", "name"]);
        }
        for source in list(container, &["envFrom"]) {
            add(Reference::ConfigMap, source, &["configMapRef", "name"]);
            add(Reference::Secret, source, &["secretRef", "name"]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestInfo;
    use serde_json::json;

    #[test]
    fn an_agent_is_confined_to_its_node() {
        let refer = |r| Ruling::PodsRefer(r);
        let cases = [
            ("GET", "/api/v1/nodes", Ruling::Yes),
            ("PATCH", "/api/v1/nodes/n1/status", Ruling::Yes),
            ("PATCH", "/api/v1/nodes/n2/status", Ruling::No),
            ("GET", "/api/v1/pods", Ruling::No),
            ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&watch=1", Ruling::Yes),
            ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", Ruling::No),
            ("GET", "/api/v1/pods?fieldSelector=spec.nodeName!%3Dn1", Ruling::No),
            ("PATCH", "/api/v1/namespaces/a/pods/p/status", Ruling::PodIsMine("p".into())),
            ("DELETE", "/api/v1/namespaces/a/pods/p", Ruling::PodIsMine("p".into())),
            ("GET", "/api/v1/secrets", Ruling::No),
            ("GET", "/api/v1/namespaces/a/secrets", Ruling::No),
            ("GET", "/api/v1/namespaces/a/secrets/s", refer(Reference::Secret("s".into()))),
            (
                "GET",
                "/api/v1/namespaces/a/configmaps?watch=1&fieldSelector=metadata.name%3Dc",
                refer(Reference::ConfigMap("c".into())),
            ),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", Ruling::Yes),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2", Ruling::No),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/n1", Ruling::No),
        ];
        for (method, url, expected) in cases {
            let method = http::Method::from_bytes(method.as_bytes()).expect("because the cases name real methods");
            let info = RequestInfo::parse(&method, &url.parse().expect("because the cases name real paths"));
            let path = info.resource().expect("because the cases name resources");
            assert_eq!(rule("n1", path, info.verb.as_str(), &info.query), expected, "{method} {url}");
        }
    }

    #[test]
    fn every_way_a_pod_can_name_a_secret_is_seen() {
        let pod = json!({"spec": {
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "a"}],
            "volumes": [{"secret": {"secretName": "b"}}, {"projected": {"sources": [{"secret": {"name": "c"}}]}}],
            "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "d"}}}]}],
            "containers": [{"envFrom": [{"secretRef": {"name": "e"}}, {"configMapRef": {"name": "x"}}]}],
        }});
        let names = ["a", "b", "c", "d", "e"].map(|n| Reference::Secret(n.into()));
        let found = references(&pod);
        assert!(names.iter().all(|n| found.contains(n)), "{found:?}");
        assert!(found.contains(&Reference::ConfigMap("x".into())));
        assert_eq!(found.len(), 7);
    }
}
