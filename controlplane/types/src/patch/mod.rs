//! Patches that turn an old object into a new one; the result goes through [`crate::write::begin_update`].

use serde_json::Value;

use crate::error::ApiError;
use crate::kind::KindInfo;

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

/// Applies a JSON, merge or strategic merge patch.
///
/// # Errors
/// The patch has the wrong shape, or cannot be done on this object. [`PatchType::Apply`] is refused.
pub fn patched(kind: &KindInfo, patch_type: PatchType, old: &Value, patch: Value) -> Result<Value, ApiError> {
    let _ = kind;
    let mut new = old.clone();
    match patch_type {
        PatchType::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            json_patch::patch(&mut new, &operations).map_err(|error| {
                ApiError::new(
                    crate::Reason::Invalid,
                    format!("the server rejected our request due to an error in our request: {error}"),
                )
            })?;
        }
        PatchType::Merge | PatchType::Strategic => merge(&mut new, &patch),
        PatchType::Apply => return Err(ApiError::bad_request("an apply patch is not a patch of the stored object")),
    }
    Ok(new)
}

/// Applies an RFC 7386 merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}
