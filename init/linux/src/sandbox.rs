//! A cage for a child that reads bytes from strangers: no privileges, few system calls, few files, bounded resources.
//!
//! gitsync's fetch child runs in it. Everything is worked out and opened before the fork; between fork and exec there
//! are system calls only. The order matters: limits, user, no_new_privs, Landlock, seccomp last, for it forbids some
//! of the former.

pub(crate) mod escapes;
mod landlock;
mod limits;
mod seccomp;

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::error::SystemError;

pub use limits::Limit;

/// What the child may still do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The user and group to become; `None` stays who the parent is, which only a parent without privileges should
    /// want.
    pub identity: Option<Identity>,
    /// Bounds on what it takes.
    pub limits: Vec<Limit>,
    /// The files that it reaches; the program itself is always among them.
    pub paths: Vec<PathRule>,
    /// Whether it reaches the network.
    pub network: NetworkUse,
    /// What to do on a kernel without Landlock.
    pub landlock: Demand,
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: u32,
    /// The group; supplementary groups are dropped.
    pub group: u32,
}

/// A file, or a directory with all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// Where; it must exist.
    pub path: PathBuf,
    /// What may be done there.
    pub access: PathAccess,
}

/// What may be done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathAccess {
    /// Read files, list directories.
    Read,
    /// Read and start programs.
    Execute,
    /// Read, write, make, rename and remove files and directories; never devices or sockets.
    ReadWrite,
}

/// What kinds of sockets work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkUse {
    /// Unix sockets only.
    None,
    /// Also connections over IP; listening on TCP ports is refused where Landlock can.
    Client,
}

/// How much a protection is insisted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Without it the child is not started.
    Required,
    /// On a developer's kernel without it the child runs with the rest.
    IfAvailable,
}

/// Which protections a command got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The Landlock version that is enforced; `None` when the kernel has none.
    pub landlock: Option<u32>,
}

impl Sandbox {
    /// Adds the cage to a command. To be the last change to it: what is added later runs caged.
    ///
    /// # Errors
    /// When a path cannot be opened, or Landlock is demanded and missing.
    pub fn apply_in_child(&self, command: &mut Command) -> Result<Applied, SystemError> {
        let mut paths = self.paths.clone();
        let program = Path::new(command.get_program());
        if program.is_absolute() {
            paths.push(PathRule { path: program.to_owned(), access: PathAccess::Execute });
        }
        let ruleset = landlock::Ruleset::prepare(&paths, self.network)?;
        if ruleset.is_none() && self.landlock == Demand::Required {
            let missing = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            return Err(SystemError::new("landlock_create_ruleset", program.display(), missing));
        }
        let applied = Applied { landlock: ruleset.as_ref().map(landlock::Ruleset::version) };
        let filter = seccomp::Filter::new(self.network);
        let limits = self.limits.clone();
        let identity = self.identity;
        let enter = move || -> io::Result<()> {
            limits.iter().try_for_each(Limit::apply)?;
            if let Some(identity) = identity {
                become_identity(identity)?;
            }
            nix::sys::prctl::set_no_new_privs()?;
            if let Some(ruleset) = &ruleset {
                ruleset.restrict_self()?;
            }
            filter.install()
        };
        // SAFETY: the closure runs between fork and exec and makes system calls only; ruleset and filter were made
        // before the fork, and nothing in it allocates or takes locks.
        unsafe { command.pre_exec(enter) };
        Ok(applied)
    }
}

/// Groups first: afterwards we may not change them any more.
fn become_identity(identity: Identity) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(identity.user), Gid::from_raw(identity.group));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    Ok(())
}

#[cfg(test)]
mod tests;
