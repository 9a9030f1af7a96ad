//! The state machine: functions of a view or a batch. The same log applied in the same order gives the same tables anywhere.
//!
//! ```text
//! prepare(batch)                    once, when the disk is opened
//! apply(batch, txn) -> Applied      one revision when it writes
//! grant, renew, revoke              leases; a revocation deletes a bounded part of the keys, until it is done
//! compact(batch, revision)          logically: older reads are refused from here on
//! sweep(batch, limit) -> Swept      physically: removes a bounded part of what nobody can ask for any more
//! range(view, request), changes(view, ...), position(view), leases(view), lease(view, id)
//! ```

mod apply;
mod compact;
mod lease;
mod read;

#[cfg(test)]
mod model;

pub use apply::{Applied, apply};
pub use compact::{Swept, compact, sweep};
pub use lease::{Revoked, grant, keys_of, lease, leases, renew, revoke};
pub use read::{Changes, changes, range};

use crate::disk::{Batch, DiskError, View};
use crate::layout::{FORMAT, FORMAT_WITH_LEASES, damaged, meta, read_counter, write_counter};
use machined_ids::Revision;

/// Where an empty store begins.
pub const FIRST_REVISION: Revision = Revision(1);

/// Where the store is in its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be read at or watched after.
    pub oldest: Revision,
}

/// Makes the tables of an empty disk, and checks those of one in use.
///
/// # Errors
/// [`DiskError`] when the disk fails or was written in a format that this version does not know.
pub fn prepare(batch: &mut dyn Batch) -> Result<(), DiskError> {
    match read_counter(batch, meta::FORMAT)? {
        Some(FORMAT | FORMAT_WITH_LEASES) => Ok(()),
        Some(_) => Err(damaged("its format is of another version of Cairn; start the version that wrote it")),
        None => {
            write_counter(batch, meta::FORMAT, FORMAT)?;
            write_counter(batch, meta::REVISION, FIRST_REVISION.0)?;
            write_counter(batch, meta::COMPACTED, FIRST_REVISION.0)?;
            write_counter(batch, meta::SWEPT, FIRST_REVISION.0)
        }
    }
}

/// Reads where the store is.
///
/// # Errors
/// [`DiskError`] when the disk fails or was not prepared.
pub fn position(view: &dyn View) -> Result<Position, DiskError> {
    let counter = |name| read_counter(view, name)?.map(Revision).ok_or_else(|| damaged("its counters are missing"));
    Ok(Position { revision: counter(meta::REVISION)?, oldest: counter(meta::COMPACTED)? })
}
