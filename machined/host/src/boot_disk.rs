//! The disk that this machine runs from: what carries the verified root.
//!
//! An installer's medium, or a second disk with a Cairn on it, has partitions with the same labels. Whatever is looked for by its label
//! is looked for on this disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Mapped devices below each other: verity on a part of a CD are two.
const LAYERS_MAX: usize = 4;

/// The kernel's name of the disk, such as `nvme0n1`; `None` when the root does not lie on a block device.
#[must_use]
pub fn boot_disk() -> Option<String> {
    let device = std::fs::metadata("/").ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    disk_below(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
}

/// Follows mapped devices down to the disk.
fn disk_below(device: &Path) -> Option<String> {
    let mut device = std::fs::canonicalize(device).ok()?;
    for _ in 0..LAYERS_MAX {
        let mut below = std::fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
        let Some(first) = below.next() else { break };
        device = std::fs::canonicalize(first.path()).ok()?;
    }
    disk_of(&device)
}

/// The disk of a partition, or the disk itself: a partition's folder lies in its disk's.
pub(crate) fn disk_of(device: &Path) -> Option<String> {
    let disk = if device.join("partition").exists() { device.parent()? } else { device };
    Some(disk.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_disk_below_verity_is_found_through_a_partition_and_through_a_part_of_a_cd() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let at = |path: &str| folder.path().join(path);
        for path in ["sda/sda2", "sda/slaves", "sr0/slaves", "dm-0/slaves", "dm-1/slaves"] {
            std::fs::create_dir_all(at(path)).expect("because the folder is ours");
        }
        std::fs::write(at("sda/sda2/partition"), "2\n").expect("because the folder is ours");
        symlink(at("sda/sda2"), at("dm-0/slaves/sda2")).expect("because the folder is ours");
        assert_eq!(disk_below(&at("dm-0")).as_deref(), Some("sda"));
        std::fs::remove_file(at("dm-0/slaves/sda2")).expect("because it is there");
        symlink(at("sr0"), at("dm-0/slaves/sr0")).expect("because the folder is ours");
        symlink(at("dm-0"), at("dm-1/slaves/dm-0")).expect("because the folder is ours");
        assert_eq!(disk_below(&at("dm-1")).as_deref(), Some("sr0"));
    }
}
