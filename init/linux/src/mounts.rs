//! mount(2) and umount(2).

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount as mount_call, umount2};

use crate::error::SystemError;
use crate::kernel::{Mount, MountFlag};

pub(crate) fn mount(mount: &Mount) -> Result<(), SystemError> {
    let flags = mount.flags.iter().fold(MsFlags::empty(), |flags, flag| flags | bits(*flag));
    let options = Some(mount.options.as_str()).filter(|options| !options.is_empty());
    mount_call(Some(&mount.source), &mount.target, Some(mount.kind), flags, options)
        .map_err(|source| SystemError::path("mount", &mount.target, source))
}

pub(crate) fn unmount(target: &Path) -> Result<(), SystemError> {
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

const fn bits(flag: MountFlag) -> MsFlags {
    match flag {
        MountFlag::ReadOnly => MsFlags::MS_RDONLY,
        MountFlag::NoDevices => MsFlags::MS_NODEV,
        MountFlag::NoExecute => MsFlags::MS_NOEXEC,
        MountFlag::NoSetUserId => MsFlags::MS_NOSUID,
    }
}
