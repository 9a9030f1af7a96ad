//! What machined remembers for gitsync: the hold or pin in force, the newest accepted position, and the recovery that somebody at the console
//! vouched for.
//!
//! A person's order comes through the machine API, a position from gitsync. Both are on the state volume before they count. machined
//! judges neither commits nor chains: that an order's target may run is gitsync's business. Where there is a TPM, each move is counted in
//! it, so that an old copy of the disk is noticed.

mod count;
mod order;
mod presence;
mod trust_record;

pub use count::{Count, Doubt};
pub use order::{ORDER_LIFETIME_MAX, ORDER_REASON_BYTES_MAX, Order, OrderAction, OrderForm};
pub use presence::{Presence, PresenceController, PresenceError, PresenceFileError, PresenceInbox, PresenceRequest};
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

/// Version of the record's format that this release writes where it counts. Where it does not, the file has neither version nor count, as
/// the releases before wrote it. The file of a machine whose identity key lies in the TPM is version 3: this record with a seal around it.
pub const TRUST_RECORD_VERSION: u32 = 2;

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
    /// [`TRUST_RECORD_VERSION`], or `None` for a file that could be of any release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// How it is counted in the TPM; `None` where nothing counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
}

/// Whether the record is the newest that this machine wrote; the id is [`Rollback::ID`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rollback {
    /// Nothing on this machine could tell.
    Undetectable,
    /// The TPM says so.
    Newest,
    /// It may be an old copy; nothing moves.
    Doubted(Doubt),
}

impl Rollback {
    /// The id of the one answer.
    pub const ID: &'static str = "rollback";
}

impl Resource for Rollback {
    const KIND: &'static str = "rollback";
}

impl TrustRecord {
    /// The id of the one record.
    pub const ID: &'static str = "trust";
}

impl Resource for TrustRecord {
    const KIND: &'static str = "trust record";
}
