//! The `scale` subresource: `autoscaling/v1 Scale` seen through an object that has `spec.replicas`.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::field_error::FieldError;
use crate::kind::KindInfo;
use crate::object::{self, Object};
use crate::selector;

/// Returns the scale of an object.
pub fn scale_of(object: &Value) -> Value {
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object::at(object, &["metadata", key]) {
            metadata[key] = value.clone();
        }
    }
    let selector = selector::from_label_selector(&object["spec"]["selector"]).map(|one| one.to_string());
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": object::number(object, &["spec", "replicas"]).unwrap_or(0)},
        "status": {
            "replicas": object::number(object, &["status", "replicas"]).unwrap_or(0),
            "selector": selector.unwrap_or_default(),
        },
    })
}

/// Returns the object with the replicas that the scale asks for, ready for [`crate::write::begin_update`].
///
/// # Errors
/// `Invalid` when replicas are below zero; a conflict when the scale is of another version of the object.
pub fn with_scale(kind: &KindInfo, object: &Value, scale: &Value) -> Result<Value, ApiError> {
    let replicas = object::number(scale, &["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
        return Err(ApiError::invalid(kind, object.name(), vec![error]));
    }
    if !matches!(scale.resource_version(), version if version.is_empty() || version == object.resource_version()) {
        return Err(ApiError::modified(kind, object.name()));
    }
    let mut new = object.clone();
    object::set(&mut new, &["spec"], "replicas", replicas);
    Ok(new)
}
