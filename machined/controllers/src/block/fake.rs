//! Disks in memory whose power can be cut: what is written lies there in order, and the note behind it decides as on a real disk.

use super::{BlockError, BlockHost, Contents};
use crate::tpm::fake::{Fate, Power};
use machined_luks::{FRONT_BYTES, Header, SignedPolicy, VolumeKey, Write};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes before the note of each partition here.
pub(super) const BYTES: u64 = 64 << 20;

/// A partition.
#[derive(Default, Clone)]
pub(super) struct Partition {
    pub(super) front: Vec<u8>,
    /// A file system lies on it, in clear.
    pub(super) ext4: bool,
    /// A file system lies in what this key encrypts.
    pub(super) inner: Option<Vec<u8>>,
    pub(super) unknown: bool,
    formatting: bool,
}

impl Partition {
    pub(super) fn empty() -> Self {
        Partition { front: vec![0; FRONT_BYTES], ..Partition::default() }
    }
    pub(super) fn plain() -> Self {
        Partition { ext4: true, ..Partition::empty() }
    }
    pub(super) fn somebodys() -> Self {
        Partition { unknown: true, ..Partition::empty() }
    }
    pub(super) fn contents(&self) -> Contents {
        match self {
            Partition { formatting: true, .. } => Contents::Empty,
            Partition { front, .. } if Header::is_there(front) => Contents::Luks,
            Partition { ext4: true, .. } => Contents::Ext4,
            Partition { unknown: true, .. } => Contents::Unknown,
            Partition { .. } => Contents::Empty,
        }
    }
}

/// The machine's disk.
#[derive(Default)]
pub(super) struct FakeDisks {
    partitions: Mutex<BTreeMap<String, Partition>>,
    /// What is mapped: name of the mapping, partition, key.
    mapped: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    mounted: Mutex<Vec<PathBuf>>,
    pub(super) done: Mutex<Vec<String>>,
    pub(super) late: Mutex<u32>,
    pub(super) policy: Mutex<Option<SignedPolicy>>,
    power: Mutex<Option<Arc<Power>>>,
    drawn: AtomicU8,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("because no test panics with it")
}

fn lost(device: &Path) -> BlockError {
    BlockError::Access { device: device.to_owned(), source: std::io::Error::other("no power") }
}

impl FakeDisks {
    pub(super) fn with(partitions: &[(&str, Partition)]) -> Arc<Self> {
        let partitions = partitions.iter().map(|(label, partition)| ((*label).to_owned(), partition.clone()));
        Arc::new(FakeDisks { partitions: Mutex::new(partitions.collect()), ..FakeDisks::default() })
    }
    pub(super) fn partition_of(&self, label: &str) -> Partition {
        locked(&self.partitions)[label].clone()
    }
    /// As when the machine starts again: mappings and mounts are gone.
    pub(super) fn restart(&self) {
        locked(&self.mapped).clear();
        locked(&self.mounted).clear();
        locked(&self.done).clear();
    }
    pub(super) fn powered_by(&self, power: &Arc<Power>) {
        *locked(&self.power) = Some(Arc::clone(power));
    }
    fn operate(&self, device: &Path) -> Result<bool, BlockError> {
        match locked(&self.power).as_ref().map_or(Fate::Done, |power| power.operate()) {
            Fate::Done => Ok(true),
            Fate::DoneUnheard => Ok(false),
            Fate::Lost => Err(lost(device)),
        }
    }
    /// Changes a partition, unless the power is gone; says so when nobody hears of it any more.
    fn change(&self, device: &Path, change: impl FnOnce(&mut Partition)) -> Result<(), BlockError> {
        let heard = self.operate(device)?;
        let label = device.to_string_lossy().into_owned();
        change(locked(&self.partitions).get_mut(&label).expect("because it is a partition"));
        if heard { Ok(()) } else { Err(lost(device)) }
    }
    fn note(&self, what: String) {
        locked(&self.done).push(what);
    }
}

impl BlockHost for FakeDisks {
    async fn partition(&self, label: &str) -> Result<Option<PathBuf>, BlockError> {
        let mut late = locked(&self.late);
        if *late > 0 {
            *late -= 1;
            return Ok(None);
        }
        Ok(locked(&self.partitions).contains_key(label).then(|| PathBuf::from(label)))
    }
    async fn contents(&self, device: &Path) -> Result<Contents, BlockError> {
        Ok(self.partition_of(&device.to_string_lossy()).contents())
    }
    async fn note(&self, device: &Path, formatting: bool) -> Result<u64, BlockError> {
        self.change(device, |partition| partition.formatting = formatting).map(|()| BYTES)
    }
    async fn format(&self, device: &Path, label: &str, bytes: u64) -> Result<(), BlockError> {
        self.note(format!("format {label}"));
        let mapping = locked(&self.mapped).get(&*device.to_string_lossy()).cloned();
        match mapping {
            None => {
                assert_eq!((device, bytes), (Path::new(label), BYTES));
                self.change(device, |partition| partition.ext4 = true)
            }
            Some((partition, key)) => {
                assert_eq!(bytes, BYTES - FRONT_BYTES as u64);
                self.change(Path::new(&partition), |partition| partition.inner = Some(key))
            }
        }
    }
    async fn check(&self, device: &Path) -> Result<(), BlockError> {
        self.note(format!("check {}", device.display()));
        Ok(())
    }
    async fn is_mounted(&self, target: &Path) -> Result<bool, BlockError> {
        Ok(locked(&self.mounted).iter().any(|known| known == target))
    }
    async fn mount(&self, device: &Path, target: &Path) -> Result<(), BlockError> {
        // With another key there would be noise where the file system is.
        if let Some((partition, key)) = locked(&self.mapped).get(&*device.to_string_lossy()) {
            assert_eq!(self.partition_of(partition).inner.as_ref(), Some(key), "{partition} is no file system");
        }
        self.note(format!("mount {} {}", device.display(), target.display()));
        locked(&self.mounted).push(target.to_owned());
        Ok(())
    }
    async fn make_folder(&self, _path: &Path, _mode: u32) -> Result<(), BlockError> {
        Ok(())
    }
    async fn front(&self, device: &Path) -> Result<Vec<u8>, BlockError> {
        Ok(self.partition_of(&device.to_string_lossy()).front)
    }
    async fn write(&self, device: &Path, writes: Vec<Write>) -> Result<(), BlockError> {
        for part in writes {
            let at = part.offset as usize;
            self.change(device, |partition| partition.front[at..at + part.bytes.len()].copy_from_slice(&part.bytes))?;
        }
        Ok(())
    }
    async fn map(&self, name: &str, device: &Path, _header: &Header, key: &VolumeKey) -> Result<PathBuf, BlockError> {
        let mapping = PathBuf::from(format!("mapped-{name}"));
        let entry = (device.to_string_lossy().into_owned(), key.bytes().to_vec());
        locked(&self.mapped).insert(mapping.to_string_lossy().into_owned(), entry);
        Ok(mapping)
    }
    async fn policy(&self) -> Option<SignedPolicy> {
        locked(&self.policy).clone()
    }
    fn random(&self, bytes: &mut [u8]) {
        let first = self.drawn.fetch_add(1, Ordering::Relaxed);
        bytes.iter_mut().zip((0_u8..=255).cycle()).for_each(|(byte, n)| *byte = n.wrapping_mul(31) ^ first);
    }
}
