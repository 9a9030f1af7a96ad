//! Host paths, looked for where containerd will: on a machine behind the walls around containers, of which the agent is outside.
//!
//! A path is followed inside of that root only (openat2(2), RESOLVE_IN_ROOT): a link that a pod left there leads nowhere else.

use super::plan::HostPathKind;
use super::write::WriteError;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// Whose view of the host's files counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostRoot {
    /// The agent's own: containerd runs beside it.
    #[default]
    Own,
    /// That of the one process in this cgroup, a folder.
    OfMemberOf(PathBuf),
}

impl HostRoot {
    /// Opens the root.
    fn open(&self) -> io::Result<OwnedFd> {
        let root = match self {
            Self::Own => PathBuf::from("/"),
            Self::OfMemberOf(cgroup) => {
                let members = fs::read_to_string(cgroup.join("cgroup.procs"))?;
                let nobody =
                    || io::Error::other(format!("nobody is in {}: containerd has not started", cgroup.display()));
                Path::new("/proc").join(members.lines().next().ok_or_else(nobody)?).join("root")
            }
        };
        Ok(File::open(root)?.into())
    }

    /// Makes what the pod asks to be made, and checks that what is there is what the pod asks for.
    ///
    /// # Errors
    /// When it is something else, or nothing.
    pub(crate) fn check(&self, path: &Path, kind: HostPathKind) -> Result<(), WriteError> {
        let failed = |doing| move |source| WriteError::File { doing, path: path.to_owned(), source };
        if kind == HostPathKind::Any {
            return Ok(());
        }
        let root = self.open().map_err(failed("look on the host for"))?;
        match kind {
            HostPathKind::FolderOrCreate => make_folders(&root, path).map_err(failed("make"))?,
            HostPathKind::FileOrCreate => {
                let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NONBLOCK;
                open(&root, path, flags, 0o644).map_err(failed("make"))?;
            }
            HostPathKind::Any
            | HostPathKind::Folder
            | HostPathKind::File
            | HostPathKind::Socket
            | HostPathKind::CharDevice
            | HostPathKind::BlockDevice => {}
        }
        let found = open(&root, path, OFlag::O_PATH, 0).and_then(|file| file.metadata()).map_err(failed("find"))?;
        let found = found.file_type();
        let fits = match kind {
            HostPathKind::Any => true,
            HostPathKind::Folder | HostPathKind::FolderOrCreate => found.is_dir(),
            HostPathKind::File | HostPathKind::FileOrCreate => found.is_file(),
            HostPathKind::Socket => found.is_socket(),
            HostPathKind::CharDevice => found.is_char_device(),
            HostPathKind::BlockDevice => found.is_block_device(),
        };
        if fits { Ok(()) } else { Err(WriteError::HostPath { path: path.to_owned(), wanted: kind }) }
    }
}

fn open(root: &OwnedFd, path: &Path, flags: OFlag, mode: u32) -> io::Result<File> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(Mode::from_bits_truncate(mode));
    let how = how.resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(File::from(openat2(root, path, how)?))
}

/// Makes a folder and those above it.
fn make_folders(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut done = PathBuf::from("/");
    for part in path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)) {
        let next = done.join(part);
        if let Err(error) = open(root, &next, folder, 0) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            match mkdirat(open(root, &done, folder, 0)?, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        done = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_leads_nowhere_but_into_the_root() {
        let outside = tempfile::tempdir().expect("because tests may write temporary files");
        let inside = outside.path().join("root");
        fs::create_dir(&inside).expect("because the folder is ours");
        symlink(outside.path(), inside.join("out")).expect("because the folder is ours");
        symlink("../..", inside.join("up")).expect("because the folder is ours");
        let root: OwnedFd = File::open(&inside).expect("because it was just made").into();
        assert!(make_folders(&root, Path::new("/out/a/b")).is_err(), "the link's target is not in the root");
        make_folders(&root, Path::new("/up/c/d")).expect("because up is the root itself");
        assert!(inside.join("c/d").is_dir());
        make_folders(&root, Path::new("/../../e")).expect("because nothing is above a root");
        assert!(inside.join("e").is_dir());
        let made: Vec<_> = fs::read_dir(outside.path()).expect("because it is ours").flatten().collect();
        assert_eq!(made.len(), 1, "{made:?}");
    }

    #[test]
    fn a_host_path_of_another_kind_is_refused() {
        let folder = tempfile::tempdir().expect("because tests may write temporary files");
        let check = |path: &str, kind| HostRoot::Own.check(&folder.path().join(path), kind);
        assert!(check("", HostPathKind::Folder).is_ok());
        assert!(matches!(check("", HostPathKind::File), Err(WriteError::HostPath { .. })));
        assert!(matches!(check("none", HostPathKind::Socket), Err(WriteError::File { .. })));
        check("made/twice", HostPathKind::FolderOrCreate).expect("because the folder is ours");
        check("made/twice", HostPathKind::FolderOrCreate).expect("because it is there already");
        check("made/file", HostPathKind::FileOrCreate).expect("because the folder is ours");
        assert!(check("made/file", HostPathKind::File).is_ok());
        assert!(check("none", HostPathKind::Any).is_ok());
    }

    #[test]
    fn without_the_walls_there_is_no_host_to_look_at() {
        let folder = tempfile::tempdir().expect("because tests may write temporary files");
        fs::write(folder.path().join("cgroup.procs"), "").expect("because the folder is ours");
        let root = HostRoot::OfMemberOf(folder.path().to_owned());
        assert!(root.check(Path::new("/"), HostPathKind::Folder).is_err());
        fs::write(folder.path().join("cgroup.procs"), format!("{}\n", std::process::id())).expect("because it is ours");
        assert!(root.check(Path::new("/"), HostPathKind::Folder).is_ok());
    }
}
