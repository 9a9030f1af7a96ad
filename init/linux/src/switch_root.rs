//! Leaving the initramfs: its files are removed, the mounts move along, the new root takes its place.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{chdir, chroot};

use crate::error::SystemError;
use crate::mounts::move_mount;

/// RAMFS_MAGIC of linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
/// What stage one mounted and stage two goes on using.
const CARRIED: [&str; 4] = ["dev", "proc", "run", "sys"];

pub(crate) fn switch_root(new_root: &Path) -> Result<(), SystemError> {
    for name in CARRIED {
        move_mount(&Path::new("/").join(name), &new_root.join(name))?;
    }
    clear_initramfs(new_root)?;
    chdir(new_root).map_err(|source| SystemError::path("chdir", new_root, source))?;
    move_mount(Path::new("."), Path::new("/"))?;
    chroot(".").map_err(|source| SystemError::path("chroot", new_root, source))?;
    chdir("/").map_err(|source| SystemError::new("chdir", "/", source))
}

/// Removes the initramfs's files, which nobody could reach any more but which would keep their memory.
///
/// It refuses to touch anything but a file system in memory, and never goes into another one.
fn clear_initramfs(new_root: &Path) -> Result<(), SystemError> {
    let failed = |source| SystemError::new("clear", "the initramfs", source);
    let kind: FsType = statfs("/").map_err(|source| SystemError::new("statfs", "/", source))?.filesystem_type();
    if kind != RAMFS_MAGIC && kind != TMPFS_MAGIC {
        return Ok(());
    }
    let device = fs::metadata("/").map_err(failed)?.dev();
    for entry in fs::read_dir("/").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let metadata = entry.metadata().map_err(failed)?;
        if metadata.dev() != device || path == new_root || CARRIED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let removed = match metadata.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(failed)?;
    }
    Ok(())
}
