//! Admission: what has to hold, or is filled in, before a write reaches the store. Upstream's order, mutators before the rest.
//!
//! Whatever a decision was based on becomes a condition of the write's own transaction, so that a race cannot slip between.

mod account;
mod allocation;
mod namespace;
mod node;
mod pod;
mod service;

pub(crate) use service::addresses as service_addresses;

use crate::failure::Failure;
use crate::registry::Call;
use controlplane_store::{Condition, Op};
use serde_json::Value;

/// What admission adds to the transaction of a write.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Must hold for the write to happen.
    pub(crate) conditions: Vec<Condition>,
    /// Written with it.
    pub(crate) ops: Vec<Op>,
}

impl Extra {
    fn add(&mut self, other: Extra) {
        self.conditions.extend(other.conditions);
        self.ops.extend(other.ops);
    }
}

/// Looks at a new object. Runs again when a condition did not hold.
pub(crate) async fn create(call: &Call<'_>, object: &mut Value) -> Result<Extra, Failure> {
    let mut extra = Extra::default();
    if call.kind.namespaced() {
        extra.add(namespace::accepts(call).await?);
    }
    match (call.kind.group.as_str(), call.kind.plural.as_str()) {
        ("", "pods") => {
            pod::fill_in(object);
            account::mount(call, object).await?;
        }
        ("", "services") => extra.add(service::reserve(call, None, object).await?),
        ("", "nodes") => node::keeps_gate(call, None, object)?,
        _ => {}
    }
    Ok(extra)
}

/// Looks at a changed object.
pub(crate) async fn update(call: &Call<'_>, old: &Value, new: &mut Value) -> Result<Extra, Failure> {
    match (call.kind.group.as_str(), call.kind.plural.as_str()) {
        ("", "services") => service::reserve(call, Some(old), new).await,
        _ => Ok(Extra::default()),
    }
}

/// Looks at a change through any endpoint, `status` and those of our own code too.
pub(crate) fn any_update(call: &Call<'_>, old: &Value, new: &Value) -> Result<(), Failure> {
    if call.kind.group.is_empty() && call.kind.plural == "nodes" {
        node::keeps_gate(call, Some(old), new)?;
    }
    Ok(())
}

/// Looks at an object that is about to leave the store.
pub(crate) fn remove(call: &Call<'_>, object: &Value) -> Extra {
    match (call.kind.group.as_str(), call.kind.plural.as_str()) {
        ("", "services") => service::release(object),
        _ => Extra::default(),
    }
}

/// Looks at a request to delete.
pub(crate) fn delete(call: &Call<'_>) -> Result<(), Failure> {
    if call.kind.group.is_empty() && call.kind.plural == "namespaces" {
        namespace::may_be_deleted(call)
    } else {
        Ok(())
    }
}
