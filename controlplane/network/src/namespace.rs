//! Network namespaces of pods: made, pinned by a bind mount, entered for set-up, removed.
//!
//! A pinned namespace outlives every process in it, so a sandbox that dies and comes back keeps its address, and a
//! restarted agent finds it by path. Each operation runs on a thread of its own, because the namespace of a thread
//! of the async runtime must never change.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the network namespace {path}")]
pub struct NamespaceError {
    /// The verb: "make", "enter" or "remove".
    pub doing: &'static str,
    /// Where it is, or should be, pinned.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Makes an empty network namespace and pins it at `path`; one that is already pinned there is kept.
///
/// # Errors
/// When the kernel refuses, usually because the caller is not root.
pub fn create(path: &Path) -> Result<(), NamespaceError> {
    let failed = |source| NamespaceError { doing: "make", path: path.to_owned(), source };
    if is_pinned(path) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    File::create(path).map_err(failed)?;
    let target = path.to_owned();
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
    .map_err(failed)
}

/// Unpins the namespace; it goes away with the last process in it. A missing one is no error.
///
/// # Errors
/// When it cannot be unmounted or its file cannot be removed.
pub fn remove(path: &Path) -> Result<(), NamespaceError> {
    let failed = |source| NamespaceError { doing: "remove", path: path.to_owned(), source };
    if is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(|errno| failed(errno.into()))?;
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Runs `work` on a new thread inside the namespace and returns its result.
///
/// # Errors
/// When the namespace cannot be entered or `work` fails.
pub fn enter<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T, NamespaceError> {
    let failed = |source| NamespaceError { doing: "enter", path: path.to_owned(), source };
    let namespace = File::open(path).map_err(failed)?;
    on_own_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
    .map_err(failed)
}

/// Whether a network namespace is pinned at `path`: an `nsfs` file, not the empty file under it.
#[must_use]
pub fn is_pinned(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that changes namespaces panicked")))
    })
}
