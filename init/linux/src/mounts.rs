//! mount(2), umount(2) and pivot_root(2).

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount as mount_call, umount2};

use nix::unistd::{chdir, pivot_root};

use crate::error::SystemError;
use crate::kernel::{Mount, MountFlag, Propagation};

/// Mounts.
///
/// # Errors
/// When mount(2) fails.
pub fn mount(mount: &Mount) -> Result<(), SystemError> {
    let flags = mount.flags.iter().fold(MsFlags::empty(), |flags, flag| flags | bits(*flag));
    let options = Some(mount.options.as_str()).filter(|options| !options.is_empty());
    mount_call(Some(&mount.source), &mount.target, Some(mount.kind), flags, options)
        .map_err(|source| SystemError::path("mount", &mount.target, source))
}

/// Unmounts, never lazily: what is still used fails.
///
/// # Errors
/// When umount(2) fails.
pub fn unmount(target: &Path) -> Result<(), SystemError> {
    // UMOUNT_NOFOLLOW: a link that somebody left at a mount point must not lead elsewhere.
    umount2(target, MntFlags::UMOUNT_NOFOLLOW).map_err(|source| SystemError::path("umount", target, source))
}

pub(crate) fn make_read_only(target: &Path) -> Result<(), SystemError> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount_call(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(|source| SystemError::path("remount read-only", target, source))
}

/// Moves a mount to another place in the same name space.
pub(crate) fn move_mount(from: &Path, to: &Path) -> Result<(), SystemError> {
    mount_call(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|source| SystemError::path("move mount", from, source))
}

pub(crate) fn bind(from: &Path, to: &Path) -> Result<(), SystemError> {
    mount_call(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|source| SystemError::path("bind", from, source))
}

pub(crate) fn propagate(target: &Path, propagation: Propagation) -> Result<(), SystemError> {
    let kind = match propagation {
        Propagation::Shared => MsFlags::MS_SHARED,
        Propagation::Slave => MsFlags::MS_SLAVE,
    };
    mount_call(None::<&str>, target, None::<&str>, kind | MsFlags::MS_REC, None::<&str>)
        .map_err(|source| SystemError::path("change propagation", target, source))
}

/// The new root is put over the old one, which is then taken away from below it, with all its mounts (pivot_root(2), "pivot_root(".",
/// ".")").
pub(crate) fn enter_root(new_root: &Path) -> Result<(), SystemError> {
    let failed = |call, source| SystemError::path(call, new_root, source);
    chdir(new_root).map_err(|source| failed("chdir", source))?;
    pivot_root(".", ".").map_err(|source| failed("pivot_root", source))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|source| failed("umount the old root below", source))?;
    chdir("/").map_err(|source| failed("chdir", source))
}

const fn bits(flag: MountFlag) -> MsFlags {
    match flag {
        MountFlag::ReadOnly => MsFlags::MS_RDONLY,
        MountFlag::NoDevices => MsFlags::MS_NODEV,
        MountFlag::NoExecute => MsFlags::MS_NOEXEC,
        MountFlag::NoSetUserId => MsFlags::MS_NOSUID,
    }
}
