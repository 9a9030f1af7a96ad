//! Puts planned volumes onto the disk and takes them away again.
//!
//! Files live in a folder of their own behind the symbolic link `..data`, which is replaced by renaming, so a program
//! sees either all old files or all new ones; each visible name is a link through `..data`.

use super::host_path::HostRoot;
use super::plan::{HostPathKind, Planned, VolumeFile};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// The link to the current files.
const DATA: &str = "..data";
/// Its successor, before the rename.
const DATA_NEXT: &str = "..data_next";

/// A volume could not be put in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// A file or folder.
    #[error("cannot {doing} {path}")]
    File {
        /// The verb.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A host path is something else.
    #[error("{path} on the host is not what the pod asks for: {wanted:?}")]
    HostPath {
        /// The path.
        path: PathBuf,
        /// What the pod asks for.
        wanted: HostPathKind,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_owned();
    move |source| WriteError::File { doing, path, source }
}

/// Puts one volume in place at `folder` and returns where on the host it is. `group` owns what is made, if given; `host` is where host
/// paths are looked for.
///
/// # Errors
/// When the disk refuses or a host path is something else; calling again continues.
pub(crate) fn write(
    folder: &Path,
    planned: &Planned,
    group: Option<u32>,
    host: &HostRoot,
) -> Result<PathBuf, WriteError> {
    match planned {
        Planned::Empty { memory, limit } => {
            fs::create_dir_all(folder).map_err(failed("make", folder))?;
            if *memory && !is_mount_point(folder) {
                let options = limit.map(|limit| format!("size={limit}"));
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                let mounted = mount(Some("tmpfs"), folder, Some("tmpfs"), flags, options.as_deref());
                mounted.map_err(|errno| failed("mount memory at", folder)(errno.into()))?;
            }
            set_access(folder, if group.is_some() { 0o2777 } else { 0o777 }, group)?;
            Ok(folder.to_owned())
        }
        Planned::Host { path, kind } => {
            host.check(path, *kind)?;
            Ok(path.clone())
        }
        Planned::Files(files) => {
            write_files(folder, files, group)?;
            Ok(folder.to_owned())
        }
    }
}

/// Unmounts and removes everything below `folder`, the pod's volumes. Nothing there is no error.
///
/// # Errors
/// When something cannot be removed, such as a busy mount.
pub(crate) fn remove_all(folder: &Path) -> Result<(), WriteError> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").map_err(failed("read", Path::new("/proc/self/mountinfo")))?;
    let mut points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    // Inner ones first.
    points.sort_unstable_by(|a, b| b.cmp(a));
    for point in points.iter().map(Path::new).filter(|point| point.starts_with(folder)) {
        umount2(point, MntFlags::MNT_DETACH).map_err(|errno| failed("unmount", point)(errno.into()))?;
    }
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", folder)(error)),
    }
}

/// Whether something is mounted exactly at `path`.
fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(point) == path)
}

fn set_access(path: &Path, mode: u32, group: Option<u32>) -> Result<(), WriteError> {
    // Explicitly and not at creation: the process's umask would take bits away.
    if group.is_some() {
        chown(path, None, group).map_err(failed("give to a group", path))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

/// Replaces the files of a volume by `files`, all at once; nothing happens when they are the same already.
fn write_files(folder: &Path, files: &[VolumeFile], group: Option<u32>) -> Result<(), WriteError> {
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    set_access(folder, 0o755, group)?;
    let data = folder.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && is_current(&data, files) {
        return Ok(());
    }
    let next = next_name(old.as_deref());
    let fresh = folder.join(&next);
    remove_tree(&fresh)?;
    for file in files {
        write_file(&fresh, file, group)?;
    }
    fs::create_dir_all(&fresh).map_err(failed("make", &fresh))?;
    let link = folder.join(DATA_NEXT);
    let _left_over = fs::remove_file(&link);
    symlink(&next, &link).map_err(failed("make", &link))?;
    fs::rename(&link, &data).map_err(failed("replace", &data))?;
    link_names(folder, files)?;
    old.map_or(Ok(()), |old| remove_tree(&folder.join(old)))
}

/// Two names in turn: the one that is not in use is free, whatever a crash left in it.
fn next_name(old: Option<&Path>) -> String {
    if old == Some(Path::new("..files_a")) { "..files_b".to_owned() } else { "..files_a".to_owned() }
}

fn write_file(folder: &Path, file: &VolumeFile, group: Option<u32>) -> Result<(), WriteError> {
    let path = folder.join(&file.path);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(failed("make", parent))?;
    let mut out = fs::File::create(&path).map_err(failed("write", &path))?;
    out.write_all(&file.bytes).map_err(failed("write", &path))?;
    // The group must be able to read what is its own.
    let mode = if group.is_some() { file.mode | (file.mode & 0o400) >> 3 } else { file.mode };
    set_access(&path, mode, group)
}

fn is_current(data: &Path, files: &[VolumeFile]) -> bool {
    let same = |file: &VolumeFile| fs::read(data.join(&file.path)).is_ok_and(|bytes| bytes == file.bytes);
    let wanted: BTreeSet<&Path> = files.iter().map(|file| file.path.as_path()).collect();
    files.iter().all(same) && count_files(data) == wanted.len()
}

fn count_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

/// A link through `..data` for each first part of a path; links that lead nowhere any more go away.
fn link_names(folder: &Path, files: &[VolumeFile]) -> Result<(), WriteError> {
    let names: BTreeSet<&Path> = files.iter().filter_map(|file| file.path.iter().next()).map(Path::new).collect();
    for entry in fs::read_dir(folder).map_err(failed("read", folder))?.flatten() {
        let name = PathBuf::from(entry.file_name());
        if !name.to_string_lossy().starts_with("..") && !names.contains(name.as_path()) {
            fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    for name in names {
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(failed("make", &link))?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<(), WriteError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> VolumeFile {
        VolumeFile { path: path.into(), bytes: text.into(), mode: 0o640 }
    }

    #[test]
    fn files_are_swapped_all_at_once_and_gone_ones_disappear() {
        let folder = tempfile::tempdir().expect("because tests may write temporary files");
        let volume = folder.path().join("v");
        let put = |files: Vec<VolumeFile>| {
            write(&volume, &Planned::Files(files), None, &HostRoot::Own).expect("because it is writable")
        };
        let read = |path: &str| fs::read_to_string(volume.join(path)).ok();
        put(vec![file("a", "1"), file("d/e", "2")]);
        assert_eq!((read("a"), read("d/e")), (Some("1".into()), Some("2".into())));
        let first = fs::read_link(volume.join(DATA)).expect("because the link is there");
        put(vec![file("a", "1"), file("d/e", "2")]);
        assert_eq!(fs::read_link(volume.join(DATA)).ok(), Some(first.clone()), "nothing changed");
        put(vec![file("a", "3")]);
        assert_eq!((read("a"), read("d/e")), (Some("3".into()), None));
        assert!(!volume.join(first).exists(), "the old files are removed");
        let mode = fs::metadata(volume.join("a")).expect("because it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        remove_all(&volume).expect("because nothing holds it");
        assert!(!volume.exists());
    }

    #[test]
    fn an_empty_folder_may_be_written_by_everybody() {
        let folder = tempfile::tempdir().expect("because tests may write temporary files");
        let volume = folder.path().join("v");
        write(&volume, &Planned::Empty { memory: false, limit: None }, None, &HostRoot::Own)
            .expect("because it is writable");
        let mode = fs::metadata(&volume).expect("because it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o777);
    }
}
