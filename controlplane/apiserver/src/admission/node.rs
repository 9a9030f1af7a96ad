//! Nodes: the words between a machine and the disruption gate are theirs alone.
//!
//! Operators may change Nodes, to cordon them; an answer that they wrote would be a permit that nobody gave.

use crate::caller::CONTROLLERS;
use crate::failure::Failure;
use crate::registry::Call;
use controlplane_types::ApiError;
use controlplane_types::disruption::{ANSWER, WISH};
use controlplane_types::object::{at, text};
use controlplane_types::rollout::{IMAGE, SEEN};
use serde_json::Value;

/// Refuses a change of the wish and of the image report by anybody but the machine, and of what the gate writes by anybody but the gate,
/// through whichever endpoint.
pub(super) fn keeps_gate(call: &Call<'_>, old: Option<&Value>, new: &Value) -> Result<(), Failure> {
    let gate = call.caller.in_group(CONTROLLERS);
    let machine = call.caller.node_name().is_some_and(|name| name == text(new, &["metadata", "name"]));
    for (annotation, may) in [(WISH, gate || machine), (IMAGE, gate || machine), (ANSWER, gate), (SEEN, gate)] {
        let path = ["metadata", "annotations", annotation];
        if !may && at(new, &path) != old.and_then(|old| at(old, &path)) {
            let why = format!(
                "annotation {annotation} is a word between the machine and the disruption gate; cairnctl reboot asks it"
            );
            return Err(ApiError::forbidden(&call.kind, text(new, &["metadata", "name"]), &why).into());
        }
    }
    Ok(())
}
