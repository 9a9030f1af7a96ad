//! What a user of the store asks and gets. Shapes follow etcd's v3 API, so that its tests can judge us.

use crate::DiskError;
use bytes::Bytes;
use machined_ids::{ClusterLevel, Revision};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::pin::Pin;

/// A boxed future that may be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A key with its value and its place in history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value, as it was put.
    pub value: Bytes,
    /// Revision of the put that created the key.
    pub created: Revision,
    /// Revision of the last put.
    pub modified: Revision,
    /// Puts since creation, from 1.
    pub version: u64,
}

/// A lease's number, chosen by whoever asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

impl std::fmt::Display for LeaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Keys that live together: put with the lease, deleted when it ends. It ends when it is revoked, or when nobody renews it in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// Seconds that it lives without a renewal.
    pub seconds: u32,
    /// Grows with every grant and renewal of any lease. The state machine has no clock: whoever has one starts this lease's time when its
    /// stamp is new.
    pub stamp: u64,
    /// It was revoked, and some of its keys wait for their deletion.
    pub ending: bool,
}

/// Why a request about a lease is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LeaseProblem {
    /// It ended, or never was.
    #[error("is not there")]
    Missing,
    /// It was renewed, so its time is not over.
    #[error("was renewed")]
    Renewed,
    /// Its number is taken.
    #[error("exists already")]
    Exists,
    /// There are [`LEASES_LIMIT`](crate::LEASES_LIMIT) already.
    #[error("is one too many")]
    TooMany,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// At least as new as every write acknowledged before the read began.
    Linearizable,
    /// Whatever this replica has applied.
    Local,
}

/// Entries with `start <= key < end`, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest {
    /// First key.
    pub start: Bytes,
    /// First key that is no longer part of the range.
    pub end: Bytes,
    /// At most this many entries; `None` is all of them.
    pub limit: Option<usize>,
    /// The state at this revision; `None` is now.
    pub at: Option<Revision>,
}

/// Answer to a [`RangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The entries, in key order.
    pub entries: Vec<Entry>,
    /// How many keys the whole range holds, limit apart.
    pub count: u64,
    /// The store's revision when it was read (not the one asked for).
    pub revision: Revision,
}

/// Something that must hold for a [`Txn`] to succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The key was last put at this revision; revision zero means that it does not exist.
    Modified(Bytes, Revision),
}

/// One operation of a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Reads a key.
    Get(Bytes),
    /// Puts a value. The key has no lease afterwards.
    Put(Bytes, Bytes),
    /// Deletes a key; deleting what does not exist changes nothing.
    Delete(Bytes),
    /// Puts a value that is deleted with the lease.
    PutLeased(Bytes, Bytes, LeaseId),
}

/// Compare and write: `then` when all conditions hold, `otherwise` when not. A key is written at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// Run when all conditions hold. All its writes get one revision.
    pub then: Vec<Op>,
    /// Run when one does not; usually a [`Op::Get`] of what stands there.
    pub otherwise: Vec<Op>,
}

/// What one [`Op`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpAnswer {
    /// The entry read, if there is one.
    Got(Option<Entry>),
    /// The entry as it stands after the put.
    Put(Entry),
    /// The entry that was deleted, if there was one.
    Deleted(Option<Entry>),
}

/// Answer to a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether the conditions held.
    pub succeeded: bool,
    /// The store's revision afterwards; that of the writes when there were any.
    pub revision: Revision,
    /// One answer for each operation that ran.
    pub ops: Vec<OpAnswer>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was put. `created == modified` when it is new.
    Put {
        /// The entry as it is now.
        entry: Entry,
        /// The entry as it was before, if it existed.
        previous: Option<Entry>,
    },
    /// The key was deleted.
    Delete {
        /// The entry as it was before.
        previous: Entry,
    },
}

/// All changes of one revision inside a watched range; never split, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// The revision of the changes.
    pub revision: Revision,
    /// The changes in key order.
    pub events: Vec<Event>,
}

/// Why the store refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for is gone.
    #[error("revision {asked} is compacted; the oldest kept is {oldest}")]
    Compacted {
        /// What was asked.
        asked: Revision,
        /// The oldest revision that can still be read or watched from.
        oldest: Revision,
    },
    /// The revision asked for has not happened.
    #[error("revision {asked} is in the future; the store is at {current}")]
    Future {
        /// What was asked.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// A key, a value or a transaction is over its limit.
    #[error("{what} is {size} bytes; the limit is {limit}")]
    TooLarge {
        /// What is too large: "a value", "a key", "the transaction".
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The transaction makes no sense, whatever the store holds.
    #[error("the transaction is not valid: {reason}")]
    Invalid {
        /// What is wrong with it, for people.
        reason: &'static str,
    },
    /// A lease is not as the request wants it.
    #[error("lease {lease} {problem}")]
    Lease {
        /// Which.
        lease: LeaseId,
        /// What is wrong with it.
        problem: LeaseProblem,
    },
    /// A member may run a release that does not understand the request.
    #[error(
        "it needs cluster level {needed} and the cluster is at level {level}: a level rises once every member runs a release that \
         speaks it"
    )]
    Level {
        /// From which level on it is understood.
        needed: ClusterLevel,
        /// Where the cluster is.
        level: ClusterLevel,
    },
    /// There is no leader, or it could not be reached; the write may or may not have happened when `sent` is true.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// Why, for people.
        reason: String,
        /// Whether the request may have taken effect.
        sent: bool,
    },
    /// The watcher did not keep up and was dropped; list again.
    #[error("the watch was dropped because its reader was too slow")]
    Lagged,
}

/// A running watch. Dropping it ends it.
pub trait Watcher: Send {
    /// The next batch: ordered, without gaps or repeats. After an error the watch is over.
    ///
    /// Cancel-safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when history went before it was read, [`StoreError::Lagged`] when the reader was too slow,
    /// [`StoreError::Unavailable`] when the store went away.
    fn next(&mut self) -> BoxFuture<'_, Result<EventBatch, StoreError>>;

    /// Everything up to this revision was returned by [`Watcher::next`]: what a bookmark may say. Never goes back.
    fn progress(&self) -> Revision;
}

/// The store as its users see it. An empty store is at revision 1, so that zero keeps its meaning.
pub trait Store: Send + Sync + 'static {
    /// Reads a range.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`] or [`StoreError::Unavailable`].
    fn range(&self, request: RangeRequest, consistency: Consistency) -> BoxFuture<'_, Result<RangeAnswer, StoreError>>;

    /// Runs a transaction. Never retried inside: a retry after a lost answer would write twice.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Invalid`] or [`StoreError::Unavailable`].
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Answer, StoreError>>;

    /// Watches `start <= key < end` for changes after revision `after` (exclusive).
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`] or [`StoreError::Unavailable`].
    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watcher>, StoreError>>;

    /// The revision that this replica has applied.
    fn revision(&self) -> Revision;
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Event::Put { entry, .. } => &entry.key,
            Event::Delete { previous } => &previous.key,
        }
    }
}

impl RangeRequest {
    /// All of `start <= key < end`, now.
    #[must_use]
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        RangeRequest { start: start.into(), end: end.into(), limit: None, at: None }
    }

    /// One key, now.
    #[must_use]
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start: Bytes = key.into();
        let mut end = start.to_vec();
        end.push(0);
        RangeRequest::new(start, end)
    }
}

impl From<DiskError> for StoreError {
    fn from(error: DiskError) -> Self {
        StoreError::Unavailable { reason: format!("{error}: {}", error.source), sent: false }
    }
}
