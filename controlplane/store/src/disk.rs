//! What the state machine wants of a disk: ordered tables of bytes, consistent views, atomic batches.
//!
//! `controlplane/replica` implements it on redb, [`MemDisk`](crate::MemDisk) in memory.

use bytes::Bytes;
use std::ops::{ControlFlow, Range};

/// The state machine's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// A handful of counters.
    Meta,
    /// Living keys to where their newest change is.
    Live,
    /// Revision and key to the change with its value.
    Change,
    /// Key and revision to whether it was put or deleted then.
    Past,
    /// Leases.
    Lease,
    /// Lease and key: which keys end with it.
    Leased,
}

impl Table {
    /// All of them, in the order in which a snapshot carries them.
    pub const ALL: [Table; 6] = [Table::Meta, Table::Live, Table::Change, Table::Past, Table::Lease, Table::Leased];

    /// The table's name on a disk that wants one.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Live => "live",
            Table::Change => "change",
            Table::Past => "past",
            Table::Lease => "lease",
            Table::Leased => "leased",
        }
    }
}

/// The disk could not do it, or holds what it should not.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the store's disk")]
pub struct DiskError {
    /// What was being done, as in "read", "write to".
    pub doing: &'static str,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Gets a key and a value; says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// One consistent state of the disk.
pub trait View {
    /// Reads a key.
    ///
    /// # Errors
    /// [`DiskError`] when the disk fails.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError>;

    /// Visits keys of a half-open range in order, until the visitor breaks.
    ///
    /// # Errors
    /// [`DiskError`] when the disk fails.
    fn scan(&self, table: Table, range: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), DiskError>;
}

/// Changes that take effect together; reads see what was written before in the same batch.
pub trait Batch: View {
    /// Writes a key.
    ///
    /// # Errors
    /// [`DiskError`] when the disk fails.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), DiskError>;

    /// Removes a key; one that is not there is no error.
    ///
    /// # Errors
    /// [`DiskError`] when the disk fails.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), DiskError>;
}

/// A place that keeps the tables.
pub trait Disk: Send + Sync {
    /// Opens a view of what was last committed.
    ///
    /// # Errors
    /// [`DiskError`] when the disk fails.
    fn view(&self) -> Result<Box<dyn View + '_>, DiskError>;

    /// Runs `change` on a batch and commits it; when it fails, nothing of it stays.
    ///
    /// # Errors
    /// What `change` returned, or [`DiskError`] when the commit fails.
    fn update(&self, change: &mut dyn FnMut(&mut dyn Batch) -> Result<(), DiskError>) -> Result<(), DiskError>;
}
