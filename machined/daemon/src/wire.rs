//! Orders, positions and images as the APIs carry them.

use machined_api::{FailedImage, ImageState, TrustPosition};
use machined_controllers::trust::{AcceptedPosition, Doubt, Order, OrderAction};
use machined_controllers::upgrade::UpgradeStatus;
use machined_ids::{Epoch, Seq};
use tonic::Status;

/// An order, for those who ask.
pub(crate) fn order(order: &Order) -> machined_api::Order {
    let (commit, seq) = match &order.action {
        OrderAction::Hold {} => (String::new(), 0),
        OrderAction::Pin { commit, seq } => (commit.to_string(), seq.0),
    };
    machined_api::Order {
        kind: order.action.as_str().to_owned(),
        commit,
        seq,
        until: order.until.to_string(),
        reason: order.reason.clone(),
        by: order.by.to_string(),
        key: order.key.to_string(),
        given: order.given.to_string(),
    }
}

/// Why the newest position is not known.
pub(crate) fn doubt(doubt: &Doubt) -> machined_api::Doubt {
    machined_api::Doubt { reason: doubt.reason().to_owned(), message: doubt.to_string() }
}

/// What became of images here.
pub(crate) fn image(status: &UpgradeStatus) -> ImageState {
    let failed = status.failed().map(|(digest, attempt, reason)| FailedImage {
        digest: digest.to_owned(),
        attempt: attempt.unwrap_or(0),
        reason: reason.to_owned(),
    });
    ImageState { good: status.good().unwrap_or_default().to_owned(), failed }
}

/// A position, for those who ask.
pub(crate) fn position(position: &AcceptedPosition) -> TrustPosition {
    TrustPosition {
        epoch: position.epoch.0,
        seq: position.seq.0,
        step: position.step.to_string(),
        commit: position.commit.to_string(),
    }
}

/// A position as gitsync or a person sends it.
pub(crate) fn accepted_of(position: TrustPosition) -> Result<AcceptedPosition, Status> {
    fn field<T, E: std::fmt::Display>(name: &str, parsed: Result<T, E>) -> Result<T, Status> {
        parsed.map_err(|error| Status::invalid_argument(format!("{name}: {error}")))
    }
    Ok(AcceptedPosition {
        epoch: Epoch(position.epoch),
        seq: Seq(position.seq),
        step: field("step", position.step.parse())?,
        commit: field("commit", position.commit.parse())?,
    })
}
