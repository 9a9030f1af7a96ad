//! What is particular to each kind: a constant of plain functions that the kind's row points to.

use serde_json::Value;

use crate::error::FieldError;
use crate::kind::{Generation, NameRule, Strategy};
use crate::table;

fn nothing(_: &mut Value) {}
fn no_change(_: &mut Value, _: &Value) {}
fn valid(_: &Value) -> Vec<FieldError> {
    Vec::new()
}
fn valid_change(_: &Value, _: &Value) -> Vec<FieldError> {
    Vec::new()
}
fn no_fields(_: &Value) -> Vec<(&'static str, String)> {
    Vec::new()
}

fn no_grace(_: &Value, _: Option<i64>) -> Option<i64> {
    None
}
fn never(_: &Value) -> bool {
    false
}

/// A kind without manners of its own; the others are this with some functions replaced.
pub const PLAIN: Strategy = Strategy {
    default: nothing,
    prepare_create: nothing,
    prepare_update: no_change,
    validate: valid,
    validate_update: valid_change,
    names: NameRule::Subdomain,
    generation: Generation::Off,
    unconditional_update: true,
    create_on_update: false,
    grace: no_grace,
    holds: never,
    marked: nothing,
    selectable: no_fields,
    printer: table::PLAIN,
};
/// As plain as can be, so far.
pub static CONFIG_MAP: Strategy = PLAIN;
/// As plain as can be, so far.
pub static ENDPOINTS: Strategy = PLAIN;
/// As plain as can be, so far.
pub static EVENT: Strategy = PLAIN;
/// As plain as can be, so far.
pub static NAMESPACE: Strategy = PLAIN;
/// As plain as can be, so far.
pub static NODE: Strategy = PLAIN;
/// As plain as can be, so far.
pub static POD: Strategy = PLAIN;
/// As plain as can be, so far.
pub static SECRET: Strategy = PLAIN;
/// As plain as can be, so far.
pub static SERVICE_ACCOUNT: Strategy = PLAIN;
/// As plain as can be, so far.
pub static SERVICE: Strategy = PLAIN;
/// As plain as can be, so far.
pub static CONTROLLER_REVISION: Strategy = PLAIN;
/// As plain as can be, so far.
pub static DEPLOYMENT: Strategy = PLAIN;
/// As plain as can be, so far.
pub static REPLICA_SET: Strategy = PLAIN;
/// As plain as can be, so far.
pub static LEASE: Strategy = PLAIN;
/// As plain as can be, so far.
pub static ENDPOINT_SLICE: Strategy = PLAIN;
/// As plain as can be, so far.
pub static ROLE: Strategy = PLAIN;
/// As plain as can be, so far.
pub static CLUSTER_ROLE_BINDING: Strategy = PLAIN;
/// As plain as can be, so far.
pub static ROLE_BINDING: Strategy = PLAIN;
/// As plain as can be, so far.
pub static PRIORITY_CLASS: Strategy = PLAIN;
/// As plain as can be, so far.
pub static COMMIT: Strategy = PLAIN;
/// As plain as can be, so far.
pub static MACHINE: Strategy = PLAIN;
