//! Reset over the machine API: only for who names the machine, and not while an image is being tried.
//!
//! Called once the gate let the call in. Nothing is erased here: the wish waits for its permit, is written on META, and is obeyed by
//! the next start.

use crate::api::upgrades;
use crate::leaving::Going;
use crate::model::Model;
use machined_access::Principal;
use machined_api::{ResetReply, ResetRequest};
use machined_controllers::ledger::DesiredMachine;
use machined_controllers::reset::ResetOrder;
use tonic::Status;

/// Has the machine forget everything as soon as it may.
pub(super) async fn reset(model: &Model, who: &Principal, request: ResetRequest) -> Result<ResetReply, Status> {
    let name = model.desired.get(DesiredMachine::ID).map(|desired| desired.raw.machine.to_string()).unwrap_or_default();
    if name.is_empty() || request.confirm != name {
        let said = request.confirm;
        let text = format!(
            "a reset erases this machine, {name}, and {said:?} is not its name; say `cairnctl reset --yes-really {name}` if it is the one"
        );
        return Err(Status::invalid_argument(text));
    }
    // A try is counted in a record that a reset leaves, and judged by a journal that it does not.
    upgrades::idle(model)?;
    let (by, _) = who.named();
    let order = ResetOrder { by: by.to_owned(), reason: request.r#override.clone() };
    let (going, failed) = (Going::Reset(order), Status::internal);
    if request.r#override.is_empty() {
        model.events.add("Resetting", "machine", format!("asked for by {by}"));
        let waiting = model.leaving.ask(going).await.map_err(failed)?;
        return Ok(ResetReply { waiting });
    }
    model.events.add("ResettingWithoutPermit", "machine", format!("asked for by {by}: {}", request.r#override));
    model.leaving.go(going).await.map_err(failed)?;
    Ok(ResetReply { waiting: String::new() })
}
