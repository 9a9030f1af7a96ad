//! Small files: what other programs read, what survives a power cut, and the kernel's settings.

#[cfg(test)]
pub(crate) mod fake;
mod settings;

pub use settings::SettingsController;

use std::future::Future;
use std::path::{Path, PathBuf};

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}")]
pub struct FileError {
    /// "read", "write", "list".
    pub doing: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// How long a file must last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// Until the machine stops.
    Boot,
    /// Through a power cut: written, synchronised, renamed, and the folder synchronised, before the call returns.
    Durable,
}

/// Files of the machine.
pub trait FilesHost: Send + Sync + 'static {
    /// A whole file; `None` when there is none. Longer than `limit` bytes is an error.
    fn read(&self, path: &Path, limit: usize) -> impl Future<Output = Result<Option<Vec<u8>>, FileError>> + Send;
    /// Replaces a file so that readers see the old or the new one, never a part. Makes missing folders for [`Lasting::Boot`].
    fn replace(
        &self,
        path: &Path,
        bytes: &[u8],
        lasting: Lasting,
    ) -> impl Future<Output = Result<(), FileError>> + Send;
    /// Writes a value into an existing file of /proc or /sys; `false` when the kernel has no such file.
    fn set(&self, path: &Path, value: &str) -> impl Future<Output = Result<bool, FileError>> + Send;
}
