//! Resource limits (setrlimit(2)); soft and hard ones are the same, so that nothing can raise them.

use std::io;

use nix::sys::resource::{Resource, setrlimit};

/// A bound on one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The highest descriptor number plus one.
    OpenFiles(u64),
    /// The size of a file that it writes, in bytes; a larger write ends it with SIGXFSZ.
    FileBytes(u64),
    /// Its address space, in bytes.
    AddressSpaceBytes(u64),
    /// Processor time, in seconds; more ends it.
    CpuSeconds(u64),
    /// Processes and threads of its user.
    Processes(u64),
    /// The size of a core dump, in bytes; 0 keeps secrets off the disk.
    CoreBytes(u64),
}

impl Limit {
    pub(super) fn apply(&self) -> io::Result<()> {
        let (resource, value) = match *self {
            Self::OpenFiles(files) => (Resource::RLIMIT_NOFILE, files),
            Self::FileBytes(bytes) => (Resource::RLIMIT_FSIZE, bytes),
            Self::AddressSpaceBytes(bytes) => (Resource::RLIMIT_AS, bytes),
            Self::CpuSeconds(seconds) => (Resource::RLIMIT_CPU, seconds),
            Self::Processes(processes) => (Resource::RLIMIT_NPROC, processes),
            Self::CoreBytes(bytes) => (Resource::RLIMIT_CORE, bytes),
        };
        Ok(setrlimit(resource, value, value)?)
    }
}
