//! Which objects of a collection a request is about: its label and field selectors.

use crate::query::ListOptions;
use controlplane_types::selector::{FieldSelector, LabelSelector};
use controlplane_types::{ApiError, KindInfo};
use serde_json::Value;

/// A parsed pair of selectors.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads both; fields that the kind does not offer are refused.
    pub(crate) fn parse(kind: &KindInfo, options: &ListOptions) -> Result<Selection, ApiError> {
        let labels = options.label_selector.parse::<LabelSelector>();
        let labels = labels.map_err(|error| ApiError::bad_request(format!("unable to parse requirement: {error}")))?;
        let fields = FieldSelector::parse(kind, &options.field_selector)?;
        Ok(Selection { labels, fields })
    }

    /// Whether it selects everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it selects this object.
    pub(crate) fn matches(&self, kind: &KindInfo, object: &Value) -> bool {
        self.labels.matches_object(object) && self.fields.matches(kind, object)
    }
}
