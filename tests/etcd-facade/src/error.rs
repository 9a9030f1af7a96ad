//! The store's refusals in etcd's words: its clients know errors by their text.

use controlplane_store::{LeaseProblem, StoreError};
use tonic::Status;

/// As etcd says it.
pub(crate) fn status(error: StoreError) -> Status {
    match &error {
        StoreError::Compacted { .. } => Status::out_of_range("etcdserver: mvcc: required revision has been compacted"),
        StoreError::Future { .. } => Status::out_of_range("etcdserver: mvcc: required revision is a future revision"),
        StoreError::TooLarge { .. } => Status::invalid_argument("etcdserver: request is too large"),
        StoreError::Invalid { reason: "it writes a key twice" } => {
            Status::invalid_argument("etcdserver: duplicate key given in txn request")
        }
        StoreError::Invalid { reason } => Status::invalid_argument(format!("etcdserver: {reason}")),
        StoreError::Lease { problem, .. } => match problem {
            LeaseProblem::Missing => Status::not_found("etcdserver: requested lease not found"),
            LeaseProblem::Exists => Status::failed_precondition("etcdserver: lease already exists"),
            LeaseProblem::TooMany | LeaseProblem::Renewed => Status::resource_exhausted(format!("etcdserver: {error}")),
        },
        // Before the first is granted here, there is none.
        StoreError::Level { .. } => Status::not_found("etcdserver: requested lease not found"),
        StoreError::Unavailable { reason, .. } => Status::unavailable(format!("etcdserver: {reason}")),
        StoreError::Lagged => Status::resource_exhausted("etcdserver: the watcher was too slow"),
    }
}

pub(crate) fn no_key() -> Status {
    Status::invalid_argument("etcdserver: key is not provided")
}

/// What this facade, or the store below it, does not do.
pub(crate) fn not_here(what: &str) -> Status {
    Status::unimplemented(format!("etcd-facade: {what} is not served"))
}
