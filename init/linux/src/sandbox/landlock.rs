//! Landlock rules by system call (landlock(7)): an allowlist of paths, and no TCP listening.
//!
//! Rights that a kernel does not know yet are not asked of it; what it knows is handled, and so denied wherever no
//! rule allows it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{self, c_long};

use super::{NetworkUse, PathAccess, PathRule};
use crate::error::SystemError;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

/// Rights that make sense on something that is no directory; the kernel refuses others there.
const FILE_RIGHTS: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;
const BIND_TCP: u64 = 1 << 0;
const CONNECT_TCP: u64 = 1 << 1;
/// Abstract Unix sockets and signals to processes outside of the cage.
const SCOPES: u64 = 0b11;

/// `struct landlock_ruleset_attr`; older kernels take a shorter one.
#[repr(C)]
struct RulesetAttribute {
    handled_files: u64,
    handled_network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// A ruleset that a child can put on.
#[derive(Debug)]
pub(super) struct Ruleset {
    descriptor: OwnedFd,
    version: u32,
}

impl Ruleset {
    /// Makes the ruleset; `None` on a kernel without Landlock.
    pub(super) fn prepare(paths: &[PathRule], network: NetworkUse) -> Result<Option<Self>, SystemError> {
        let Some(version) = kernel_version() else {
            return Ok(None);
        };
        let failed = || SystemError::new("landlock_create_ruleset", "a child", io::Error::last_os_error());
        let attribute = RulesetAttribute {
            handled_files: known_file_rights(version),
            handled_network: match network {
                NetworkUse::None => BIND_TCP | CONNECT_TCP,
                NetworkUse::Client => BIND_TCP,
            },
            scoped: SCOPES,
        };
        let size: usize = match version {
            0..=3 => 8,
            4..=5 => 16,
            6.. => 24,
        };
        // SAFETY: the kernel reads `size` bytes, at most the size of the structure, which outlives the call.
        let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attribute, size, 0_u32) };
        let number = i32::try_from(answer).ok().filter(|number| *number >= 0).ok_or_else(failed)?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        let ruleset = Self { descriptor, version };
        for rule in paths {
            ruleset.allow(&rule.path, rule.access)?;
        }
        Ok(Some(ruleset))
    }

    /// The kernel's version of Landlock.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Puts it on the calling thread, for good.
    pub(super) fn restrict_self(&self) -> io::Result<()> {
        // SAFETY: landlock_restrict_self takes two integers and touches no memory of ours.
        match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.descriptor.as_raw_fd(), 0_u32) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn allow(&self, path: &Path, access: PathAccess) -> Result<(), SystemError> {
        let failed = |source| SystemError::path("landlock_add_rule", path, source);
        let opened: File =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path).map_err(failed)?;
        let is_directory = opened.metadata().map_err(failed)?.is_dir();
        let mut allowed = rights(access) & known_file_rights(self.version);
        if !is_directory {
            allowed &= FILE_RIGHTS;
        }
        let rule = PathBeneath { allowed, parent: opened.as_raw_fd() };
        let ruleset = self.descriptor.as_raw_fd();
        // SAFETY: the kernel reads one packed rule, which outlives the call, as does the descriptor in it.
        let answer =
            unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &raw const rule, 0_u32) };
        match answer {
            0 => Ok(()),
            _ => Err(failed(io::Error::last_os_error())),
        }
    }
}

fn kernel_version() -> Option<u32> {
    let nothing = std::ptr::null::<RulesetAttribute>();
    // SAFETY: with this flag the kernel reads no attribute and only answers with its version.
    let answer: c_long =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, CREATE_RULESET_VERSION) };
    u32::try_from(answer).ok().filter(|version| *version > 0)
}

/// Everything about files that this version of Landlock can deny, the newest right last.
const fn known_file_rights(version: u32) -> u64 {
    let rights = match version {
        0..=1 => 13,
        2 => 14,
        3..=4 => 15,
        5.. => 16,
    };
    (1 << rights) - 1
}

const fn rights(access: PathAccess) -> u64 {
    match access {
        PathAccess::Read => READ_FILE | READ_DIR,
        PathAccess::Execute => READ_FILE | READ_DIR | EXECUTE,
        PathAccess::ReadWrite => {
            READ_FILE
                | READ_DIR
                | WRITE_FILE
                | TRUNCATE
                | REMOVE_DIR
                | REMOVE_FILE
                | MAKE_DIR
                | MAKE_REG
                | MAKE_SYM
                | REFER
        }
    }
}
