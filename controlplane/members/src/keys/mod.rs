//! The cluster's keys (Kubernetes' authority and the service-account key): who was given them, and how they are replaced when one of
//! these machines leaves the control plane.
//!
//! ```text
//! record.rs    what the store remembers: key sets, their stages, who knows each, what members use. No secret. Pure
//! rotation.rs  record + group + roster + time -> the leader's next step. Pure
//! exposure.rs  record + roster -> who left and still knows keys that are believed. Pure
//! store.rs     reading and amending the record
//! keeper.rs    the task on every member: fetch, use, report; on the leader also: step on
//! ```
//! The secrets lie in the machines' own folders behind [`Keyring`], and go from one to another over the members' mTLS and no other way.

mod exposure;
mod keeper;
mod record;
mod rotation;
mod store;

pub use exposure::{Exposure, Leaver, Progress};
pub use keeper::{Clock, keep_keys};
pub use record::{KeyRecord, KeySet, Knower, Roles, SetNumber, Stage};
pub use rotation::GRACE;
pub(crate) use store::{HandOut, hand_out, serving};
#[cfg(test)]
pub(crate) use store::{KEY, read};

use machined_ids::Digest;
use std::collections::BTreeSet;
use std::io;

/// The secret keys on this machine. A set is known by its digest, which covers the public halves and so says nothing secret.
pub trait Keyring: Send + Sync + 'static {
    /// The sets that lie here whole.
    fn held(&self) -> BTreeSet<Digest>;

    /// Makes a new set; it lies here, through a power cut, before this returns.
    ///
    /// # Errors
    /// When the folder cannot be written, or the system has no randomness.
    fn make(&self) -> io::Result<Digest>;

    /// A set for another control-plane machine; `None` when it does not lie here. Secret: never logged, never in the store.
    fn reveal(&self, keys: &Digest) -> Option<Vec<u8>>;

    /// Keeps what another machine gave, through a power cut.
    ///
    /// # Errors
    /// When it is not that set, or the folder cannot be written.
    fn keep(&self, keys: &Digest, secret: &[u8]) -> io::Result<()>;

    /// Uses the sets so from now on, and removes every other from this machine. In effect when it returns.
    ///
    /// # Errors
    /// When a set is not here, or cannot be used.
    fn employ(&self, roles: &Roles<Digest>) -> io::Result<()>;
}
