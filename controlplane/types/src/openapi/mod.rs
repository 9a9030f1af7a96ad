//! OpenAPI v3 documents, one for each group and version, made from the registry and the schemas.
//!
//! kubectl reads them for `explain`, for merge keys in `apply`, and to learn that the server knows `fieldValidation` and
//! `dryRun`. A document is some megabytes of JSON, asked for rarely: it is made when asked for and not kept.

mod paths;
mod schemas;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::discovery;
use crate::registry::Registry;
use crate::schema;

/// Changes when the documents' form changes: it goes into their hashes.
const FORM: u32 = 1;

/// Returns `/openapi/v3`: where the documents are, with hashes in their URLs so that clients may keep them.
pub fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (path, group, version) in locations(registry) {
        let resources = discovery::resource_list(registry, &group, &version).unwrap_or_default();
        let mut hash = Sha256::new();
        for part in [schema::digest(), &FORM.to_string(), &resources.to_string()] {
            hash.update(part.as_bytes());
        }
        let url = format!("/openapi/v3/{path}?hash={:X}", hash.finalize());
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// Returns `/openapi/v3/api/v1` or `/openapi/v3/apis/<group>/<version>`; `None` when nothing is served there.
pub fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    registry.in_version(group, version).next()?;
    let mut all = Map::new();
    let mut roots = vec![schemas::STATUS.to_string(), schemas::DELETE_OPTIONS.to_string()];
    for kind in registry.in_version(group, version) {
        paths::add(kind, &mut all);
        roots.push(kind.schema.name.clone());
        let bodies = kind.subresources.iter().filter_map(|one| one.body_kind());
        roots.extend(bodies.filter_map(|(group, _, kind)| schemas::of_body(group, kind)).map(str::to_string));
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": all,
        "components": {"schemas": schemas::components(registry, group, version, roots)},
    }))
}

fn locations(registry: &Registry) -> Vec<(String, String, String)> {
    let mut all = vec![("api/v1".to_string(), String::new(), "v1".to_string())];
    for (group, versions) in registry.groups() {
        all.extend(versions.into_iter().map(|version| (format!("apis/{group}/{version}"), group.clone(), version)));
    }
    all
}
