//! Label selectors: the query form (`a=b,c in (d,e),!f`) and the object form (`matchLabels`, `matchExpressions`).

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::object;
use crate::validate::names;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is not there.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is a whole number above the value.
    GreaterThan,
    /// The label is a whole number below the value.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// With what; sorted.
    pub values: BTreeSet<String>,
}

/// Conditions that all have to hold; without any, everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The conditions.
    pub requirements: Vec<Requirement>,
}

/// The text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Something else stands where `expected` would have been right.
    #[error("unable to parse requirement: found '{found}', expected: {expected}")]
    Unexpected {
        /// What stands there; empty at the end of the text.
        found: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// The key is no label key.
    #[error("unable to parse requirement: <nil>: Invalid value: {key:?}: {why}")]
    Key {
        /// The key.
        key: String,
        /// The rule it breaks.
        why: String,
    },
    /// The value is no label value.
    #[error("unable to parse requirement: values[{index}][{key}]: Invalid value: {value:?}: {why}")]
    Value {
        /// Which of the values.
        index: usize,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The rule it breaks.
        why: String,
    },
    /// The object form has an operator that does not exist, or values that do not go with it.
    #[error("{0}")]
    Form(String),
}

impl From<SelectorError> for ApiError {
    fn from(error: SelectorError) -> Self {
        ApiError::bad_request(error.to_string())
    }
}

impl LabelSelector {
    /// Tells whether the labels fulfil all conditions.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let find = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        self.requirements.iter().all(|requirement| requirement.holds(find(&requirement.key)))
    }

    /// Tells whether the object's labels fulfil all conditions.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(object::map(object, &["metadata", "labels"]))
    }

    /// Tells whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    fn holds(&self, label: Option<&str>) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = || self.values.first().and_then(|value| number(value));
        match self.operator {
            Operator::In => label.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => label.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => label.and_then(number).zip(bound()).is_some_and(|(have, bound)| have > bound),
            Operator::LessThan => label.and_then(number).zip(bound()).is_some_and(|(have, bound)| have < bound),
        }
    }

    pub(super) fn checked(self) -> Result<Self, SelectorError> {
        if let Some(why) = names::qualified_name(&self.key).into_iter().next() {
            return Err(SelectorError::Key { key: self.key, why });
        }
        for (index, value) in self.values.iter().enumerate() {
            if let Some(why) = names::label_value(value).into_iter().next() {
                return Err(SelectorError::Value { index, key: self.key.clone(), value: value.clone(), why });
            }
        }
        Ok(self)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let list = || self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match self.operator {
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::In if self.values.len() == 1 => write!(f, "{key}={}", list()),
            Operator::In => write!(f, "{key} in ({})", list()),
            Operator::NotIn if self.values.len() == 1 => write!(f, "{key}!={}", list()),
            Operator::NotIn => write!(f, "{key} notin ({})", list()),
            Operator::GreaterThan => write!(f, "{key}>{}", list()),
            Operator::LessThan => write!(f, "{key}<{}", list()),
        }
    }
}

/// Reads the object form. Null matches nothing and gives an error; an empty object matches everything.
///
/// # Errors
/// The operator does not exist, or its values do not go with it.
pub fn from_label_selector(selector: &Value) -> Result<LabelSelector, SelectorError> {
    let mut requirements = Vec::new();
    for (key, value) in object::map(selector, &["matchLabels"]).into_iter().flatten() {
        let values = BTreeSet::from([value.as_str().unwrap_or_default().to_string()]);
        requirements.push(Requirement { key: key.clone(), operator: Operator::In, values });
    }
    for expression in object::list(selector, &["matchExpressions"]) {
        let values: BTreeSet<String> =
            object::list(expression, &["values"]).iter().filter_map(Value::as_str).map(str::to_string).collect();
        let operator = match (object::text(expression, &["operator"]), values.is_empty()) {
            ("In", false) => Operator::In,
            ("NotIn", false) => Operator::NotIn,
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            ("In" | "NotIn", true) => {
                let text = "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty";
                return Err(SelectorError::Form(text.into()));
            }
            ("Exists" | "DoesNotExist", false) => {
                let text = "values: Invalid value: values set must be empty for exists and does not exist";
                return Err(SelectorError::Form(text.into()));
            }
            (other, _) => return Err(SelectorError::Form(format!("{other:?} is not a valid label selector operator"))),
        };
        let key = object::text(expression, &["key"]).to_string();
        requirements.push(Requirement { key, operator, values });
    }
    requirements.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(LabelSelector { requirements })
}
