//! A disk in memory over a file that nobody changes: what a machine wrote, or what a power cut left of it.
//!
//! Used by the recorder and by whoever makes crash states. It must never write to the file.

use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What is kept as one piece, in bytes; the smallest that any of our machines writes much of.
const PAGE: usize = 4096;

/// The smallest piece that a disk writes whole, in bytes.
pub(crate) const SECTOR: usize = 512;

/// A disk; clones share the file and copy what was changed.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    base: Arc<File>,
    size: u64,
    changed: HashMap<u64, Box<[u8]>>,
}

impl Disk {
    /// The disk as the raw file has it.
    pub(crate) fn open(raw: &Path) -> Result<Self> {
        let base = File::open(raw).with_context(|| format!("opening {}", raw.display()))?;
        let size = base.metadata().context("asking for the size of a disk")?.len();
        ensure!(size.is_multiple_of(PAGE as u64), "{} is no whole number of pages long", raw.display());
        Ok(Disk { base: Arc::new(base), size, changed: HashMap::new() })
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads all of `buffer`.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inside(offset, buffer.len())?;
        let mut done = 0;
        while done < buffer.len() {
            let (page, within, length) = piece(offset + done as u64, buffer.len() - done);
            let part = &mut buffer[done..done + length];
            match self.changed.get(&page) {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + length]),
                None => self.base.read_exact_at(part, offset + done as u64).context("reading the file of a disk")?,
            }
            done += length;
        }
        Ok(())
    }

    /// The same, as bytes of their own.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes all of `bytes`.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.inside(offset, bytes.len())?;
        let mut done = 0;
        while done < bytes.len() {
            let (page, within, length) = piece(offset + done as u64, bytes.len() - done);
            if !self.changed.contains_key(&page) {
                let before = if length == PAGE { vec![0; PAGE] } else { self.bytes(page * PAGE as u64, PAGE)? };
                self.changed.insert(page, before.into_boxed_slice());
            }
            let kept = self.changed.get_mut(&page).context("a page that was just put there")?;
            kept[within..within + length].copy_from_slice(&bytes[done..done + length]);
            done += length;
        }
        Ok(())
    }

    fn inside(&self, offset: u64, length: usize) -> Result<()> {
        let end = offset.checked_add(length as u64);
        ensure!(end.is_some_and(|end| end <= self.size), "{length} bytes at {offset} lie behind the end of the disk");
        Ok(())
    }
}

/// The page in which `offset` lies, where in it, and how much of `wanted` it has.
fn piece(offset: u64, wanted: usize) -> (u64, usize, usize) {
    let (page, within) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
    (page, within, wanted.min(PAGE - within))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Each disk's file has a name of its own.
    static NAMES: AtomicU32 = AtomicU32::new(0);

    /// A disk of zeros.
    pub(crate) fn empty(pages: usize) -> Disk {
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cairn-disk-{}-{number}", std::process::id()));
        std::fs::write(&path, vec![0; pages * PAGE]).expect("because it is ours");
        let disk = Disk::open(&path).expect("because it was just written");
        // It stays open.
        let _gone = std::fs::remove_file(&path);
        disk
    }

    #[test]
    fn what_was_written_is_read_across_pages_and_the_file_stays() {
        let mut disk = empty(3);
        let before = disk.clone();
        disk.write(PAGE as u64 - 3, b"across").expect("because it lies inside");
        assert_eq!(disk.bytes(PAGE as u64 - 4, 8).expect("because it lies inside"), b"\0across\0");
        assert_eq!(before.bytes(PAGE as u64 - 4, 8).expect("because it lies inside"), [0; 8]);
        assert!(disk.write(3 * PAGE as u64 - 1, b"ab").is_err(), "behind the end");
        assert!(disk.bytes(u64::MAX, 2).is_err(), "behind every end");
    }
}
