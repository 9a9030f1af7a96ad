//! What goes through the log, and openraft's types with ours filled in.

use controlplane_store::{Answer, Op, Txn};
use machined_ids::Revision;
use openraft::type_config::alias;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A member's number in the raft group. Given by the log to each birth of a data directory, and never again.
pub type MemberId = u64;

/// A member's address: how peers reach it.
pub type Member = openraft::BasicNode;

/// What the log orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Compare and write.
    Txn(Txn),
    /// Refuse reads older than this revision from now on.
    Compact(Revision),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Txn(txn) => {
                let writes = txn.then.iter().filter(|op| !matches!(op, Op::Get(_))).count();
                write!(f, "txn of {writes} writes on {} conditions", txn.conditions.len())
            }
            Command::Compact(oldest) => write!(f, "compact to {oldest}"),
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
}

openraft::declare_raft_types!(
    /// openraft's parameters.
    pub Types:
        D = Command,
        R = Reply,
        NodeId = MemberId,
        Node = Member,
);

pub(crate) type Entry = alias::EntryOf<Types>;
pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type Membership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// The binary form of everything in the log file and beside the state machine's tables.
pub(crate) fn encode<T: Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(std::io::Error::other)
}

/// The reverse of [`encode`].
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> std::io::Result<T> {
    postcard::from_bytes(bytes).map_err(std::io::Error::other)
}
