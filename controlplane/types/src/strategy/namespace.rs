//! Namespaces.

use serde_json::{Value, json};

use super::PLAIN;
use crate::field_error::FieldError;
use crate::kind::{NameRule, Strategy};
use crate::object::{self, Object, list, set, text};
use crate::table::{AGE, Column, NAME, Printer, age, column};

/// Namespaces: kept by `spec.finalizers` until their content is gone.
pub static NAMESPACE: Strategy = Strategy {
    default: name_label,
    prepare_create: |namespace| {
        set(namespace, &["spec"], "finalizers", json!(["kubernetes"]));
        set(namespace, &[], "status", json!({"phase": "Active"}));
    },
    prepare_update: |new, old| {
        let finalizers = object::at(old, &["spec", "finalizers"]).cloned();
        match finalizers {
            Some(finalizers) => set(new, &["spec"], "finalizers", finalizers),
            None => drop(object::remove(new, &["spec"], "finalizers")),
        }
    },
    validate_update: |new, old| {
        let names = |object: &Value| text(object, &["metadata", "name"]).to_string();
        let changed = names(new) != names(old);
        changed
            .then(|| FieldError::invalid("metadata.name", &new["metadata"]["name"], super::rules::IMMUTABLE))
            .into_iter()
            .collect()
    },
    names: NameRule::Label,
    holds: |namespace| !list(namespace, &["spec", "finalizers"]).is_empty(),
    marked: |namespace| set(namespace, &["status"], "phase", "Terminating"),
    selectable: |namespace| vec![("status.phase", text(namespace, &["status", "phase"]).to_string())],
    printer: Printer {
        columns: COLUMNS,
        row: |namespace, now| {
            vec![json!(namespace.name()), json!(text(namespace, &["status", "phase"])), age(namespace, now)]
        },
    },
    ..PLAIN
};

const COLUMNS: &[Column] = &[NAME, column("Status", "The status of the namespace"), AGE];

fn name_label(namespace: &mut Value) {
    let name = namespace.name().to_string();
    if !name.is_empty() {
        set(namespace, &["metadata", "labels"], "kubernetes.io/metadata.name", name);
    }
}
