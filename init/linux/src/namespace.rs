//! Network name spaces: making them last under a path, and working inside of one.
//!
//! A thread belongs to a name space, not a process; so work is done on a thread of its own, which ends with it and
//! can never go on in the wrong one.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::SystemError;

const OWN_NETWORK: &str = "/proc/thread-self/ns/net";

/// Makes a network name space and keeps it under `path` until [`remove_network_namespace`]; there is nothing in it
/// but a loopback link that is down.
///
/// # Errors
/// When `path` exists, or the caller may not make name spaces.
pub fn create_network_namespace(path: &Path) -> Result<(), SystemError> {
    File::create_new(path).map_err(|source| SystemError::path("create", path, source))?;
    let made = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|source| SystemError::path("unshare(CLONE_NEWNET)", path, source))?;
        mount(Some(OWN_NETWORK), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|source| SystemError::path("bind mount", path, source))
    });
    if made.is_err() {
        // The empty file says nothing to anybody; that it stays is no second error.
        let _: io::Result<()> = std::fs::remove_file(path);
    }
    made
}

/// Lets go of a network name space; what still runs in it keeps it. One that is gone already is fine.
///
/// # Errors
/// When it cannot be unmounted or its file not removed.
pub fn remove_network_namespace(path: &Path) -> Result<(), SystemError> {
    use nix::errno::Errno;
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: a file that nothing is mounted on, as a power cut leaves it.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(source) => return Err(SystemError::path("umount", path, source)),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SystemError::path("unlink", path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Runs `work` on a thread inside of the network name space at `path` and gives what it gives. Sockets opened there
/// stay there.
///
/// # Errors
/// When the name space cannot be entered; `work` has not run then.
pub fn in_network_namespace<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, SystemError> {
    let namespace = File::open(path).map_err(|source| SystemError::path("open", path, source))?;
    on_own_thread(|| {
        enter_network_namespace(&namespace).map_err(|source| SystemError::path("setns", path, source))?;
        Ok(work())
    })
}

/// Moves the calling thread, for good; meant for a thread that does nothing else afterwards.
fn enter_network_namespace(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, SystemError> + Send) -> Result<T, SystemError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work);
        let thread = thread.map_err(|source| SystemError::new("start", "a thread", source))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
