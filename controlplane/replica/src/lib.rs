//! The store's consensus and its disk: openraft over redb, one member a control-plane machine.
//!
//! `docs/decisions/0002-store-files.md` says which file holds what and what each sync protects. The daemon opens a [`Replica`]
//! and hands it to the API server as a [`Store`](controlplane_store::Store); this crate knows no Kubernetes and no gRPC.
//!
//! ```text
//! txn -> openraft -> log: one synced commit for all that wait -> committed -> machine: state file -> hub -> answer
//! ```

mod disk;
mod files;
mod forward;
#[cfg(test)]
mod forward_tests;
mod image;
mod leases;
mod level;
mod log;
mod machine;
mod maintenance;
mod members;
mod peers;
mod replica;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod suite;
mod types;

pub use files::{Files, Folder};
pub use image::{Gathering, Image};
pub use leases::{LEASE_KEYS_SHOWN, LeaseStatus};
pub use level::{LEASES, LEVEL_KEY, TooOld};
pub use machine::Machine;
pub use members::{Change, Members};
pub use peers::{Alone, Led, Peer, Peers, SnapshotInFlight};
pub use replica::{OpenError, Options, Replica};
pub use types::{Command, Member, MemberId, Reply, SnapshotMeta, Types, Vote, decode, encode};
