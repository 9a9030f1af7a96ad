//! What goes through the log, and openraft's types with ours filled in.

use controlplane_store::{Answer, LeaseId, LeaseProblem, Op, Txn};
use machined_ids::Revision;
use openraft::impls::TokioRuntime;
use openraft::type_config::alias;
use openraft::{AsyncRuntime, RaftTypeConfig};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

/// A member's number in the raft group. Given by the log to each birth of a data directory, and never again.
pub type MemberId = u64;

/// A member as the log names it to all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The machine that it runs on: whom a peer expects at the other end.
    pub machine: String,
    /// Address and port where its peers reach it.
    pub address: String,
}

/// What the log orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Compare and write.
    Txn(Txn),
    /// Refuse reads older than this revision from now on.
    Compact(Revision),
    /// Make a lease.
    Grant {
        /// Its number.
        lease: LeaseId,
        /// How long it lives without a renewal.
        seconds: u32,
    },
    /// A lease is still wanted.
    Renew(LeaseId),
    /// End a lease, and delete some of its keys.
    Revoke {
        /// Its number.
        lease: LeaseId,
        /// Only if its stamp is not newer: nobody ends a lease whose renewal was ordered first.
        stamp: Option<u64>,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Txn(txn) => {
                let writes = txn.then.iter().filter(|op| !matches!(op, Op::Get(_))).count();
                write!(f, "txn of {writes} writes on {} conditions", txn.conditions.len())
            }
            Command::Compact(oldest) => write!(f, "compact to {oldest}"),
            Command::Grant { lease, seconds } => write!(f, "lease {lease} for {seconds} s"),
            Command::Renew(lease) => write!(f, "renew lease {lease}"),
            Command::Revoke { lease, .. } => write!(f, "revoke lease {lease}"),
        }
    }
}

/// What applying a log entry says to the one who proposed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing but that it was applied.
    Applied,
    /// A transaction's answer.
    Answer(Answer),
    /// A lease was revoked, and has more keys; revoke it again.
    More,
    /// Nothing was done: a lease is not as it has to be.
    Refused(LeaseId, LeaseProblem),
}

/// openraft's parameters, on the runtime `R`.
pub struct Types<R = TokioRuntime>(PhantomData<fn() -> R>);

impl<R: AsyncRuntime> RaftTypeConfig for Types<R> {
    type D = Command;
    type R = Reply;
    type NodeId = MemberId;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<Self::Term, Self::NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type Responder<T>
        = openraft::impls::ProgressResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type AsyncRuntime = R;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Entry = alias::EntryOf<Types>;
pub(crate) type LogId = alias::LogIdOf<Types>;
/// A vote as it travels and as it is kept.
pub type Vote = alias::VoteOf<Types>;
pub(crate) type Membership = alias::StoredMembershipOf<Types>;
/// What a snapshot is of.
pub type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// The binary form of everything in the log file, beside the state machine's tables and between members.
///
/// # Errors
/// When a value cannot be written down, which would be a mistake in its type.
pub fn encode<T: Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(std::io::Error::other)
}

/// The reverse of [`encode`].
///
/// # Errors
/// When the bytes are no such value.
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> std::io::Result<T> {
    postcard::from_bytes(bytes).map_err(std::io::Error::other)
}

// openraft wants all of these of its parameters. A derive would want them of the runtime too, which has none of them.
impl<R> Default for Types<R> {
    fn default() -> Self {
        Types(PhantomData)
    }
}

impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Types<R> {}

impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<R> Eq for Types<R> {}

impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}
