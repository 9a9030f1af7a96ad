//! The `components` of a document: the schemas that its kinds need, in the form that Kubernetes publishes.

use serde_json::{Map, Value, json};

use crate::kind::KindInfo;
use crate::registry::Registry;
use crate::schema::{Definitions, ListType, MergeRule, definitions, rule};

/// Definition of `Status`.
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// Definition of `DeleteOptions`.
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// Definition of patches, which have no shape of their own.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const PREFIX: &str = "#/components/schemas/";

/// Returns the definition of what is sent to a subresource.
pub(super) fn of_body(group: &str, kind: &str) -> Option<&'static str> {
    match (group, kind) {
        ("autoscaling", "Scale") => Some("io.k8s.api.autoscaling.v1.Scale"),
        ("", "Binding") => Some("io.k8s.api.core.v1.Binding"),
        ("policy", "Eviction") => Some("io.k8s.api.policy.v1.Eviction"),
        ("authentication.k8s.io", "TokenRequest") => Some("io.k8s.api.authentication.v1.TokenRequest"),
        _ => None,
    }
}

/// Returns a reference to a definition.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{PREFIX}{name}")})
}

/// Returns the definition of a kind's list.
pub(super) fn list_name(kind: &KindInfo) -> String {
    format!("{}List", kind.schema.name)
}

/// Collects the definitions that can be reached from `roots`, and the lists of the version's kinds.
pub(super) fn components(registry: &Registry, group: &str, version: &str, roots: Vec<String>) -> Map<String, Value> {
    let definitions = definitions();
    let mut components = Map::new();
    let mut open = roots;
    open.push(LIST_META.into());
    while let Some(name) = open.pop() {
        if components.contains_key(&name) {
            continue;
        }
        let mut made = published(&name, &definitions);
        references(&made, &mut open);
        if let Some(kinds) = kinds_of(registry, &name) {
            made["x-kubernetes-group-version-kind"] = kinds;
        }
        components.insert(name, made);
    }
    for kind in registry.in_version(group, version) {
        components.insert(list_name(kind), list(kind));
    }
    let patch = "Patch is provided to give a concrete name and type to the body of a PATCH request.";
    components.insert(PATCH.into(), json!({"type": "object", "description": patch}));
    components
}

fn kinds_of(registry: &Registry, name: &str) -> Option<Value> {
    let one = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    if name == STATUS || name == DELETE_OPTIONS {
        let kind = name.rsplit_once('.').map_or(name, |(_, kind)| kind);
        return Some(json!([one("", "v1", kind)]));
    }
    let mut kinds: Vec<Value> = Vec::new();
    for kind in registry.kinds() {
        if kind.schema.name == name {
            kinds.push(one(&kind.group, &kind.version, &kind.kind));
        }
        let bodies = kind.subresources.iter().filter_map(|one| one.body_kind());
        for (group, version, body) in bodies.filter(|(group, _, body)| of_body(group, body) == Some(name)) {
            let body = one(group, version, body);
            if !kinds.contains(&body) {
                kinds.push(body);
            }
        }
    }
    (!kinds.is_empty()).then(|| json!(kinds))
}

fn list(kind: &KindInfo) -> Value {
    let name = format!("{}List", kind.kind);
    json!({
        "type": "object",
        "description": format!("{name} is a list of {}.", kind.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Group and version of this representation."},
            "kind": {"type": "string", "description": "Kind of this list."},
            "metadata": {"allOf": [reference(LIST_META)], "default": {}, "description": "Standard list metadata."},
            "items": {
                "type": "array", "description": format!("The {}.", kind.plural),
                "items": {"allOf": [reference(&kind.schema.name)], "default": {}},
            },
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": name}],
    })
}

fn references(json: &Value, into: &mut Vec<String>) {
    match json {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(PREFIX)) {
                into.push(target.to_string());
            }
            map.values().for_each(|value| references(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, into)),
        _ => {}
    }
}

/// Brings a definition into the published form.
fn published(name: &str, definitions: &Definitions) -> Value {
    let description = definitions.get(name).map(|json| json["description"].clone()).unwrap_or_default();
    match name {
        QUANTITY => return json!({"description": description, "oneOf": [{"type": "string"}, {"type": "number"}]}),
        INT_OR_STRING => {
            let forms = json!([{"type": "integer"}, {"type": "string"}]);
            return json!({"description": description, "format": "int-or-string", "oneOf": forms});
        }
        _ => {}
    }
    let mut made = definitions.get(name).cloned().unwrap_or_else(|| json!({"type": "object"}));
    if rule(name, "-").atomic {
        made["x-kubernetes-map-type"] = json!("atomic");
    }
    for (field, json) in made.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        *json = property(json.take(), &rule(name, field));
    }
    made
}

fn property(mut json: Value, rule: &MergeRule) -> Value {
    if let Some(items) = json.get_mut("items") {
        *items = property(items.take(), &MergeRule::default());
    }
    if let Some(values) = json.get_mut("additionalProperties").filter(|values| values.is_object()) {
        *values = property(values.take(), &MergeRule::default());
    }
    // OpenAPI 3.0 ignores what stands beside a reference, so the reference goes into an allOf.
    if let Some(target) = json.as_object_mut().and_then(|map| map.remove("$ref")) {
        json["allOf"] = json!([{"$ref": target}]);
    }
    if json["type"] == "array" {
        json["x-kubernetes-list-type"] = match &rule.list {
            ListType::Atomic => json!("atomic"),
            ListType::Set => json!("set"),
            ListType::Map(keys) => {
                json["x-kubernetes-list-map-keys"] = json!(keys);
                json!("map")
            }
        };
    }
    if rule.atomic {
        json["x-kubernetes-map-type"] = json!("atomic");
    }
    let strategies = [("merge", rule.patch_merge), ("retainKeys", rule.retain_keys)];
    let strategy: Vec<&str> = strategies.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    if !strategy.is_empty() {
        json["x-kubernetes-patch-strategy"] = json!(strategy.join(","));
    }
    if !rule.patch_key.is_empty() {
        json["x-kubernetes-patch-merge-key"] = json!(rule.patch_key);
    }
    json
}
