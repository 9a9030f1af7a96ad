//! The one error of this crate: which call failed, on what, and the kernel's answer.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use thiserror::Error;

/// A system call that failed.
#[derive(Debug, Error)]
#[error("{call} failed for {subject}")]
pub struct SystemError {
    /// What was being done, in the manual's word for it: "mount", "finit_module".
    pub call: &'static str,
    /// With what: a path, a name, a process id.
    pub subject: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl SystemError {
    /// Takes any cause that is an operating system error.
    pub fn new(call: &'static str, subject: impl ToString, source: impl Into<io::Error>) -> Self {
        Self { call, subject: subject.to_string(), source: source.into() }
    }

    /// An error about a path.
    pub(crate) fn path(call: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::new(call, path.display(), source)
    }

    /// The error number; `None` when the cause is not the kernel's.
    pub fn errno(&self) -> Option<Errno> {
        self.source.raw_os_error().map(Errno::from_raw)
    }

    /// The whole story in one line, for logs that take text only.
    pub fn story(&self) -> String {
        format!("{self}: {}", self.source)
    }
}
