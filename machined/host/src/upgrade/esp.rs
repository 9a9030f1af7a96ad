//! Changes files on the EFI system partition in a few synchronised phases, so that a power cut after any sector leaves every other file
//! whole and the changed one old, absent or new.
//!
//! The `fatfs` crate says which sectors change, on a copy in memory; this file says in which order they reach the disk. Firmware
//! and boot loader read the partition too, so nothing of ours lies beside the file system.

use fatfs::{FileSystem, FsOptions};
use std::collections::BTreeMap;
use std::io::{self, Error, ErrorKind, Read, Seek, SeekFrom, Write};

/// The one size of sectors that our disks have, in bytes.
pub(super) const SECTOR: usize = 512;
/// The largest file allocation table that is taken, in bytes: a partition of 16 GiB with clusters of 4 KiB has it.
const TABLE_BYTES_MAX: u64 = 16 << 20;
/// Folders below each other; ours are two.
const DEPTH_MAX: usize = 8;
/// Bits of a table entry that say something; values from `CHAIN_END` on end a chain.
const ENTRY_MASK: u32 = 0x0fff_ffff;
const CHAIN_END: u32 = 0x0fff_fff7;
/// A folder's entry, in bytes, and its attributes.
const FOLDER_ENTRY: usize = 32;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;
const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const DELETED: u8 = 0xe5;

/// Sectors to write, by number. All of a phase is kept by the disk before the next one begins.
pub(super) type Phase = BTreeMap<u64, [u8; SECTOR]>;

/// A partition whose sectors can be read.
pub(super) trait Sectors {
    /// One sector.
    fn read(&self, sector: u64) -> io::Result<[u8; SECTOR]>;
    /// How many there are.
    fn count(&self) -> u64;
}

/// The partition with changes in memory.
struct Overlay<'a, S> {
    base: &'a S,
    changed: Phase,
    position: u64,
}

impl<S: Sectors> Overlay<'_, S> {
    /// The sector at the position, where in it, and how many of `wanted` bytes fit; none at the end.
    fn here(&self, wanted: usize) -> io::Result<(u64, [u8; SECTOR], std::ops::Range<usize>)> {
        let (number, offset) = (self.position / SECTOR as u64, (self.position % SECTOR as u64) as usize);
        if number >= self.base.count() {
            return Ok((number, [0; SECTOR], 0..0));
        }
        let bytes = self.changed.get(&number).copied().map_or_else(|| self.base.read(number), Ok)?;
        Ok((number, bytes, offset..(offset + wanted).min(SECTOR)))
    }
}

impl<S: Sectors> Read for Overlay<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, bytes, part) = self.here(buffer.len())?;
        buffer[..part.len()].copy_from_slice(&bytes[part.clone()]);
        self.position += part.len() as u64;
        Ok(part.len())
    }
}

impl<S: Sectors> Write for Overlay<'_, S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let (number, mut bytes, part) = self.here(buffer.len())?;
        if part.is_empty() {
            return Ok(0);
        }
        bytes[part.clone()].copy_from_slice(&buffer[..part.len()]);
        self.changed.insert(number, bytes);
        self.position += part.len() as u64;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Sectors> Seek for Overlay<'_, S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = self.base.count() * SECTOR as u64;
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => end.checked_add_signed(by),
        };
        self.position = position.filter(|at| *at <= end).ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// Where things lie on a FAT32 volume, in sectors.
struct Layout {
    table: u64,
    tables: u64,
    table_sectors: u64,
    data: u64,
    cluster_sectors: u64,
    /// How many clusters there are; the tables may have room for more.
    clusters: u64,
    root: u32,
}

