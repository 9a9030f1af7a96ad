//! Where the trust state lies: one file, sealed with the machine's identity key, replaced whole.
//!
//! A power cut leaves the old or the new file. The seal shows tampering; an old copy put back is recognised by machined's record of
//! what was accepted, and by the marks that other machines saw, which [`crate::source`] compares.

use crate::machine::{Machine, MachineError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gitsync_verify::{Refusal, TrustState};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of a state file that are read; a state with a full history has about 40 KB.
const MAX_STATE_BYTES: u64 = 1 << 20;

/// The state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot {call} {path}")]
    File {
        call: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the trust state at {path} is not one that this machine wrote; somebody changed it")]
    Seal { path: String },
    #[error("the trust state cannot be read")]
    State(#[from] Refusal),
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct StateFile {
    path: PathBuf,
    machine: Machine,
}

impl StateFile {
    pub(crate) fn new(folder: &Path, machine: Machine) -> Self {
        StateFile { path: folder.join("trust-state"), machine }
    }

    /// What was recorded last; `None` when nothing ever was.
    pub(crate) async fn read(&self) -> Result<Option<TrustState>, StoreError> {
        let text = match read_bounded(&self.path, MAX_STATE_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StoreError::File { call: "read", path: self.path.display().to_string(), source });
            }
        };
        let sealed = text.split_once('\n').and_then(|(seal, json)| Some((STANDARD.decode(seal).ok()?, json)));
        let unsealed = || StoreError::Seal { path: self.path.display().to_string() };
        let (seal, json) = sealed.ok_or_else(unsealed)?;
        if !self.machine.check(json.as_bytes().to_vec(), seal).await? {
            return Err(unsealed());
        }
        Ok(Some(TrustState::from_json(json.as_bytes())?))
    }

    /// Records a state; when this returns, it is on the disk.
    pub(crate) async fn write(&self, state: &TrustState) -> Result<(), StoreError> {
        let json = state.to_json();
        let seal = STANDARD.encode(self.machine.seal(json.clone()).await?);
        let mut text = seal.into_bytes();
        text.push(b'\n');
        text.extend_from_slice(&json);
        replace_file(&self.path, &text)
    }
}

/// Replaces a file of gitsync's folder, and makes the folder if need be; when this returns, it is on the disk.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |call| move |source| StoreError::File { call, path: path.display().to_string(), source };
    let folder = path.parent().expect("because the file lies in gitsync's folder");
    fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    replace(&RealDisk, path, bytes).map_err(failed("write"))
}

/// Reads a file, at most `limit` bytes of it.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(File::open(path)?, limit), &mut text)?;
    Ok(text)
}

