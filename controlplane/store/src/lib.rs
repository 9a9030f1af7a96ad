//! The cluster's memory: a pure MVCC state machine and the [`Store`] interface through which everybody uses it.
//!
//! Keys and values are opaque bytes; every change has a global [`Revision`](machined_ids::Revision). This crate knows no
//! Kubernetes, no consensus, no clock and no file: `controlplane/replica` orders the changes and keeps them, the API server is
//! the main user, and [`LocalStore`] is a whole store in memory for tests.
//!
//! - [`machine`]: the state machine, functions over a [`View`] or a [`Batch`]: apply, range, changes, compaction
//! - [`disk`](Disk): ordered pages with atomic batches, and [`MemDisk`]
//! - [`hub`](Hub): who watches what, with bounded buffers; [`CatchUp`] joins history and hub to a [`Watcher`]

mod disk;
mod hub;
mod interface;
mod layout;
mod limits;
mod local;
#[cfg(test)]
mod local_tests;
pub mod machine;
mod memory;
mod watcher;

pub use disk::{Batch, Disk, DiskError, Table, View, Visit};
pub use hub::{Hub, Subscription};
pub use interface::{
    Answer, BoxFuture, Condition, Consistency, Entry, Event, EventBatch, Lease, LeaseId, LeaseProblem, Op, OpAnswer,
    RangeAnswer, RangeRequest, Store, StoreError, Txn, Watcher,
};
pub use layout::prefix_end;
pub use limits::{KEY_LIMIT, LEASES_LIMIT, OPS_LIMIT, TXN_LIMIT, VALUE_LIMIT, WATCH_BUFFER_LIMIT, check};
pub use local::LocalStore;
pub use memory::MemDisk;
pub use watcher::CatchUp;