impl Layout {
    fn read(sectors: &impl Sectors) -> io::Result<Self> {
        let boot = sectors.read(0)?;
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let u32_at = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let (table, tables, table_sectors) = (u16_at(14), u64::from(boot[16]), u64::from(u32_at(36)));
        let data = table + tables * table_sectors;
        let cluster_sectors = u64::from(boot[13]);
        let all = u64::from(u32_at(32));
        let clusters = all.saturating_sub(data).checked_div(cluster_sectors).unwrap_or_default();
        let layout = Layout { table, tables, table_sectors, data, cluster_sectors, clusters, root: u32_at(44) };
        let sound = u16_at(11) == SECTOR as u64
            && all <= sectors.count()
            && clusters > 0
            && (1..=2).contains(&tables)
            && table_sectors * (SECTOR as u64) <= TABLE_BYTES_MAX
            && data < sectors.count();
        if sound { Ok(layout) } else { Err(Error::new(ErrorKind::InvalidData, "it is no FAT32 volume of ours")) }
    }

    /// The first copy of the table.
    fn entries(&self, sectors: &impl Sectors) -> io::Result<Vec<u32>> {
        let mut entries = Vec::new();
        for sector in self.table..self.table + self.table_sectors {
            let bytes = sectors.read(sector)?;
            let four = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]) & ENTRY_MASK;
            entries.extend(bytes.chunks_exact(4).map(four));
        }
        // The first two entries are no clusters.
        entries.truncate(usize::try_from(self.clusters + 2).unwrap_or(usize::MAX));
        Ok(entries)
    }

    /// The cluster that a sector behind the tables belongs to.
    fn cluster(&self, sector: u64) -> Option<usize> {
        usize::try_from(sector.checked_sub(self.data)? / self.cluster_sectors + 2).ok()
    }
}

/// The sectors that a change to the volume changes.
fn changes<'a, S: Sectors>(
    base: &'a S,
    work: impl FnOnce(&FileSystem<&mut Overlay<'a, S>>) -> io::Result<()>,
) -> io::Result<Phase> {
    let mut overlay = Overlay { base, changed: Phase::new(), position: 0 };
    let volume = FileSystem::new(&mut overlay, FsOptions::new())?;
    work(&volume)?;
    volume.unmount()?;
    let mut changed = overlay.changed;
    let mut same = Vec::new();
    for (sector, bytes) in &changed {
        if base.read(*sector)? == *bytes {
            same.push(*sector);
        }
    }
    for sector in same {
        changed.remove(&sector);
    }
    Ok(changed)
}

