//! Roles and their bindings.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::PLAIN;
use super::rules::immutable;
use crate::field_error::FieldError;
use crate::kind::{NameRule, Strategy};
use crate::object::{Object, list, map_mut, set_default, text};
use crate::table::{AGE, Column, NAME, Printer, age, column};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and cluster roles.
pub static ROLE: Strategy = Strategy {
    validate: rules,
    names: NameRule::Path,
    create_on_update: true,
    printer: Printer {
        columns: &[NAME, column("Created At", "Time of creation.")],
        row: |role, _| vec![json!(role.name()), role["metadata"]["creationTimestamp"].clone()],
    },
    ..PLAIN
};

/// Role bindings.
pub static ROLE_BINDING: Strategy = BINDING;

/// Cluster role bindings.
pub static CLUSTER_ROLE_BINDING: Strategy = BINDING;

const BINDING: Strategy = Strategy {
    default: |binding| {
        set_default(binding, &["roleRef"], "apiGroup", GROUP);
        let subjects = map_mut(binding, &[]).get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            if matches!(text(subject, &["kind"]), "User" | "Group") {
                set_default(subject, &[], "apiGroup", GROUP);
            }
        }
    },
    validate: binding,
    validate_update: |new, old| {
        let mut errors = immutable(new, old, &["roleRef"]);
        for error in &mut errors {
            *error = FieldError::invalid("roleRef", &new["roleRef"], "cannot change roleRef");
        }
        errors
    },
    names: NameRule::Path,
    create_on_update: true,
    printer: Printer { columns: BINDING_COLUMNS, row: binding_row },
    ..PLAIN
};

fn rules(role: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, rule) in list(role, &["rules"]).iter().enumerate() {
        let at = |key: &str| format!("rules[{index}].{key}");
        if list(rule, &["verbs"]).is_empty() {
            errors.push(FieldError::required(at("verbs"), "verbs must contain at least one value"));
        }
        let urls = !list(rule, &["nonResourceURLs"]).is_empty();
        if urls {
            if !role.namespace().is_empty() {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(at("nonResourceURLs"), &rule["nonResourceURLs"], why));
            }
            if !list(rule, &["apiGroups"]).is_empty() || !list(rule, &["resources"]).is_empty() {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(at("nonResourceURLs"), &rule["nonResourceURLs"], why));
            }
            continue;
        }
        if list(rule, &["apiGroups"]).is_empty() {
            errors.push(FieldError::required(at("apiGroups"), "resource rules must supply at least one api group"));
        }
        if list(rule, &["resources"]).is_empty() {
            errors.push(FieldError::required(at("resources"), "resource rules must supply at least one resource"));
        }
    }
    errors
}

fn binding(binding: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(binding, &["roleRef", "name"]).is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    let kinds: &[&str] = if binding.namespace().is_empty() { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
    let kind = text(binding, &["roleRef", "kind"]);
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported("roleRef.kind", &json!(kind), kinds));
    }
    for (index, subject) in list(binding, &["subjects"]).iter().enumerate() {
        let at = |key: &str| format!("subjects[{index}].{key}");
        if text(subject, &["name"]).is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        }
        match text(subject, &["kind"]) {
            "ServiceAccount" if text(subject, &["namespace"]).is_empty() => {
                errors.push(FieldError::required(at("namespace"), ""));
            }
            "ServiceAccount" | "User" | "Group" => {}
            other => {
                let supported = ["Group", "ServiceAccount", "User"];
                errors.push(FieldError::not_supported(at("kind"), &json!(other), &supported));
            }
        }
    }
    errors
}

const BINDING_COLUMNS: &[Column] = &[
    NAME,
    column("Role", "Role that the subjects get."),
    AGE,
    column("Users", "Users in the binding.").wide(),
    column("Groups", "Groups in the binding.").wide(),
    column("ServiceAccounts", "Service accounts in the binding.").wide(),
];

fn binding_row(binding: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", text(binding, &["roleRef", "kind"]), text(binding, &["roleRef", "name"]));
    let of = |kind: &str| {
        let subjects = list(binding, &["subjects"]).iter().filter(|one| text(one, &["kind"]) == kind);
        let names = subjects.map(|one| match kind {
            "ServiceAccount" => format!("{}/{}", text(one, &["namespace"]), text(one, &["name"])),
            _ => text(one, &["name"]).to_string(),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    vec![
        json!(binding.name()),
        json!(role),
        age(binding, now),
        json!(of("User")),
        json!(of("Group")),
        json!(of("ServiceAccount")),
    ]
}
