//! What members of the store say to each other: raft's messages, writes and reads for the leader, and how a machine becomes a member.
//!
//! `controlplane/daemon` runs it on control-plane machines, `tests/etcd-facade` where etcd's tools judge the store. It decides who is a
//! member by the [`Roster`] that it is given, which is the accepted step's, and by nothing that a peer says of itself.
//!
//! ```text
//! Replica -> Dialler -> TLS, pinned to one machine -> Service -> Replica
//! a new machine -> ask_to_join -> Service: a number for its birth -> records in the store
//! the leader's membership task: records + roster + who is how far -> plan -> one change at a time
//! level: what every member's release speaks, raised when all speak more
//! keys: who was given the cluster's keys, and how they are replaced when one of these machines leaves
//! ```

mod client;
mod departures;
mod join;
mod keys;
mod level;
mod listener;
mod membership;
mod records;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use client::Dialler;
pub use departures::Departures;
pub use join::{JoinError, Joined, ask_to_join};
pub use keys::{
    Clock, Exposure, GRACE, KeyRecord, KeySet, Keyring, Knower, Leaver, Progress, Roles, SetNumber, Stage, keep_keys,
};
pub use membership::run as keep_membership;
pub use records::{AnnounceError, Announcement, Birth, Record, announce};
pub use server::{ServeError, serve};

use machined_access::Leaf;
use machined_ids::{ClusterLevel, Fingerprint, MachineName, Seq};
use std::collections::BTreeMap;

/// Port of every member, as etcd's for its peers.
pub const PORT: u16 = 2380;

/// The number of the member that makes a new group.
pub const FIRST: controlplane_replica::MemberId = 1;

/// The service whose leaf a member shows.
pub const SERVICE: &str = "controlplane";

/// The control-plane machines of the accepted step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// The step's place. An older roster takes nobody out whom a newer one let in.
    pub seq: Seq,
    /// Machines with the fingerprints of their identities.
    pub machines: BTreeMap<MachineName, Fingerprint>,
}

/// Who this machine is and whom it believes; always the newest.
pub trait Trust: Send + Sync + 'static {
    /// The control-plane machines.
    fn roster(&self) -> Roster;

    /// The newest level that the repository allows the cluster.
    fn allowed_level(&self) -> ClusterLevel;

    /// This machine's leaf for [`SERVICE`].
    fn leaf(&self) -> Leaf;

    /// This machine's name.
    fn machine(&self) -> MachineName;
}
