//! The machine's identity key: in the TPM where there is one, else on the disk. Made at first boot, and kept in META.
//!
//! META holds either the key itself (PKCS#8 PEM) or the key as its TPM wrapped it. What is there decides; nothing that is there is ever
//! replaced, because peers and the repository know the old key: a machine whose key cannot be used says why and has no identity.

mod load;
mod machine_key;
#[cfg(test)]
mod tests;

pub use load::{IdentityController, IdentityLoadError};
pub use machine_key::MachineKey;

use init_boot::{MetaError, MetaKind};
use std::future::Future;
use std::path::PathBuf;

/// Why a META record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetaAccessError {
    /// The kernel shows no META partition.
    #[error("the kernel shows no partition labelled CAIRN-META; was the disk written from a Cairn image?")]
    Missing,
    /// The device refused.
    #[error("cannot access META on {device}")]
    Access {
        /// Device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The record is not whole.
    #[error("the META record on {device} is damaged")]
    Record {
        /// Device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: MetaError,
    },
}

/// The META partition.
pub trait MetaHost: Send + Sync + 'static {
    /// The content of a record; `None` when it was never written.
    fn read(&self, kind: MetaKind) -> impl Future<Output = Result<Option<Vec<u8>>, MetaAccessError>> + Send;
    /// Writes a record and returns when it is on the disk.
    fn write(&self, kind: MetaKind, bytes: Vec<u8>) -> impl Future<Output = Result<(), MetaAccessError>> + Send;
}
