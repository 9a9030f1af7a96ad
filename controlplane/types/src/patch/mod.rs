//! Patches that turn an old object into a new one; the result goes through [`crate::write::begin_update`].

mod strategic;

use serde_json::Value;

use crate::decode::{self, Decoded, FieldValidation, Parsed};
use crate::error::{ApiError, Reason};
use crate::kind::KindInfo;

/// Operations in one JSON patch, as upstream limits them.
const JSON_OPERATIONS_LIMIT: usize = 10_000;
/// Bytes that the `copy` operations of one JSON patch may add; without a limit a few lines double an object again and again.
const JSON_COPY_LIMIT: usize = 3 * 1024 * 1024;

/// The kinds of patch, by media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902, `application/json-patch+json`.
    Json,
    /// RFC 7386, `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`; goes through [`crate::apply::apply`].
    Apply,
}

impl PatchType {
    /// All media types, for error texts.
    pub const MEDIA_TYPES: [&'static str; 4] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];

    /// Finds the patch type of a `Content-Type`, without its parameters.
    pub fn from_media_type(media_type: &str) -> Option<PatchType> {
        match media_type {
            "application/json-patch+json" => Some(PatchType::Json),
            "application/merge-patch+json" => Some(PatchType::Merge),
            "application/strategic-merge-patch+json" => Some(PatchType::Strategic),
            "application/apply-patch+yaml" => Some(PatchType::Apply),
            _ => None,
        }
    }
}

/// Applies a JSON, merge or strategic merge patch; fields that the kind does not know are dropped.
///
/// # Errors
/// The patch has the wrong shape, cannot be done on this object, or gives it a wrong shape. [`PatchType::Apply`] is refused.
pub fn patched(kind: &KindInfo, patch_type: PatchType, old: &Value, patch: Value) -> Result<Value, ApiError> {
    let patch = Parsed { value: patch, duplicates: Vec::new() };
    Ok(checked(kind, patch_type, old, patch, FieldValidation::Ignore)?.object)
}

/// Like [`patched`], with the client's choice of what happens to unknown and duplicate fields.
///
/// # Errors
/// As [`patched`]; with [`FieldValidation::Strict`] also for unknown and duplicate fields.
pub fn checked(
    kind: &KindInfo,
    patch_type: PatchType,
    old: &Value,
    patch: Parsed,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let mut new = old.clone();
    let Parsed { value, duplicates } = patch;
    match patch_type {
        PatchType::Json => json(&mut new, value)?,
        PatchType::Merge if value.is_object() => merge(&mut new, &value),
        PatchType::Merge => {
            return Err(ApiError::bad_request("error decoding patch: a merge patch is a JSON object"));
        }
        PatchType::Strategic => strategic::apply(&kind.schema, &mut new, &value)?,
        PatchType::Apply => return Err(ApiError::bad_request("an apply patch is not a patch of the stored object")),
    }
    decode::check(kind, Parsed { value: new, duplicates }, validation)
}

/// Applies an RFC 7386 merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

fn json(target: &mut Value, patch: Value) -> Result<(), ApiError> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > JSON_OPERATIONS_LIMIT {
        let text =
            format!("The allowed maximum operations in a JSON patch is {JSON_OPERATIONS_LIMIT}, got {operations}");
        return Err(ApiError::new(Reason::RequestEntityTooLarge, text));
    }
    let wrong = |error: serde_json::Error| ApiError::bad_request(format!("error decoding patch: {error}"));
    let operations: json_patch::Patch = serde_json::from_value(patch).map_err(wrong)?;
    let mut copied = 0;
    for operation in operations.0 {
        if let json_patch::PatchOperation::Copy(copy) = &operation {
            copied += target.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > JSON_COPY_LIMIT {
                let text = format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {JSON_COPY_LIMIT}"
                );
                return Err(ApiError::new(Reason::RequestEntityTooLarge, text));
            }
        }
        json_patch::patch(target, std::slice::from_ref(&operation)).map_err(|error| {
            let text = format!("the server rejected our request due to an error in our request: {error}");
            ApiError::new(Reason::Invalid, text)
        })?;
    }
    Ok(())
}
