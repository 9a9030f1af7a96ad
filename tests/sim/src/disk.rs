//! A member's disk: what was written but not synced is lost, kept or torn when the power goes.
//!
//! A [`Disk`] outlives processes; each process opens it through its own [`Mounted`], which does nothing once the process is dead.

use crate::runtime::Process;
use controlplane_replica::Files;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use redb::{Builder, Database, DatabaseError, StorageBackend};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes as a whole: a write is torn between sectors, never inside one.
const SECTOR_BYTES: usize = 512;

/// A disk and what it does wrong.
#[derive(Debug, Clone)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    files: BTreeMap<String, File>,
    random: SmallRng,
    /// Operations until the process using it dies in the middle of one.
    dies_after: Option<u64>,
    /// Whether syncs fail.
    sync_fails: bool,
    /// Whether nothing more fits.
    full: bool,
    /// Whether a sync failed since the power was cut: readers see what is not on the disk and never will be.
    lost: bool,
}

#[derive(Debug, Default)]
struct File {
    /// What a reader sees.
    now: Vec<u8>,
    /// What survives a power cut for certain.
    synced: Vec<u8>,
    /// What was changed since, in order.
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(at, data) => {
                let end = at + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(data);
            }
            Change::Length(length) => bytes.resize(*length, 0),
        }
    }

    /// Writes some of the sectors.
    fn tear(&self, bytes: &mut Vec<u8>, random: &mut SmallRng) {
        match self {
            Change::Length(_) => self.apply(bytes),
            Change::Write(at, data) => {
                for (number, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                    if random.random_bool(0.5) {
                        Change::Write(at + number * SECTOR_BYTES, sector.to_vec()).apply(bytes);
                    }
                }
            }
        }
    }
}

impl Disk {
    /// An empty disk; what it does when the power goes comes from `seed`.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Disk(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            random,
            dies_after: None,
            sync_fails: false,
            full: false,
            lost: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as `process` uses it.
    #[must_use]
    pub(crate) fn mount(&self, process: &Process) -> Mounted {
        Mounted { disk: self.clone(), process: process.clone() }
    }

    /// Cuts the power: each unsynced change is kept, lost or torn, in any combination. Faults end.
    pub(crate) fn cut_power(&self) {
        let mut state = self.state();
        let State { files, random, .. } = &mut *state;
        for file in files.values_mut() {
            for change in std::mem::take(&mut file.unsynced) {
                match random.random_range(0..3) {
                    0 => change.apply(&mut file.synced),
                    1 => change.tear(&mut file.synced, random),
                    _ => {}
                }
            }
            file.now = file.synced.clone();
        }
        state.lost = false;
        drop(state);
        self.heal();
    }

    /// Ends every fault. What a failed sync lost stays lost.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        (state.dies_after, state.sync_fails, state.full) = (None, false, false);
    }

    /// Has the process die in the middle of one of its next operations.
    pub(crate) fn die_within(&self, operations: Range<u64>) {
        let mut state = self.state();
        let after = state.random.random_range(operations);
        state.dies_after = Some(after);
    }

    /// Has syncs fail from now on.
    pub(crate) fn fail_syncs(&self) {
        self.state().sync_fails = true;
    }

    /// Has nothing more fit from now on.
    pub(crate) fn fill_up(&self) {
        self.state().full = true;
    }

    /// Whether a sync failed since the power was cut last.
    pub(crate) fn lost_changes(&self) -> bool {
        self.state().lost
    }

    /// Bytes of all files.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.state().files.values().map(|file| file.now.len()).sum()
    }
}

/// A disk as one process uses it.
#[derive(Debug, Clone)]
pub(crate) struct Mounted {
    disk: Disk,
    process: Process,
}

impl Files for Mounted {
    fn place(&self) -> String {
        "a simulated disk".to_owned()
    }

    fn open(&self, name: &str, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create_with_backend(Handle { mounted: self.clone(), name: name.to_owned() })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if self.process.alive() {
            self.disk.state().files.remove(name);
        }
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

/// An open file.
#[derive(Debug)]
struct Handle {
    mounted: Mounted,
    name: String,
}

impl Handle {
    fn dead() -> io::Error {
        io::Error::other("the process is dead")
    }

    fn with<T>(&self, act: impl FnOnce(&mut File, &Faults) -> io::Result<T>) -> io::Result<T> {
        if !self.mounted.process.alive() {
            return Err(Self::dead());
        }
        let mut state = self.mounted.disk.state();
        let faults = Faults { sync_fails: state.sync_fails, full: state.full };
        act(state.files.entry(self.name.clone()).or_default(), &faults)
    }

    /// Counts an operation that changes the disk; the process may not survive it.
    fn count(&self) -> io::Result<()> {
        let dies = {
            let mut state = self.mounted.disk.state();
            state.dies_after = state.dies_after.map(|left| left.saturating_sub(1));
            state.dies_after == Some(0)
        };
        if dies {
            self.mounted.process.kill();
            return Err(Self::dead());
        }
        Ok(())
    }
}

/// The faults that one operation meets.
struct Faults {
    sync_fails: bool,
    full: bool,
}

fn size(value: u64) -> usize {
    usize::try_from(value).expect("because simulated files fit into memory")
}

impl StorageBackend for Handle {
    fn len(&self) -> Result<u64, io::Error> {
        self.with(|file, _| Ok(file.now.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.with(|file, _| {
            let bytes = file.now.get(size(offset)..size(offset) + out.len());
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        self.count()?;
        self.with(|file, faults| {
            if faults.full && size(length) > file.now.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let change = Change::Length(size(length));
            change.apply(&mut file.now);
            file.unsynced.push(change);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.count()?;
        let mut state = self.mounted.disk.state();
        state.lost |= state.sync_fails;
        drop(state);
        self.with(|file, faults| {
            let changes = std::mem::take(&mut file.unsynced);
            if faults.sync_fails {
                // As Linux does: what could not be written is not tried again, and a later sync says nothing of it.
                return Err(io::Error::other("the disk failed to sync"));
            }
            changes.iter().for_each(|change| change.apply(&mut file.synced));
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.count()?;
        self.with(|file, faults| {
            if faults.full && size(offset) + data.len() > file.now.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let change = Change::Write(size(offset), data.to_vec());
            change.apply(&mut file.now);
            file.unsynced.push(change);
            Ok(())
        })
    }
}
