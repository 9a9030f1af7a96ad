//! The walls around containers: a PID namespace and a mount namespace that containerd, shims and pods share and that the machine's own
//! processes stay out of (pid_namespaces(7), mount_namespaces(7)), and what nothing in there may ever do again.
//!
//! machined starts the namespace's first process, and containerd in it; PID 1's program builds the file system that is seen there.
//! The choice of what is seen is not made here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::SystemError;
use crate::process::ProcessHandle;
use crate::sandbox::escapes;

/// Capabilities that nothing behind the walls has: to load kernel modules, and to restart the machine or start another kernel.
const GIVEN_UP: [u32; 2] = [16, 22];

/// Starts a process as the first one of a new PID namespace, in a mount namespace of its own that is a copy of the caller's.
///
/// # Errors
/// When namespaces or process cannot be made.
pub fn spawn_behind_new_walls(command: &mut Command) -> Result<Child, SystemError> {
    let leave = || Ok(unshare(CloneFlags::CLONE_NEWNS)?);
    // SAFETY: the closure runs between fork and exec and makes one system call.
    unsafe { command.pre_exec(leave) };
    spawn_from_own_thread(command, || Ok(unshare(CloneFlags::CLONE_NEWPID)?))
}

/// Starts a process in the PID and mount namespaces of another one, confined as everything there is.
///
/// # Errors
/// When the other process is gone, or the new one cannot be started.
pub fn spawn_behind_walls(command: &mut Command, of: &ProcessHandle) -> Result<Child, SystemError> {
    let handle = |source| SystemError::new("dup", "a process handle", source);
    let inside: OwnedFd = of.as_fd().try_clone_to_owned().map_err(handle)?;
    let confinement = Confinement::prepare();
    let enter = move || {
        // The working directory and the root become the namespace's own with it.
        setns(&inside, CloneFlags::CLONE_NEWNS)?;
        confinement.put_on()
    };
    // SAFETY: the closure runs between fork and exec and makes system calls only: setns, prctl. Descriptor and filter were made
    // before the fork.
    unsafe { command.pre_exec(enter) };
    spawn_from_own_thread(command, || Ok(setns(of.as_fd(), CloneFlags::CLONE_NEWPID)?))
}

/// The PID namespace of a thread's children is chosen for good before they are made: so the thread is one that nobody else uses.
fn spawn_from_own_thread(
    command: &mut Command,
    choose: impl FnOnce() -> io::Result<()> + Send,
) -> Result<Child, SystemError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = std::thread::scope(|scope| {
        let work = move || {
            choose()?;
            command.spawn()
        };
        let thread = std::thread::Builder::new().name("walls".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that changes namespaces panicked")))
    });
    spawned.map_err(|source| SystemError::new("spawn behind walls", program, source))
}

/// What is taken from the calling process and all that it will ever start.
#[derive(Debug)]
pub(crate) struct Confinement(escapes::Filter);

impl Confinement {
    /// Makes the filter, so that putting it on needs no memory.
    pub(crate) fn prepare() -> Self {
        Self(escapes::Filter::new())
    }

    /// Takes it away, for good: a bounding set never grows again, and a filter is never taken off.
    pub(crate) fn put_on(&self) -> io::Result<()> {
        for capability in GIVEN_UP {
            // SAFETY: PR_CAPBSET_DROP takes one integer and touches no memory of ours.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.0.install()
    }
}

#[cfg(test)]
mod tests;
