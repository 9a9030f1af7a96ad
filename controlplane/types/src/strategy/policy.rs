//! Disruption budgets: how many pods of a kind may be taken away on purpose at a time. What an eviction makes of them is in
//! [`crate::eviction`].

use serde_json::{Value, json};

use super::PLAIN;
use super::rules::{all, not_negative, one_of, required_one_of, share};
use crate::field_error::FieldError;
use crate::kind::{Generation, Strategy};
use crate::object::{self, Object, list, number, text};
use crate::table::{AGE, NAME, Printer, age, column};
use crate::validate;
use crate::validate::names;

/// Disruption budgets: eviction and controller write the same status, so each write names the version that it read.
pub static POD_DISRUPTION_BUDGET: Strategy = Strategy {
    prepare_create: |budget| {
        let nothing = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
        object::set(budget, &[], "status", nothing);
    },
    validate: spec,
    validate_status: status,
    generation: Generation::Spec,
    unconditional_update: false,
    printer: Printer {
        columns: &[
            NAME,
            column("Min Available", "The minimum number of pods that must be available."),
            column("Max Unavailable", "The maximum number of pods that may be unavailable."),
            column("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time.").number(),
            AGE,
        ],
        row: |budget, now| {
            let bound = |key: &str| match object::at(budget, &["spec", key]) {
                Some(Value::String(percent)) => json!(percent),
                Some(count) => json!(count.to_string()),
                None => json!("N/A"),
            };
            vec![
                json!(budget.name()),
                bound("minAvailable"),
                bound("maxUnavailable"),
                json!(number(budget, &["status", "disruptionsAllowed"]).unwrap_or(0)),
                age(budget, now),
            ]
        },
    },
    ..PLAIN
};

fn spec(budget: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let bounds: Vec<(&str, &Value)> = ["minAvailable", "maxUnavailable"]
        .into_iter()
        .filter_map(|key| Some((key, object::at(budget, &["spec", key])?)))
        .collect();
    if bounds.len() > 1 {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid("spec", &budget["spec"], why));
    }
    for (key, bound) in bounds {
        errors.extend(share(bound, &format!("spec.{key}"), true));
    }
    if let Some(selector) = object::at(budget, &["spec", "selector"]) {
        errors.extend(validate::label_selector(selector, "spec.selector"));
    }
    let policies = &["AlwaysAllow", "IfHealthyBudget"];
    errors.extend(one_of(budget, &["spec", "unhealthyPodEvictionPolicy"], "spec.unhealthyPodEvictionPolicy", policies));
    errors
}

fn status(budget: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, condition) in list(budget, &["status", "conditions"]).iter().enumerate() {
        let at = |key: &str| format!("status.conditions[{index}].{key}");
        let kind = text(condition, &["type"]);
        errors.extend(all(&at("type"), &json!(kind), names::qualified_name(kind)));
        errors.extend(required_one_of(condition, &["status"], &at("status"), &["False", "True", "Unknown"]));
        if object::at(condition, &["lastTransitionTime"]).is_none() {
            errors.push(FieldError::required(at("lastTransitionTime"), "must be set"));
        }
        if text(condition, &["reason"]).is_empty() {
            errors.push(FieldError::required(at("reason"), ""));
        }
    }
    for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        errors.extend(not_negative(budget, &["status", key], &format!("status.{key}")));
    }
    errors
}
