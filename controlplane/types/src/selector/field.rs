//! Field selectors: `metadata.name=a,status.phase!=Running`, with the fields that the kind offers.

use serde_json::Value;

use crate::error::ApiError;
use crate::kind::KindInfo;
use crate::object::Object;

/// Conditions on fields that all have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses the query parameter for a kind.
    ///
    /// # Errors
    /// `BadRequest` for text that is no selector, or a field that the kind does not offer.
    pub fn parse(kind: &KindInfo, text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for part in split(text).iter().filter(|part| !part.is_empty()) {
            let (field, equal, value) = read_term(part).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "unable to parse field selector: invalid selector: '{text}'; can't understand '{part}'"
                ))
            })?;
            let offered = (kind.strategy.selectable)(&Value::Null);
            let general = field == "metadata.name" || (field == "metadata.namespace" && kind.namespaced());
            if !general && !offered.iter().any(|(name, _)| *name == field) {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            terms.push(Term { field: field.to_string(), equal, value });
        }
        Ok(FieldSelector { terms })
    }

    /// Tells whether the object fulfils all conditions. The object has to be in the version of `kind`.
    pub fn matches(&self, kind: &KindInfo, object: &Value) -> bool {
        if self.terms.is_empty() {
            return true;
        }
        let fields = (kind.strategy.selectable)(object);
        self.terms.iter().all(|term| {
            let value = match term.field.as_str() {
                "metadata.name" => object.name(),
                "metadata.namespace" => object.namespace(),
                other => fields.iter().find(|(name, _)| *name == other).map_or("", |(_, value)| value.as_str()),
            };
            (value == term.value) == term.equal
        })
    }

    /// Tells whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Returns the name that the selector asks for, if it asks for exactly one: such a list reads a single key.
    pub fn name(&self) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == "metadata.name").map(|term| term.value.as_str())
    }
}

/// Splits at commas that have no backslash before them.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        let last = parts.len() - 1;
        match (escaped, c) {
            (false, ',') => parts.push(String::new()),
            (_, c) => parts[last].push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn read_term(part: &str) -> Option<(&str, bool, String)> {
    let at = part.find(['=', '!'])?;
    let (field, rest) = part.split_at(at);
    let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
        (false, value)
    } else {
        (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?)
    };
    Some((field, equal, unescape(value)?))
}

/// Takes the backslashes out; a value with a bare `=` or an unknown escape is refused.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                escaped @ ('\\' | ',' | '=') => out.push(escaped),
                _ => return None,
            },
            '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}
