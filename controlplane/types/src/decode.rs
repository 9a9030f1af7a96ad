//! Reads request bodies: JSON text to an object, duplicate and unknown fields found, types checked.
//!
//! YAML is turned into a `Value` by the caller; from there the way is the same ([`check`]).

mod json;
mod shape;

use serde_json::Value;

use crate::error::ApiError;
use crate::kind::KindInfo;

/// What happens to unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped silently.
    Ignore,
    /// They are dropped, and the client is told by `Warning` headers.
    Warn,
    /// The request is refused.
    #[default]
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; `None` and an empty text give `default`.
    ///
    /// # Errors
    /// `BadRequest` for anything but `Ignore`, `Warn` and `Strict`.
    pub fn parse(text: Option<&str>, default: FieldValidation) -> Result<Self, ApiError> {
        match text.unwrap_or_default() {
            "" => Ok(default),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Warn" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// JSON text as a value, with the paths of fields that occur twice (the last one counts).
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The value.
    pub value: Value,
    /// E.g. `spec.replicas`.
    pub duplicates: Vec<String>,
}

/// An object that has the shape of its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object; unknown fields and nulls are gone.
    pub object: Value,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Parses a JSON body.
///
/// # Errors
/// `BadRequest` when the text is not one JSON value.
pub fn parse(body: &[u8]) -> Result<Parsed, ApiError> {
    json::parse(body)
}

/// Checks the value against the kind's schema.
///
/// # Errors
/// `BadRequest` when a field has the wrong type, or (with [`FieldValidation::Strict`]) is unknown or occurs twice.
pub fn check(kind: &KindInfo, parsed: Parsed, validation: FieldValidation) -> Result<Decoded, ApiError> {
    let Parsed { mut value, duplicates } = parsed;
    if !value.is_object() {
        return Err(ApiError::bad_request(format!(
            "couldn't get version/kind; json parse error: the body is {} and not an object",
            shape::type_name(&value)
        )));
    }
    let mut unknown = Vec::new();
    shape::conform(&kind.schema, &mut value, &mut unknown).map_err(|problem| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {problem}",
            kind.kind, kind.version, kind.kind
        ))
    })?;
    let complaints: Vec<String> = (unknown.into_iter().map(|path| format!("unknown field \"{path}\"")))
        .chain(duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")))
        .collect();
    match validation {
        FieldValidation::Strict if !complaints.is_empty() => Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            complaints.join(", ")
        ))),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Decoded { object: value, warnings: Vec::new() }),
        FieldValidation::Warn => Ok(Decoded { object: value, warnings: complaints }),
    }
}

/// Parses and checks a JSON body.
///
/// # Errors
/// As [`parse`] and [`check`].
pub fn decode(kind: &KindInfo, body: &[u8], validation: FieldValidation) -> Result<Decoded, ApiError> {
    check(kind, parse(body)?, validation)
}
