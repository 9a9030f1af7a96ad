//! Discovery documents, made from the registry: the classic lists and aggregated discovery (`apidiscovery.k8s.io/v2`).

use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::kind::{KindInfo, Scope, Subresource, api_version};
use crate::registry::Registry;

/// Bytes of the hash that names a storage version.
const STORAGE_HASH_BYTES: usize = 8;

/// Returns `/api`: the versions of core. `server` is what clients reach us by, e.g. `10.0.2.15:6443`.
pub fn api_versions(server: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// Returns `/apis`: all groups but core.
pub fn group_list(registry: &Registry) -> Value {
    let groups: Vec<Value> = registry.groups().iter().map(|(group, versions)| group_value(group, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// Returns `/apis/<group>`; `None` when there is no such group.
pub fn group(registry: &Registry, group: &str) -> Option<Value> {
    let groups = registry.groups();
    let (name, versions) = groups.iter().find(|(name, _)| name == group)?;
    let mut value = group_value(name, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let version = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
}

/// Returns `/api/v1` or `/apis/<group>/<version>`; `None` when nothing is served there.
pub fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in registry.in_version(group, version) {
        resources.push(resource(kind));
        resources.extend(kind.subresources.iter().map(|one| subresource(kind, *one)));
    }
    if resources.is_empty() {
        return None;
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let version = api_version(group, version);
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}))
}

fn resource(kind: &KindInfo) -> Value {
    let mut value = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced(), "kind": kind.kind,
        "verbs": kind.verbs, "storageVersionHash": storage_version_hash(kind),
    });
    if !kind.short_names.is_empty() {
        value["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        value["categories"] = json!(kind.categories);
    }
    value
}

fn subresource(kind: &KindInfo, subresource: Subresource) -> Value {
    let mut value = json!({
        "name": format!("{}/{}", kind.plural, subresource.as_str()), "singularName": "",
        "namespaced": kind.namespaced(), "kind": kind.kind, "verbs": subresource.verbs(),
    });
    if let Some((group, version, body)) = subresource.body_kind() {
        value["kind"] = json!(body);
        if !group.is_empty() {
            value["group"] = json!(group);
            value["version"] = json!(version);
        }
    }
    value
}

fn storage_version_hash(kind: &KindInfo) -> String {
    let text = format!("{}/{}/{}", kind.storage_group, kind.storage_version, kind.kind);
    let hash = Sha256::digest(text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&hash[..STORAGE_HASH_BYTES])
}

/// Returns aggregated discovery of core (`/api`).
pub fn aggregated_core(registry: &Registry) -> Value {
    aggregated_list(vec![aggregated_group(registry, "", &["v1".to_string()])])
}

/// Returns aggregated discovery of all other groups (`/apis`).
pub fn aggregated_groups(registry: &Registry) -> Value {
    let groups = registry.groups();
    aggregated_list(groups.iter().map(|(group, versions)| aggregated_group(registry, group, versions)).collect())
}

fn aggregated_list(items: Vec<Value>) -> Value {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(registry: &Registry, group: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let mut resources: Vec<Value> =
                registry.in_version(group, version).map(|kind| aggregated_resource(kind)).collect();
            resources.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
            json!({"version": version, "freshness": "Current", "resources": resources})
        })
        .collect();
    // Core has a name of nothing, which aggregated discovery leaves out.
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &KindInfo) -> Value {
    let subresources: Vec<Value> = kind.subresources.iter().map(|one| aggregated_subresource(kind, *one)).collect();
    let mut value = json!({
        "resource": kind.plural, "singularResource": kind.singular,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": match kind.scope { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
        "verbs": kind.verbs,
    });
    for (key, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            value[key] = json!(list);
        }
    }
    if !subresources.is_empty() {
        value["subresources"] = json!(subresources);
    }
    value
}

fn aggregated_subresource(kind: &KindInfo, subresource: Subresource) -> Value {
    let (group, version, name) =
        subresource.body_kind().unwrap_or((kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()));
    json!({
        "subresource": subresource.as_str(), "verbs": subresource.verbs(),
        "responseKind": {"group": group, "version": version, "kind": name},
    })
}

/// Returns an entity tag of a document, in quotes, for `ETag` and `If-None-Match`.
pub fn etag(document: &Value) -> String {
    format!("\"{}\"", hash(document))
}

/// Returns the SHA-256 of a document in upper-case hex.
pub fn hash(document: &Value) -> String {
    Sha256::digest(document.to_string().as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect()
}
