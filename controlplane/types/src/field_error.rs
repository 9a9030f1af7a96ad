//! A broken rule of one field, with upstream's words; [`crate::ApiError::invalid`] gathers them.

use serde_json::Value;

use crate::error::Cause;

/// Which rule a field breaks, with upstream's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldProblem {
    /// The field has to be there.
    Required(String),
    /// The value (as people read it) breaks the rule in the second text.
    Invalid(String, String),
    /// The value is none of the listed ones.
    NotSupported(String, Vec<String>),
    /// The field may not be set, or not now.
    Forbidden(String),
    /// The value occurs twice.
    Duplicate(String),
    /// The text is longer than so many bytes.
    TooLong(usize),
    /// The list has more than so many entries.
    TooMany(usize, usize),
    /// The value names something that is not there.
    NotFound(String),
    /// The value has the wrong type; value and explanation.
    TypeInvalid(String, String),
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, e.g. `spec.containers[0].image`.
    pub field: String,
    /// What is wrong.
    pub problem: FieldProblem,
}

impl FieldError {
    /// Says that the field has to be set; `detail` may be empty.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        FieldError { field: field.into(), problem: FieldProblem::Required(detail.into()) }
    }

    /// Says that the value breaks the rule `detail`.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: impl Into<String>) -> Self {
        FieldError { field: field.into(), problem: FieldProblem::Invalid(shown(value), detail.into()) }
    }

    /// Says that the value is none of `supported`.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let supported = supported.iter().map(ToString::to_string).collect();
        FieldError { field: field.into(), problem: FieldProblem::NotSupported(shown(value), supported) }
    }

    /// Says that the field may not be set or changed.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        FieldError { field: field.into(), problem: FieldProblem::Forbidden(detail.into()) }
    }

    /// Says that the value occurs twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        FieldError { field: field.into(), problem: FieldProblem::Duplicate(shown(value)) }
    }

    /// Says that the text is longer than `limit` bytes.
    pub fn too_long(field: impl Into<String>, limit: usize) -> Self {
        FieldError { field: field.into(), problem: FieldProblem::TooLong(limit) }
    }

    /// Says that the list of `actual` entries is longer than `limit`.
    pub fn too_many(field: impl Into<String>, actual: usize, limit: usize) -> Self {
        FieldError { field: field.into(), problem: FieldProblem::TooMany(actual, limit) }
    }

    /// Says that the value names something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        FieldError { field: field.into(), problem: FieldProblem::NotFound(shown(value)) }
    }

    /// Says that the value has the wrong type.
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: impl Into<String>) -> Self {
        FieldError { field: field.into(), problem: FieldProblem::TypeInvalid(shown(value), detail.into()) }
    }

    /// Returns the machine-readable reason of the cause.
    pub fn reason(&self) -> &'static str {
        match self.problem {
            FieldProblem::Required(_) => "FieldValueRequired",
            FieldProblem::Invalid(..) => "FieldValueInvalid",
            FieldProblem::NotSupported(..) => "FieldValueNotSupported",
            FieldProblem::Forbidden(_) => "FieldValueForbidden",
            FieldProblem::Duplicate(_) => "FieldValueDuplicate",
            FieldProblem::TooLong(_) => "FieldValueTooLong",
            FieldProblem::TooMany(..) => "FieldValueTooMany",
            FieldProblem::NotFound(_) => "FieldValueNotFound",
            FieldProblem::TypeInvalid(..) => "FieldValueTypeInvalid",
        }
    }

    pub(crate) fn into_cause(self) -> Cause {
        Cause { reason: self.reason(), message: self.body(), field: self.field }
    }

    fn body(&self) -> String {
        let with = |title: &str, detail: &str| match detail {
            "" => title.to_string(),
            detail => format!("{title}: {detail}"),
        };
        match &self.problem {
            FieldProblem::Required(detail) => with("Required value", detail),
            FieldProblem::Invalid(value, detail) => with(&format!("Invalid value: {value}"), detail),
            FieldProblem::NotSupported(value, supported) => {
                let list: Vec<String> = supported.iter().map(|one| format!("\"{one}\"")).collect();
                format!("Unsupported value: {value}: supported values: {}", list.join(", "))
            }
            FieldProblem::Forbidden(detail) => with("Forbidden", detail),
            FieldProblem::Duplicate(value) => format!("Duplicate value: {value}"),
            FieldProblem::TooLong(limit) => format!("Too long: may not be more than {limit} bytes"),
            FieldProblem::TooMany(actual, limit) => format!("Too many: {actual}: must have at most {limit} items"),
            FieldProblem::NotFound(value) => format!("Not found: {value}"),
            FieldProblem::TypeInvalid(value, detail) => with(&format!("Invalid value: {value}"), detail),
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.body()),
            field => write!(f, "{field}: {}", self.body()),
        }
    }
}

fn shown(value: &Value) -> String {
    value.to_string()
}
