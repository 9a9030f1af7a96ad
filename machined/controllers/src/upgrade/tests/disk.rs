//! The disk, the boot loader and the firmware in memory: what each operation changes, what half of it changes, and what starts next.

use super::fake::{Behaviour, NEW, root as root_of};
use crate::files::{FileError, FilesHost, Lasting};
use crate::upgrade::{Slots, UpgradeHost, UpgradeHostError};
use init_boot::artefact::ArtefactHeader;
use init_boot::{BootRecord, EMPTY_SLOT_GUID, Guid, MetaKind, RootHash, STARTS_MAX, Slot};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What survives a power cut, and what is set for a test.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) running: Slot,
    pub(super) default: Slot,
    pub(super) behaviour: Behaviour,
    pub(super) firmware_forgets: bool,
    pub(super) url_fails: bool,
    pub(super) url_serves_what_runs: bool,
    pub(super) artefact_is_damaged: bool,
    pub(super) slot_was_touched: bool,
    pub(super) told_good: bool,
    pub(super) starts_of_the_new_image: u32,
    pub(super) guids: [Guid; 2],
    pub(super) roots: [Option<RootHash>; 2],
    pub(super) entries: [Option<RootHash>; 2],
    pub(super) copies: BTreeMap<u64, Vec<u8>>,
    pub(super) one_shot: Option<Slot>,
    pub(super) staged: Option<ArtefactHeader>,
    pub(super) served: ArtefactHeader,
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
    pub(super) restart: bool,
    pub(super) dead: bool,
    pub(super) operations: usize,
    pub(super) cut: Option<(usize, bool)>,
}

pub(super) const fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

impl Disk {
    pub(super) fn boot_record(&self) -> Option<BootRecord> {
        let place = |kind: MetaKind| {
            let mut bytes = self.copies.get(&kind.offset()).cloned().unwrap_or_default();
            bytes.resize(kind.place_bytes(), 0);
            bytes
        };
        BootRecord::newest(&place(MetaKind::BootFirst), &place(MetaKind::BootSecond))
    }

    fn write_record(&mut self, record: &BootRecord, torn: bool) {
        let (kind, mut bytes) = record.encode();
        if torn {
            bytes.truncate(60);
        }
        self.copies.insert(kind.offset(), bytes);
    }

    /// Counts an operation; `Some(torn)` when power is cut in it.
    fn operation(&mut self) -> Option<bool> {
        self.operations += 1;
        match self.cut {
            Some((at, torn)) if at == self.operations => {
                self.dead = true;
                Some(torn)
            }
            Some(_) | None => None,
        }
    }

    /// The firmware and the boot loader: what starts, and whether it gets as far as machined.
    pub(super) fn start(&mut self) -> bool {
        (self.dead, self.restart, self.told_good) = (false, false, false);
        let asked = self.one_shot.take().filter(|slot| self.entries[index(*slot)].is_some());
        let slot = asked.unwrap_or(self.default);
        let root = self.entries[index(slot)].expect("because a slot without a boot entry must never be the default");
        // Stage one finds its slot by GUID; what lies there must be whole.
        let found = self.guids.iter().position(|guid| *guid == root.partition_guid());
        let found = found.expect("because a boot entry without its root must never be started");
        assert_eq!(self.roots[found], Some(root), "a slot was named before it was whole");
        self.running = slot;
        let mut record = self.boot_record();
        let attempt = record.as_mut().and_then(|record| record.attempt.as_mut()).filter(|attempt| attempt.root == root);
        if let Some(attempt) = attempt {
            if attempt.ended.is_some() || attempt.starts >= STARTS_MAX {
                self.one_shot = Some(slot.other());
                return false;
            }
            attempt.starts += 1;
            let next = record.expect("because it has the attempt").next();
            self.write_record(&next, false);
        }
        if root == root_of(NEW) {
            self.starts_of_the_new_image += 1;
            assert!(
                self.default == slot || self.boot_record().is_some_and(|record| record.attempt.is_some()),
                "an image that nobody proved was started without being counted"
            );
            return self.behaviour != Behaviour::Panics;
        }
        true
    }

    /// PID 1's deadline.
    pub(super) fn end_the_try(&mut self) -> bool {
        let Some(mut next) = self.boot_record().map(|record| record.next()) else { return false };
        let running = self.roots[index(self.running)];
        match next.attempt.as_mut().filter(|attempt| Some(attempt.root) == running) {
            Some(attempt) => attempt.end("this image is being tried and did not become good in time"),
            None => return false,
        }
        self.write_record(&next, false);
        self.one_shot = Some(self.running.other());
        true
    }
}

