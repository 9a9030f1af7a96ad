//! Host extensions: read-only file systems that the machine's document names by digest, merged over the root when the machine starts.
//!
//! ```text
//! ledger read, EPHEMERAL mounted -> verify what is here -> measure -> attach, merge, load modules -> Merged --> containerd
//!                                                                                                      |
//!            document changes -> fetch, judge, keep -> merged at the next start            forget what nobody names
//! ```
//!
//! What is merged is decided once for each start, by what was whole then; machined started again finds the record of it on /run. A broken
//! extension is told and left out: it never keeps a machine from starting. Must never merge a file that the document does not name by its
//! digest, or a byte that no root hash vouches for. docs/decisions/0015-extensions.md says why it is so.

mod extension_merge;
mod judge;
mod record;
mod status;
#[cfg(test)]
mod tests;

pub use extension_merge::{ExtensionController, ExtensionError};
pub use judge::{ExtensionRefusal, judge};
pub use record::MergeRecord;
pub use status::{ExtensionState, ExtensionStatus};

use init_boot::artefact::{ExtensionDigest, ExtensionFolder, ExtensionHeader, ExtensionName};
use machined_runtime::Resource;
use std::collections::BTreeSet;
use std::future::Future;

/// What is about to be merged, for the TPM's register; the id is [`ToMeasure::ID`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToMeasure {
    /// In the order of their names.
    pub extensions: Vec<ExtensionDigest>,
}

impl ToMeasure {
    /// The id of the one list.
    pub const ID: &'static str = "extensions";
}

impl Resource for ToMeasure {
    const KIND: &'static str = "extensions to measure";
}

/// Extensions are merged, as far as they could be; what uses their files may start. The id is [`Merged::ID`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged;

impl Merged {
    /// The id of the one mark.
    pub const ID: &'static str = "merged";
}

impl Resource for Merged {
    const KIND: &'static str = "extensions merged";
}

/// Something on this machine could not be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct ExtensionHostError {
    /// "fetch https://...".
    pub doing: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The place for extensions, and the kernel. Every call may be made again after a power cut in it.
pub trait ExtensionHost: Send + Sync + 'static {
    /// The release of the running kernel.
    fn kernel(&self) -> String;
    /// The extensions that are kept here. That they are still whole is not said.
    fn kept(&self) -> impl Future<Output = Result<BTreeSet<ExtensionDigest>, ExtensionHostError>> + Send;
    /// Fetches one to the place for what was not judged yet, and compares all of it with its manifest. Gives its header.
    fn fetch(&self, url: &str) -> impl Future<Output = Result<ExtensionHeader, ExtensionHostError>> + Send;
    /// Keeps what was fetched last, through a power cut, under this digest.
    fn keep(&self, digest: ExtensionDigest) -> impl Future<Output = Result<(), ExtensionHostError>> + Send;
    /// The header of one that is kept.
    fn header(
        &self,
        digest: ExtensionDigest,
    ) -> impl Future<Output = Result<ExtensionHeader, ExtensionHostError>> + Send;
    /// Compares all of one that is kept with its manifest.
    fn verify(
        &self,
        digest: ExtensionDigest,
    ) -> impl Future<Output = Result<ExtensionHeader, ExtensionHostError>> + Send;
    /// Removes one.
    fn forget(&self, digest: ExtensionDigest) -> impl Future<Output = Result<(), ExtensionHostError>> + Send;
    /// Undoes what a machined that was killed while it merged left behind.
    fn clear(&self) -> impl Future<Output = Result<(), ExtensionHostError>> + Send;
    /// Maps and mounts one that is kept, out of everybody's way, under its name.
    fn attach(
        &self,
        digest: ExtensionDigest,
        header: &ExtensionHeader,
    ) -> impl Future<Output = Result<(), ExtensionHostError>> + Send;
    /// Merges a folder of attached ones, below the image's own files.
    fn merge(
        &self,
        folder: ExtensionFolder,
        names: &[ExtensionName],
    ) -> impl Future<Output = Result<(), ExtensionHostError>> + Send;
    /// Loads the modules of a merged one.
    fn load_modules(&self, name: &ExtensionName) -> impl Future<Output = Result<(), ExtensionHostError>> + Send;
}
