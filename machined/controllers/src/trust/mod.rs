//! What machined remembers for gitsync: the hold or pin in force, and the newest accepted position.
//!
//! A person's order comes through the machine API, a position from gitsync. Both are on the state volume before they count. machined
//! judges neither commits nor chains: that an order's target may run is gitsync's business.

mod order;
mod trust_record;

pub use order::{ORDER_LIFETIME_MAX, ORDER_REASON_BYTES_MAX, Order, OrderAction, OrderForm};
pub use trust_record::{TrustAnswer, TrustController, TrustError, TrustInbox, TrustRecordError, TrustRequest};

use machined_ids::{CommitId, Epoch, Seq, StepId};
use machined_runtime::Resource;
use serde::{Deserialize, Serialize};

/// A place in the release chain, as gitsync reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AcceptedPosition {
    /// Grows with every re-introduction.
    pub epoch: Epoch,
    /// Steps since the introduction.
    pub seq: Seq,
    /// The step.
    pub step: StepId,
    /// The commit that it was seen in.
    pub commit: CommitId,
}

/// The record; the id is [`TrustRecord::ID`]. Not in the store until the state volume was read. Also the form of its file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrustRecord {
    /// The hold or pin in force.
    pub order: Option<Order>,
    /// What gitsync accepted last; only moves forward.
    pub accepted: Option<AcceptedPosition>,
    /// Counts changes of `order`: whoever computed something from an older number did not know of the newest.
    #[serde(default)]
    pub orders: u64,
}

impl TrustRecord {
    /// The id of the one record.
    pub const ID: &'static str = "trust";
}

impl Resource for TrustRecord {
    const KIND: &'static str = "trust record";
}
