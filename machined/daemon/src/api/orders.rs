//! Hold, pin, resume and deliver: from a call that passed the gate to the trust record or the place for bundles.

use crate::deliveries::DeliverError;
use crate::model::Model;
use crate::wire;
use jiff::Timestamp;
use machined_access::Principal;
use machined_api::{
    DeliverReply, DeliverRequest, OrderReply, PinRequest, ResumeReply, VouchReply, VouchRequest, pin_request,
};
use machined_controllers::trust::{Order, OrderAction, TrustError, TrustRecord, TrustRequest};
use machined_ids::Seq;
use machined_reconcile::story;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

fn refused(error: &TrustError) -> Status {
    match error {
        TrustError::NotReady => Status::unavailable(error.to_string()),
        TrustError::Form(_) => Status::invalid_argument(error.to_string()),
        TrustError::Older { .. } | TrustError::Doubted(_) | TrustError::NoDoubt => {
            Status::failed_precondition(error.to_string())
        }
        TrustError::Write(_) => Status::internal(error.to_string()),
        TrustError::Seal(_) => Status::unavailable(story(error)),
    }
}

/// Asks the trust record; gives what it was before.
pub(crate) async fn ask(model: &Model, request: TrustRequest) -> Result<TrustRecord, Status> {
    let answer = model.orders.ask(request).await.map_err(|error| Status::unavailable(error.to_string()))?;
    answer.map_err(|error| refused(&error))
}

/// Puts an order of `who` in force.
pub(crate) async fn give(
    model: &Model,
    who: Principal,
    action: OrderAction,
    until: &str,
    reason: String,
) -> Result<OrderReply, Status> {
    let Principal::Person { name: by, key, .. } = who else {
        return Err(Status::permission_denied("only people give orders; run `cairnctl login` first"));
    };
    let until = until.parse();
    let until: Timestamp = until.map_err(|error| {
        Status::invalid_argument(format!("until is no time ({error}); write it like 2026-11-21T18:00:00Z"))
    })?;
    let order = Order { action, until, reason, by, key, given: Timestamp::now() };
    ask(model, TrustRequest::Give(order.clone())).await?;
    Ok(OrderReply { order: Some(wire::order(&order)) })
}

/// What a pin is about. gitsync decides whether it may run; what was never accepted here is refused at once.
pub(crate) fn target(model: &Model, request: &PinRequest) -> Result<OrderAction, Status> {
    let (found, asked) = match &request.target {
        Some(pin_request::Target::Commit(commit)) => {
            (model.reports.accepted(|known| known.commit == *commit), format!("commit {commit}"))
        }
        Some(pin_request::Target::Seq(seq)) => {
            (model.reports.accepted(|known| known.seq == *seq && !known.step.is_empty()), format!("step {seq}"))
        }
        None => return Err(Status::invalid_argument("a pin needs a commit or a seq; `cairnctl commits` lists both")),
    };
    let found = found.ok_or_else(|| {
        Status::failed_precondition(format!(
            "{asked} is none that this machine accepted; `cairnctl commits` lists them"
        ))
    })?;
    let commit = found.commit.parse().map_err(|_| Status::internal("gitsync reported a commit without an id"))?;
    Ok(OrderAction::Pin { commit, seq: Seq(found.seq) })
}

/// Takes a person's word for the newest accepted position.
pub(crate) async fn vouch(model: &Model, request: VouchRequest) -> Result<VouchReply, Status> {
    let newest = request.newest.ok_or_else(|| Status::invalid_argument("newest is missing"))?;
    let position = wire::accepted_of(newest)?;
    let message = format!("epoch {}, step {} ({})", position.epoch, position.seq, position.step);
    ask(model, TrustRequest::Vouch(position)).await?;
    model.events.add("Vouched", "machine", message);
    Ok(VouchReply {})
}

/// Ends the order in force.
pub(crate) async fn resume(model: &Model) -> Result<ResumeReply, Status> {
    let before = ask(model, TrustRequest::Resume).await?;
    Ok(ResumeReply { ended: before.order.as_ref().map(wire::order) })
}

/// Keeps a bundle for gitsync.
pub(crate) async fn deliver(model: &Model, requests: Streaming<DeliverRequest>) -> Result<DeliverReply, Status> {
    let taken = model.deliveries.take(requests.map(|request| request.map(|request| request.chunk))).await;
    let bundle = taken.map_err(|error| match &error {
        DeliverError::Long => Status::out_of_range(error.to_string()),
        DeliverError::Empty => Status::invalid_argument(error.to_string()),
        DeliverError::Busy => Status::unavailable(error.to_string()),
        DeliverError::Write { source, .. } => Status::internal(format!("{error}: {source}")),
        DeliverError::Broken(_) => Status::aborted(error.to_string()),
    })?;
    let message = format!("{} bytes, sha256 {}", bundle.bytes, bundle.sha256);
    model.events.add("BundleDelivered", "machine", message);
    Ok(DeliverReply { sha256: bundle.sha256.to_string(), bytes: bundle.bytes })
}