/// The disk behind the traits that the controller asks.
pub(super) struct FakeHost(pub(super) Arc<Mutex<Disk>>);

fn failed(doing: &str) -> UpgradeHostError {
    UpgradeHostError { doing: doing.to_owned(), source: "it was told to fail".into() }
}

impl FakeHost {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("because no holder panics")
    }

    /// One operation that changes something: nothing, part or all of it is done.
    fn change(&self, part: impl FnOnce(&mut Disk), all: impl FnOnce(&mut Disk)) -> Result<(), UpgradeHostError> {
        let mut disk = self.disk();
        if disk.dead {
            return Err(failed("work without power"));
        }
        match disk.operation() {
            Some(true) => part(&mut disk),
            Some(false) => {}
            None => all(&mut disk),
        }
        if disk.dead { Err(failed("work without power")) } else { Ok(()) }
    }
}

impl UpgradeHost for FakeHost {
    async fn look(&self) -> Result<Slots, UpgradeHostError> {
        let disk = self.disk();
        let running = disk.running;
        Ok(Slots {
            running,
            root: disk.roots[index(running)].expect("because it runs"),
            other: disk.guids[index(running.other())],
            default: Some(disk.default),
            record: disk.boot_record(),
        })
    }

    async fn obtain(&self, _url: &str) -> Result<(), UpgradeHostError> {
        if self.disk().url_fails {
            return Err(failed("fetch"));
        }
        self.change(|_| {}, |disk| disk.staged = Some(disk.served.clone()))
    }

    async fn header(&self) -> Result<Option<ArtefactHeader>, UpgradeHostError> {
        Ok(self.disk().staged.clone())
    }

    async fn verify(&self, _header: &ArtefactHeader) -> Result<(), UpgradeHostError> {
        if self.disk().artefact_is_damaged { Err(failed("match the digest")) } else { Ok(()) }
    }

    async fn discard(&self) -> Result<(), UpgradeHostError> {
        self.change(|_| {}, |disk| disk.staged = None)
    }

    async fn empty(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        let check = |disk: &mut Disk| {
            assert_ne!(disk.default, slot, "the slot that starts by default must never be emptied");
            assert_ne!(disk.running, slot, "the slot that runs must never be emptied");
            disk.slot_was_touched = true;
            disk.guids[index(slot)] = EMPTY_SLOT_GUID;
        };
        self.change(check, |disk| {
            check(disk);
            disk.entries[index(slot)] = None;
        })
    }

    async fn write(&self, slot: Slot, header: &ArtefactHeader) -> Result<(), UpgradeHostError> {
        let root = header.manifest.root_hash;
        self.change(
            |disk| disk.roots[index(slot)] = None,
            |disk| (disk.roots[index(slot)], disk.entries[index(slot)]) = (Some(root), Some(root)),
        )
    }

    async fn name(&self, slot: Slot, root: &RootHash) -> Result<(), UpgradeHostError> {
        self.change(|_| {}, |disk| disk.guids[index(slot)] = root.partition_guid())
    }

    async fn record(&self, record: &BootRecord) -> Result<(), UpgradeHostError> {
        self.change(|disk| disk.write_record(record, true), |disk| disk.write_record(record, false))
    }

    async fn set_default(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        self.change(|_| {}, |disk| disk.default = slot)
    }

    async fn ask_once(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        self.change(|_| {}, |disk| disk.one_shot = (!disk.firmware_forgets).then_some(slot))
    }

    fn tell_good(&self) {
        self.disk().told_good = true;
    }

    fn restart(&self) {
        self.disk().restart = true;
    }
}

impl FilesHost for FakeHost {
    async fn read(&self, path: &Path, _limit: usize) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.disk().files.get(path).cloned())
    }
    async fn replace(&self, path: &Path, bytes: &[u8], lasting: Lasting) -> Result<(), FileError> {
        assert_eq!(lasting, Lasting::Durable);
        let done = self.change(|_| {}, |disk| drop(disk.files.insert(path.to_owned(), bytes.to_vec())));
        done.map_err(|_| FileError { doing: "write", path: path.to_owned(), source: std::io::ErrorKind::Other.into() })
    }
    async fn set(&self, _: &Path, _: &str) -> Result<bool, FileError> {
        Ok(false)
    }
}
