//! Label and field selectors: parsing what queries and objects say, and matching objects.

mod field;
mod label;
mod parser;
pub mod typed;

pub use field::FieldSelector;
pub use label::{LabelSelector, Operator, Requirement, SelectorError, from_label_selector};
