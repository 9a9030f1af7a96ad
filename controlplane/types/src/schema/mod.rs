//! The shape of a kind's objects: one tree that decoding, patches, server-side apply and OpenAPI all read.
//!
//! Built-in kinds get it from the k8s-openapi crate ([`definitions`]) plus a table of merge rules; our own kinds bring JSON
//! schemas of the same form.

mod build;
mod definitions;
mod merge;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use build::{digest, schema};
pub use definitions::{Definitions, definitions};
pub use merge::{ListType, MergeRule, rule};

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    /// Full definition name, e.g. `io.k8s.api.core.v1.PodSpec`; empty for types without a name.
    pub name: String,
    /// What values look like.
    pub shape: Shape,
    /// Server-side apply owns values of this type as a whole.
    pub atomic: bool,
}

/// What values of a type look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Known fields.
    Object(BTreeMap<String, Field>),
    /// Free keys, all values of one type.
    Map(Arc<Schema>),
    /// A list of values of one type.
    List(Arc<Schema>),
    /// Text.
    Text,
    /// RFC 3339 time; fractions of seconds where the flag is set.
    Time(bool),
    /// Base64 text.
    Bytes,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A whole number or text.
    IntOrString,
    /// A resource quantity: text or number.
    Quantity,
    /// Anything at all; nothing below is looked at.
    Any,
}

/// A field of an object type.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The type of the value.
    pub schema: Arc<Schema>,
    /// Merge rules.
    pub rule: MergeRule,
}

impl Schema {
    /// Finds a known field; `None` for types without fields.
    pub fn field(&self, name: &str) -> Option<&Field> {
        if let Shape::Object(fields) = &self.shape { fields.get(name) } else { None }
    }

    /// Returns the type of a list's entries.
    pub fn items(&self) -> Option<&Schema> {
        if let Shape::List(items) = &self.shape { Some(items) } else { None }
    }

    /// Returns the type of a map's values.
    pub fn values(&self) -> Option<&Schema> {
        if let Shape::Map(values) = &self.shape { Some(values) } else { None }
    }
}
