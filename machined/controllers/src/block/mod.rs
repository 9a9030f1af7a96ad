//! Block devices: what a controller asks of them, and the volumes that come of it.

mod volume_spec;

pub use volume_spec::{VolumeController, VolumeError};

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
    /// Makes an ext4 file system.
    fn format(&self, device: &Path, label: &str) -> impl Future<Output = Result<(), BlockError>> + Send;
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
