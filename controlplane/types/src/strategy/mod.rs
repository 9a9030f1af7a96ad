//! What is particular to each kind: a constant of plain functions that the kind's row points to.
//!
//! Defaults follow upstream's `SetDefaults_*`, preparation its `PrepareForCreate/Update`, validation its `Validate*`; texts
//! of broken rules are upstream's.

mod cairn;
mod config;
mod endpoints;
mod event;
mod lease;
mod namespace;
mod node;
mod pod;
mod pod_rules;
mod pod_spec;
mod pod_status;
mod policy;
mod rbac;
mod rules;
mod service;
mod workload;

use serde_json::Value;

pub use cairn::{COMMIT, MACHINE};
pub use config::{CONFIG_MAP, CONTROLLER_REVISION, PRIORITY_CLASS, SECRET, SERVICE_ACCOUNT};
pub use endpoints::{ENDPOINT_SLICE, ENDPOINTS};
pub use event::{CORE_EVENT, EVENT};
pub use lease::LEASE;
pub use namespace::NAMESPACE;
pub use node::NODE;
pub use pod::POD;
pub use policy::POD_DISRUPTION_BUDGET;
pub use rbac::{CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
pub use service::SERVICE;
pub use workload::{DEPLOYMENT, REPLICA_SET};

use crate::field_error::FieldError;
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
    status_on_create: false,
    prepare_update: no_change,
    validate: valid,
    validate_update: valid_change,
    validate_status: valid,
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
