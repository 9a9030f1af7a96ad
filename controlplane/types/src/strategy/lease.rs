//! Leases.

use serde_json::{Value, json};

use super::PLAIN;
use super::rules::not_negative;
use crate::field_error::FieldError;
use crate::kind::Strategy;
use crate::object::{Object, number, text};
use crate::table::{AGE, NAME, Printer, age, column};

/// Leases: two holders must never both write, so an update has to name the version it read.
pub static LEASE: Strategy = Strategy {
    validate,
    unconditional_update: false,
    create_on_update: true,
    printer: Printer {
        columns: &[NAME, column("Holder", "Who holds the lease."), AGE],
        row: |lease, now| vec![json!(lease.name()), json!(text(lease, &["spec", "holderIdentity"])), age(lease, now)],
    },
    ..PLAIN
};

fn validate(lease: &Value) -> Vec<FieldError> {
    let mut errors = not_negative(lease, &["spec", "leaseTransitions"], "spec.leaseTransitions");
    if let Some(seconds) = number(lease, &["spec", "leaseDurationSeconds"]).filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", &json!(seconds), "must be greater than 0"));
    }
    errors
}
