//! The cluster's memory: a pure MVCC state machine and the [`Store`] interface through which everybody uses it.
//!
//! Keys and values are opaque bytes; every change has a global [`Revision`]. This crate knows no Kubernetes, no consensus, no
//! clock and no disk: `controlplane/replica` orders the changes and keeps them, the API server is the main user.

mod interface;

pub use interface::{
    Answer, BoxFuture, Condition, Consistency, Entry, Event, EventBatch, Op, OpAnswer, RangeAnswer, RangeRequest,
    Store, StoreError, Txn, Watcher,
};