/// How to take a file away: its name first, then its clusters. Nothing when there is no such file.
pub(super) fn remove(base: &impl Sectors, path: &str) -> io::Result<Vec<Phase>> {
    let layout = Layout::read(base)?;
    let changed = changes(base, |volume| match volume.root_dir().remove(relative(path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    })?;
    let (names, tables) = changed.into_iter().partition(|(sector, _)| *sector >= layout.data);
    Ok(vec![names, tables])
}

/// How to add a file that is not there: its content, then its clusters, then its name.
pub(super) fn add(base: &impl Sectors, path: &str, content: &[u8]) -> io::Result<Vec<Phase>> {
    let layout = Layout::read(base)?;
    let entries = layout.entries(base)?;
    let changed = changes(base, |volume| {
        let mut file = volume.root_dir().create_file(relative(path))?;
        file.write_all(content)?;
        file.flush()
    })?;
    let mut phases = vec![Phase::new(); 3];
    for (sector, bytes) in changed {
        let used = layout.cluster(sector).map(|cluster| entries.get(cluster).is_some_and(|entry| *entry != 0));
        let phase = match used {
            // New clusters: nobody looks there yet.
            Some(false) => 0,
            None => 1,
            // A folder's cluster: the file is there once this is.
            Some(true) => 2,
        };
        phases[phase].insert(sector, bytes);
    }
    Ok(phases)
}

/// How to write other bytes of the same length into a file: one phase.
pub(super) fn overwrite(base: &impl Sectors, path: &str, content: &[u8]) -> io::Result<Vec<Phase>> {
    let changed = changes(base, |volume| {
        let mut file = volume.root_dir().open_file(relative(path))?;
        let length = file.seek(SeekFrom::End(0))?;
        if length != content.len() as u64 {
            let text = format!("it has {length} bytes, and {} were to replace them", content.len());
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
        file.seek(SeekFrom::Start(0))?;
        file.write_all(content)?;
        file.flush()
    })?;
    Ok(vec![changed])
}

/// The content of a file of at most `bytes_max` bytes; `None` when there is none.
pub(super) fn read(base: &impl Sectors, path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut overlay = Overlay { base, changed: Phase::new(), position: 0 };
    let volume = FileSystem::new(&mut overlay, FsOptions::new())?;
    let mut content = Vec::new();
    match volume.root_dir().open_file(relative(path)) {
        Ok(file) => file.take(bytes_max + 1).read_to_end(&mut content)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if content.len() as u64 > bytes_max {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("{path} has more than {bytes_max} bytes")));
    }
    Ok(Some(content))
}

/// How to free clusters that belong to no file: what a power cut between a file's clusters and its name leaves, which would fill the
/// partition in the end.
pub(super) fn reclaim(base: &impl Sectors) -> io::Result<Vec<Phase>> {
    let layout = Layout::read(base)?;
    let entries = layout.entries(base)?;
    let mut used = vec![false; entries.len()];
    let root = usize::try_from(layout.root).unwrap_or_default();
    mark_folder(base, &layout, &entries, &mut used, root, 0)?;
    let mut phase = Phase::new();
    let lost = |cluster: &usize| entries[*cluster] != 0 && entries[*cluster] != CHAIN_END && !used[*cluster];
    for cluster in (2..entries.len()).filter(lost) {
        for table in 0..layout.tables {
            let at = cluster as u64 * 4;
            let sector = layout.table + table * layout.table_sectors + at / SECTOR as u64;
            let bytes = match phase.get(&sector) {
                Some(bytes) => *bytes,
                None => base.read(sector)?,
            };
            let mut freed = bytes;
            freed[at as usize % SECTOR..][..4].fill(0);
            phase.insert(sector, freed);
        }
    }
    Ok(vec![phase])
}

/// Marks a chain; gives its clusters.
fn mark_chain(entries: &[u32], used: &mut [bool], first: usize) -> io::Result<Vec<usize>> {
    let (mut chain, mut cluster) = (Vec::new(), first);
    loop {
        let next = entries.get(cluster).copied().filter(|next| cluster >= 2 && *next != 0 && !used[cluster]);
        let Some(next) = next else {
            return Err(Error::new(ErrorKind::InvalidData, "two files share a cluster, or a chain has no end"));
        };
        used[cluster] = true;
        chain.push(cluster);
        if next >= CHAIN_END {
            return Ok(chain);
        }
        cluster = next as usize;
    }
}

fn mark_folder(
    base: &impl Sectors,
    layout: &Layout,
    entries: &[u32],
    used: &mut [bool],
    first: usize,
    depth: usize,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::new(ErrorKind::InvalidData, "folders lie too deep"));
    }
    for cluster in mark_chain(entries, used, first)? {
        let begin = layout.data + (cluster as u64 - 2) * layout.cluster_sectors;
        for sector in begin..begin + layout.cluster_sectors {
            let bytes = base.read(sector)?;
            for entry in bytes.chunks_exact(FOLDER_ENTRY) {
                let attributes = entry[11];
                let named = !matches!(entry[0], 0 | DELETED | b'.');
                if !named
                    || attributes & ATTRIBUTE_LONG_NAME == ATTRIBUTE_LONG_NAME
                    || attributes & ATTRIBUTE_LABEL != 0
                {
                    continue;
                }
                let first = u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]]) as usize;
                match attributes & ATTRIBUTE_FOLDER != 0 {
                    true => mark_folder(base, layout, entries, used, first, depth + 1)?,
                    // An empty file has no cluster.
                    false if first == 0 => {}
                    false => drop(mark_chain(entries, used, first)?),
                }
            }
        }
    }
    Ok(())
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests;
