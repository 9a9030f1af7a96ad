//! Small rules that several kinds share.

use serde_json::{Value, json};

use crate::field_error::FieldError;
use crate::object;
use crate::quantity::Quantity;

/// The text of fields that never change.
pub(super) const IMMUTABLE: &str = "field is immutable";

/// Turns texts of broken rules into errors on a field.
pub(super) fn all(field: &str, value: &Value, wrong: Vec<String>) -> Vec<FieldError> {
    wrong.into_iter().map(|why| FieldError::invalid(field, value, why)).collect()
}

/// Says that the field at the path may not change.
pub(super) fn immutable(new: &Value, old: &Value, path: &[&str]) -> Vec<FieldError> {
    let (new, old) = (object::at(new, path), object::at(old, path));
    if new == old {
        return Vec::new();
    }
    vec![FieldError::invalid(path.join("."), new.unwrap_or(&Value::Null), IMMUTABLE)]
}

/// Says that a number, where it is set, may not be below zero.
pub(super) fn not_negative(object: &Value, path: &[&str], field: &str) -> Vec<FieldError> {
    match object::number(object, path) {
        Some(number) if number < 0 => {
            vec![FieldError::invalid(field, &json!(number), "must be greater than or equal to 0")]
        }
        Some(_) | None => Vec::new(),
    }
}

/// Says that a text, where it is set, is one of a few.
pub(super) fn one_of(object: &Value, path: &[&str], field: &str, supported: &[&str]) -> Vec<FieldError> {
    match object::text(object, path) {
        "" => Vec::new(),
        text if supported.contains(&text) => Vec::new(),
        text => vec![FieldError::not_supported(field, &json!(text), supported)],
    }
}

/// Like [`one_of`], for texts that have to be set.
pub(super) fn required_one_of(object: &Value, path: &[&str], field: &str, supported: &[&str]) -> Vec<FieldError> {
    if object::text(object, path).is_empty() {
        let list: Vec<String> = supported.iter().map(|one| format!("\"{one}\"")).collect();
        return vec![FieldError::required(field, format!("supported values: {}", list.join(", ")))];
    }
    one_of(object, path, field, supported)
}

/// Reads the quantity at a key of a map.
pub(super) fn quantity(map: Option<&serde_json::Map<String, Value>>, key: &str) -> Option<Quantity> {
    map?.get(key)?.as_str()?.parse().ok()
}

/// Reads `25%`.
pub(super) fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// Says that the value is a number of pods or a percentage, perhaps of at most 100.
pub(super) fn share(value: &Value, field: &str, at_most_all: bool) -> Vec<FieldError> {
    match (value.as_i64(), percent(value)) {
        (Some(number), _) if number < 0 => {
            vec![FieldError::invalid(field, value, "must be greater than or equal to 0")]
        }
        (None, None) => {
            let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            vec![FieldError::invalid(field, value, why)]
        }
        (None, Some(percent)) if at_most_all && percent > 100 => {
            vec![FieldError::invalid(field, value, "must not be greater than 100%")]
        }
        (_, _) => Vec::new(),
    }
}
