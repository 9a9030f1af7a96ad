//! Block devices: what a controller asks of them, and the volumes that come of it.

mod encryption;
mod enrolment;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_peers;
mod layout;
mod peers;
mod reseal;
mod share_book;
#[cfg(test)]
mod tests;
mod volume_enrolment;
mod volume_error;
mod volume_spec;

pub use encryption::{Encryption, EncryptionError, Kept, Opener, VolumeInbox, VolumeReply, VolumeRequest};
pub use peers::{PeerError, PeerHost, Reached, ShareToKeep};
pub use reseal::Health;
pub use share_book::{ShareBookController, ShareBookError, ShareInbox, ShareRefusal, ShareRequest};
pub use volume_error::VolumeError;
pub use volume_spec::VolumeController;

use machined_luks::{Header, SignedPolicy, VolumeKey, Write};
use machined_runtime::Resource;
use std::future::Future;
use std::path::{Path, PathBuf};

/// What lies on a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Nothing that anybody would miss: the first blocks are zero.
    Empty,
    /// An ext2, ext3 or ext4 file system.
    Ext4,
    /// A LUKS2 volume, damaged ones included.
    Luks,
    /// Something else; it is never formatted over.
    Unknown,
}

/// Why a block device could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The kernel's list of block devices could not be read.
    #[error("cannot read {path}, the kernel's list of block devices")]
    List {
        /// File or folder below /sys.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A device could not be read or written.
    #[error("cannot access the device {device}")]
    Access {
        /// Device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file system tool could not be started.
    #[error("cannot run {program} on {device}")]
    Run {
        /// The tool.
        program: &'static str,
        /// Device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file system tool reported a failure.
    #[error("{program} on {device} ended with {status}: {output}")]
    Tool {
        /// The tool.
        program: &'static str,
        /// Device file.
        device: PathBuf,
        /// Its exit status, in words.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// Encrypted data could not be mapped.
    #[error("cannot open the encrypted data on {device}")]
    Map {
        /// The partition.
        device: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The mount failed.
    #[error("cannot mount {device} at {target}")]
    Mount {
        /// Device file.
        device: PathBuf,
        /// Mount point.
        target: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A folder of the volume could not be made.
    #[error("cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the block controllers ask of the machine.
pub trait BlockHost: Send + Sync + 'static {
    /// The device of the partition with this GPT label, if the kernel shows one.
    fn partition(&self, label: &str) -> impl Future<Output = Result<Option<PathBuf>, BlockError>> + Send;
    /// What lies on a device.
    fn contents(&self, device: &Path) -> impl Future<Output = Result<Contents, BlockError>> + Send;
    /// Notes on the partition that nothing of value is on it yet, or that all of it is whole. While the note stands, the partition counts
    /// as empty. Gives the bytes before the note.
    fn note(&self, device: &Path, formatting: bool) -> impl Future<Output = Result<u64, BlockError>> + Send;
    /// Makes an ext4 file system with this many bytes.
    fn format(&self, device: &Path, label: &str, bytes: u64) -> impl Future<Output = Result<(), BlockError>> + Send;
    /// The first [`machined_luks::FRONT_BYTES`] of a partition.
    fn front(&self, device: &Path) -> impl Future<Output = Result<Vec<u8>, BlockError>> + Send;
    /// Writes each, and synchronises it before the next.
    fn write(&self, device: &Path, writes: Vec<Write>) -> impl Future<Output = Result<(), BlockError>> + Send;
    /// Maps a volume's data under a name; gives the device.
    fn map(
        &self,
        name: &str,
        device: &Path,
        header: &Header,
        key: &VolumeKey,
    ) -> impl Future<Output = Result<PathBuf, BlockError>> + Send;
    /// What the running image brings of its policy; none when it brings none.
    fn policy(&self) -> impl Future<Output = Option<SignedPolicy>> + Send;
    /// Random bytes.
    fn random(&self, bytes: &mut [u8]);
    /// Repairs what can be repaired without asking.
    fn check(&self, device: &Path) -> impl Future<Output = Result<(), BlockError>> + Send;
    /// Whether something is mounted at `target`.
    fn is_mounted(&self, target: &Path) -> impl Future<Output = Result<bool, BlockError>> + Send;
    /// Mounts an ext4 file system.
    fn mount(&self, device: &Path, target: &Path) -> impl Future<Output = Result<(), BlockError>> + Send;
    /// Makes a folder with these permission bits; an existing one gets them.
    fn make_folder(&self, path: &Path, mode: u32) -> impl Future<Output = Result<(), BlockError>> + Send;
}

/// A mounted volume; the id is its mount point ("/state").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Device file behind it; empty when another program had mounted it already.
    pub device: PathBuf,
    /// Whether this boot formatted it.
    pub formatted: bool,
}

impl Resource for Volume {
    const KIND: &'static str = "volume";
}

/// Where the STATE volume is mounted.
pub const STATE: &str = "/state";
/// Where the EPHEMERAL volume is mounted.
pub const EPHEMERAL: &str = "/var";
