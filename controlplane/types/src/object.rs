//! Reading and writing what all objects have in common: `apiVersion`, `kind`, `metadata`.
//!
//! Reads never fail: a field that is absent or has the wrong type reads as empty. Shape is checked where objects come in
//! ([`crate::decode`]), not at each use.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kind::KindInfo;

/// Returns the text at the path, or an empty text.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the whole number at the path.
pub fn number(object: &Value, path: &[&str]) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// Returns the value at the path; null counts as absent.
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let found = path.iter().try_fold(object, |value, key| value.get(key));
    found.filter(|value| !value.is_null())
}

/// Returns the list at the path, or an empty list.
pub fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns the map at the path.
pub fn map<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    at(object, path).and_then(Value::as_object)
}

/// Returns the map at the path, making it (and its parents) where it is absent or not a map.
pub fn map_mut<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut here = object;
    for key in path {
        here = as_map(here).entry(*key).or_insert(Value::Null);
    }
    as_map(here)
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("because it was made a map just now")
}

/// Sets a field below the path.
pub fn set(object: &mut Value, path: &[&str], key: &str, value: impl Into<Value>) {
    map_mut(object, path).insert(key.into(), value.into());
}

/// Sets a field below the path unless it is there (null counts as absent).
pub fn set_default(object: &mut Value, path: &[&str], key: &str, value: impl Into<Value>) {
    let map = map_mut(object, path);
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.into(), value.into());
    }
}

/// Removes a field below the path, without making the path.
pub fn remove(object: &mut Value, path: &[&str], key: &str) -> Option<Value> {
    let parent = path.iter().try_fold(object, |value, step| value.get_mut(step))?;
    parent.as_object_mut()?.remove(key)
}

/// The common fields of an object.
pub trait Object {
    /// Returns `apiVersion`.
    fn api_version(&self) -> &str;
    /// Returns `kind`.
    fn kind(&self) -> &str;
    /// Returns `metadata.name`.
    fn name(&self) -> &str;
    /// Returns `metadata.namespace`, empty for cluster-scoped objects.
    fn namespace(&self) -> &str;
    /// Returns `metadata.uid`.
    fn uid(&self) -> &str;
    /// Returns `metadata.resourceVersion`.
    fn resource_version(&self) -> &str;
    /// Sets `metadata.resourceVersion`.
    fn set_resource_version(&mut self, revision: u64);
    /// Returns `metadata.generation`, 0 where it is not counted.
    fn generation(&self) -> i64;
    /// Returns a label's value.
    fn label(&self, key: &str) -> Option<&str>;
    /// Returns an annotation's value.
    fn annotation(&self, key: &str) -> Option<&str>;
    /// Tells whether deletion was asked for.
    fn is_deleting(&self) -> bool;
    /// Returns `metadata.finalizers`.
    fn finalizers(&self) -> Vec<&str>;
    /// Returns `metadata.ownerReferences`.
    fn owner_references(&self) -> &[Value];
    /// Returns the reference to the managing controller.
    fn controller(&self) -> Option<&Value>;
    /// Returns `metadata.creationTimestamp`.
    fn created(&self) -> Option<Timestamp>;
}

impl Object for Value {
    fn api_version(&self) -> &str {
        text(self, &["apiVersion"])
    }

    fn kind(&self) -> &str {
        text(self, &["kind"])
    }

    fn name(&self) -> &str {
        text(self, &["metadata", "name"])
    }

    fn namespace(&self) -> &str {
        text(self, &["metadata", "namespace"])
    }

    fn uid(&self) -> &str {
        text(self, &["metadata", "uid"])
    }

    fn resource_version(&self) -> &str {
        text(self, &["metadata", "resourceVersion"])
    }

    fn set_resource_version(&mut self, revision: u64) {
        set(self, &["metadata"], "resourceVersion", revision.to_string());
    }

    fn generation(&self) -> i64 {
        number(self, &["metadata", "generation"]).unwrap_or(0)
    }

    fn label(&self, key: &str) -> Option<&str> {
        at(self, &["metadata", "labels", key]).and_then(Value::as_str)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        at(self, &["metadata", "annotations", key]).and_then(Value::as_str)
    }

    fn is_deleting(&self) -> bool {
        at(self, &["metadata", "deletionTimestamp"]).is_some()
    }

    fn finalizers(&self) -> Vec<&str> {
        list(self, &["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect()
    }

    fn owner_references(&self) -> &[Value] {
        list(self, &["metadata", "ownerReferences"])
    }

    fn controller(&self) -> Option<&Value> {
        self.owner_references().iter().find(|reference| reference["controller"] == true)
    }

    fn created(&self) -> Option<Timestamp> {
        time_at(self, &["metadata", "creationTimestamp"])
    }
}

/// Reads the RFC 3339 time at the path.
pub fn time_at(object: &Value, path: &[&str]) -> Option<Timestamp> {
    text(object, path).parse().ok()
}

/// Writes a time as `metav1.Time` does: RFC 3339 in UTC, whole seconds.
pub fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes a time as `metav1.MicroTime` does: RFC 3339 in UTC, six digits of fraction.
pub fn micro_time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Makes the list object of a kind; `next` is the continue token, empty on the last page.
pub fn list_of(kind: &KindInfo, items: Vec<Value>, revision: u64, next: &str, remaining: Option<u64>) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if !next.is_empty() {
        metadata["continue"] = json!(next);
    }
    if let Some(remaining) = remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata, "items": items})
}

/// Makes the metadata-only view of an object.
pub fn partial_metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Makes the metadata-only view of a list object.
pub fn partial_metadata_list(list: &Value) -> Value {
    let items: Vec<Value> = self::list(list, &["items"]).iter().map(partial_metadata).collect();
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list["metadata"], "items": items,
    })
}
