//! Rules of `metadata` and of the label selectors that several kinds hold.

use serde_json::{Value, json};

use super::names;
use crate::field_error::FieldError;
use crate::kind::{KindInfo, NameRule};
use crate::object::{self, Object};

/// Bytes of all annotations together, keys and values.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Checks the metadata of an object.
pub fn metadata(kind: &KindInfo, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let check: fn(&str) -> Vec<String> = match kind.strategy.names {
        NameRule::Label => names::label,
        NameRule::Subdomain => names::subdomain,
        NameRule::Rfc1035 => names::rfc1035,
        NameRule::Path => names::path_segment,
    };
    let name = object.name();
    let base = object::text(object, &["metadata", "generateName"]);
    if !base.is_empty() {
        let shown = base.trim_end_matches('-');
        let wrong = check(shown).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid("metadata.generateName", &json!(base), why)));
    }
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        errors.extend(check(name).into_iter().map(|why| FieldError::invalid("metadata.name", &json!(name), why)));
    }
    if kind.namespaced() {
        let namespace = object.namespace();
        if namespace.is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        }
    }
    errors.extend(labels(object, &["metadata", "labels"], "metadata.labels"));
    errors.extend(annotations(object, &["metadata", "annotations"], "metadata.annotations"));
    errors.extend(owners(object));
    errors.extend(finalizers(object));
    errors
}

/// Checks what may not change in metadata.
pub fn metadata_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_deleting() {
        for added in new.finalizers().into_iter().filter(|one| !old.finalizers().contains(one)) {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{added:?}}}"
            );
            errors.push(FieldError::forbidden("metadata.finalizers", why));
        }
    }
    errors
}

/// Checks a map of labels.
pub fn labels(object: &Value, path: &[&str], field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in object::map(object, path).into_iter().flatten() {
        errors.extend(names::qualified_name(key).into_iter().map(|why| FieldError::invalid(field, &json!(key), why)));
        let wrong = names::label_value(value.as_str().unwrap_or_default()).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(field, value, why)));
    }
    errors
}

/// Checks a map of annotations.
pub fn annotations(object: &Value, path: &[&str], field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in object::map(object, path).into_iter().flatten() {
        let wrong = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(field, &json!(key), why)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long(field, ANNOTATIONS_LIMIT));
    }
    errors
}

fn owners(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controllers = Vec::new();
    for (index, owner) in object.owner_references().iter().enumerate() {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &[key]).is_empty() {
                let why = if key == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                errors.push(FieldError::invalid(format!("metadata.ownerReferences[{index}].{key}"), &owner[key], why));
            }
        }
        if owner["controller"] == true {
            controllers.push(object::text(owner, &["name"]));
        }
    }
    if controllers.len() > 1 {
        let why = "Only one reference can have Controller set to true. Found \"true\" in references for ";
        let list = format!("{} and {}", controllers[0], controllers[1]);
        let value = object::at(object, &["metadata", "ownerReferences"]).cloned().unwrap_or_default();
        errors.push(FieldError::invalid("metadata.ownerReferences", &value, format!("{why}{list}")));
    }
    errors
}

fn finalizers(object: &Value) -> Vec<FieldError> {
    let names_of = object.finalizers();
    let mut errors = Vec::new();
    for name in &names_of {
        let wrong = names::qualified_name(name).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid("metadata.finalizers", &json!(name), why)));
    }
    if names_of.contains(&crate::delete::FOREGROUND) && names_of.contains(&crate::delete::ORPHAN) {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", &json!(names_of), why));
    }
    errors
}

/// Checks a label selector in its object form; `field` is its path.
pub fn label_selector(selector: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = labels(selector, &["matchLabels"], &format!("{field}.matchLabels"));
    for (index, expression) in object::list(selector, &["matchExpressions"]).iter().enumerate() {
        let at = |key: &str| format!("{field}.matchExpressions[{index}].{key}");
        let key = object::text(expression, &["key"]);
        errors
            .extend(names::qualified_name(key).into_iter().map(|why| FieldError::invalid(at("key"), &json!(key), why)));
        let values = object::list(expression, &["values"]);
        match (object::text(expression, &["operator"]), values.is_empty()) {
            ("In" | "NotIn", true) => {
                errors.push(FieldError::required(at("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            ("Exists" | "DoesNotExist", false) => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(at("values"), why));
            }
            ("In" | "NotIn", false) | ("Exists" | "DoesNotExist", true) => {}
            (other, _) => {
                errors.push(FieldError::invalid(at("operator"), &json!(other), "not a valid selector operator"));
            }
        }
    }
    errors
}