/// The steps of a replacement. On a machine the disk; in a test one whose power is cut at each of them.
trait Disk {
    /// Makes or empties a file and writes to it.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Brings a file's content, or a folder's names, to the disk.
    fn sync(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        File::create(path)?.write_all(bytes)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}

/// Old or new, never half: write beside it, flush, rename, flush the folder.
fn replace(disk: &impl Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("because the state lies in gitsync's folder");
    let beside = path.with_extension("new");
    disk.write(&beside, bytes)?;
    disk.sync(&beside)?;
    disk.rename(&beside, path)?;
    disk.sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    /// A file's bytes as programs see them, and as they are on the platters.
    #[derive(Clone, Default)]
    struct Content {
        seen: Vec<u8>,
        kept: Vec<u8>,
    }

    /// A disk that keeps nothing but what was flushed, and fails from a given step on.
    #[derive(Default)]
    struct Platters {
        files: RefCell<Vec<Content>>,
        names: RefCell<BTreeMap<PathBuf, usize>>,
        kept_names: RefCell<BTreeMap<PathBuf, usize>>,
        steps: Cell<usize>,
        /// The step at which the power fails, and whether what that step did is still seen.
        cut: Cell<Option<(usize, bool)>>,
    }

    impl Platters {
        fn step(&self, act: impl Fn(&Self)) -> io::Result<()> {
            let number = self.steps.replace(self.steps.get() + 1);
            match self.cut.get() {
                Some((cut, done)) if number == cut => {
                    if done {
                        act(self);
                    }
                    Err(io::Error::other("the power is gone"))
                }
                Some((cut, _)) if number > cut => Err(io::Error::other("the power is gone")),
                Some(_) | None => {
                    act(self);
                    Ok(())
                }
            }
        }

        /// Everything that may be read at `path` after the power comes back: names and content are each as kept, or as last seen, or
        /// (content) the first half of it.
        fn after_the_cut(&self, path: &Path) -> Vec<Vec<u8>> {
            let files = self.files.borrow();
            let names = [self.kept_names.borrow().get(path).copied(), self.names.borrow().get(path).copied()];
            let contents = names.into_iter().flatten().flat_map(|file| {
                let Content { seen, kept } = &files[file];
                [kept.clone(), seen.clone(), if kept == seen { seen.clone() } else { seen[..seen.len() / 2].to_vec() }]
            });
            contents.collect()
        }
    }

    impl Disk for Platters {
        fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            self.step(|disk| {
                let mut files = disk.files.borrow_mut();
                files.push(Content { seen: bytes.to_vec(), kept: Vec::new() });
                disk.names.borrow_mut().insert(path.to_owned(), files.len() - 1);
            })
        }
        fn sync(&self, path: &Path) -> io::Result<()> {
            self.step(|disk| match disk.names.borrow().get(path) {
                Some(file) => {
                    let content = &mut disk.files.borrow_mut()[*file];
                    content.kept.clone_from(&content.seen);
                }
                None => disk.kept_names.borrow_mut().clone_from(&disk.names.borrow()),
            })
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step(|disk| {
                let mut names = disk.names.borrow_mut();
                let file = names.remove(from).expect("because it was just written");
                names.insert(to.to_owned(), file);
            })
        }
    }

    /// As [`replace`], with the rename before the flush: what the test below must notice.
    fn careless(disk: &impl Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let beside = path.with_extension("new");
        disk.write(&beside, bytes)?;
        disk.rename(&beside, path)?;
        disk.sync(path)?;
        disk.sync(path.parent().expect("because it lies in a folder"))
    }

    /// Writes "old", then "new" with the power cut at each step of it; gives what was read that is neither.
    fn torn(replace: impl Fn(&Platters, &Path, &[u8]) -> io::Result<()>) -> Vec<Vec<u8>> {
        const STEPS: usize = 4;
        let (path, old, new) = (Path::new("/state/gitsync/trust-state"), b"old state", b"the new state");
        let mut torn = Vec::new();
        for (cut, done) in (0..STEPS).flat_map(|cut| [(cut, false), (cut, true)]) {
            let disk = Platters::default();
            replace(&disk, path, old).expect("because the power is on");
            assert_eq!(disk.steps.get(), STEPS);
            disk.cut.set(Some((STEPS + cut, done)));
            replace(&disk, path, new).expect_err("because the power fails");
            let read = disk.after_the_cut(path);
            assert!(!read.is_empty(), "the state is gone after a cut at step {cut}");
            torn.extend(read.into_iter().filter(|read| read != old && read != new));
        }
        let disk = Platters::default();
        replace(&disk, path, new).expect("because the power is on");
        assert!(disk.after_the_cut(path).iter().all(|read| read == new), "what was written is on the disk");
        torn
    }

    #[test]
    fn t47_a_power_cut_at_any_write_leaves_the_old_or_the_new_state() {
        assert_eq!(torn(replace), Vec::<Vec<u8>>::new());
        assert_ne!(torn(careless), Vec::<Vec<u8>>::new(), "the test sees nothing");
    }

    #[test]
    fn the_real_disk_replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let path = folder.path().join("trust-state");
        for text in [&b"one"[..], b"two"] {
            replace(&RealDisk, &path, text).expect("because the folder is there");
            assert_eq!(fs::read(&path).expect("because it was written"), text);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("because it is there").count(), 1);
    }
}
