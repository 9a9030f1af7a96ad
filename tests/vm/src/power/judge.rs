//! Looks at a disk as firmware, boot loader and stage one will, without starting it: what they may find is whole.
//!
//! Thousands of crash states are judged this way in the time in which one machine starts.

use super::disk::{Disk, SECTOR};
use anyhow::{Context, Result, bail, ensure};
use fatfs::{FileSystem, FsOptions};
use init_boot::{
    BACKUP_SECTORS, BootRecord, LOADER_CONFIGURATION, MetaKind, MetaRecord, PRIMARY_SECTORS, RootHash, Slot, Table,
    UKI_FOLDER, label, root_slots,
};
use std::io::{self, Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of a root that are compared at a time.
const COMPARED: usize = 1 << 20;

/// An image that a slot may hold.
pub(crate) struct Image {
    hash: RootHash,
    root: Vec<u8>,
    uki: Vec<u8>,
}

impl Image {
    /// Reads what `cairn-image build` made.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| std::fs::read(folder.join(name)).with_context(|| format!("reading {name} of an image"));
        let manifest: serde_json::Value = serde_json::from_slice(&read("manifest.json")?)?;
        let hash = manifest["root_hash"].as_str().context("root_hash in a manifest")?;
        Ok(Image { hash: hash.parse().context("a root hash")?, root: read("root.img")?, uki: read("cairn.efi")? })
    }
}

/// Where the parts lie that decide what starts.
pub(crate) struct Layout(Vec<std::ops::Range<u64>>);

impl Layout {
    /// Everything but the two volumes.
    pub(crate) fn of(disk: &Disk) -> Result<Self> {
        let table = table(disk)?;
        let first = table.find_label(label::STATE).context("there is a STATE partition")?.1.offset_bytes();
        Ok(Layout(vec![0..first, disk.size() - BACKUP_SECTORS * SECTOR as u64..disk.size()]))
    }

    /// Whether a write at `offset` changes any of them.
    pub(crate) fn has(&self, offset: u64) -> bool {
        self.0.iter().any(|range| range.contains(&offset))
    }
}

/// Judges a disk.
///
/// # Errors
/// What a machine would find that it must never find.
pub(crate) fn judge(disk: &Disk, images: &[Image]) -> Result<()> {
    let table = table(disk)?;
    let esp = table.find_label(label::ESP).context("there is an ESP")?.1;
    let part = Part::of(disk, &(esp.offset_bytes()..esp.offset_bytes() + esp.size_bytes()));
    let esp = FileSystem::new(part, FsOptions::new()).context("the ESP is no file system")?;
    let file = |path: &str| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = esp.root_dir().open_file(path).with_context(|| format!("opening {path} on the ESP"))?;
        file.read_to_end(&mut bytes).with_context(|| format!("reading {path} on the ESP"))?;
        Ok(bytes)
    };
    let configuration = file(LOADER_CONFIGURATION.trim_start_matches('/'))?;
    let default = Slot::ALL.into_iter().find(|slot| slot.loader_configuration().as_bytes() == configuration);
    let default = default.context("the boot loader's configuration is none of ours")?;
    ensure!(!file("EFI/BOOT/BOOTX64.EFI")?.is_empty(), "the boot loader is empty");

    for slot in root_slots(&table) {
        if slot.is_empty() {
            ensure!(slot.slot != default, "the default, slot {}, is empty", default.letter());
            continue;
        }
        let letter = slot.slot.letter();
        let image = images.iter().find(|image| slot.holds(&image.hash));
        let image = image.with_context(|| format!("slot {letter} is named and holds no known image"))?;
        let entry = file(&format!("{}/{}", UKI_FOLDER.trim_start_matches('/'), slot.slot.entry_name()))?;
        ensure!(entry == image.uki, "slot {letter} is named and its boot entry is not whole");
        for (index, part) in image.root.chunks(COMPARED).enumerate() {
            let there = disk.bytes(slot.partition.offset_bytes() + (index * COMPARED) as u64, part.len())?;
            ensure!(there == part, "slot {letter} is named and its root is not whole, megabyte {index}");
        }
    }
    let meta = table.find_label(label::META).context("there is a META partition")?.1.offset_bytes();
    records(disk, meta, default)
}

/// META: the key is whole or was never there, and one copy of the boot record always counts.
fn records(disk: &Disk, meta: u64, default: Slot) -> Result<()> {
    let place = |kind: MetaKind| disk.bytes(meta + kind.offset(), kind.place_bytes());
    MetaRecord::parse(MetaKind::IdentityKey, &place(MetaKind::IdentityKey)?).context("the identity key is torn")?;
    let (first, second) = (place(MetaKind::BootFirst)?, place(MetaKind::BootSecond)?);
    let broken = |kind, place: &[u8]| BootRecord::parse(kind, place).is_err();
    if broken(MetaKind::BootFirst, &first) && broken(MetaKind::BootSecond, &second) {
        bail!("both copies of the boot record are torn");
    }
    let Some(record) = BootRecord::newest(&first, &second) else { return Ok(()) };
    let proven = record.attempt.as_ref().filter(|attempt| attempt.starts > 0).map(|attempt| attempt.slot);
    let named = record.good == default || proven == Some(default);
    ensure!(named, "slot {} is the default and neither good nor ever started: {record:?}", default.letter());
    Ok(())
}

pub(super) fn table(disk: &Disk) -> Result<Table> {
    let sector = SECTOR as u64;
    let primary = disk.bytes(0, (PRIMARY_SECTORS * sector) as usize)?;
    let backup = disk.bytes(disk.size() - BACKUP_SECTORS * sector, (BACKUP_SECTORS * sector) as usize)?;
    Table::parse(&primary, &backup, disk.size() / sector).context("no copy of the partition table is whole")
}

/// A partition that is only read.
pub(super) struct Part<'a> {
    disk: &'a Disk,
    begin: u64,
    size: u64,
    position: u64,
}

impl<'a> Part<'a> {
    pub(super) fn of(disk: &'a Disk, range: &std::ops::Range<u64>) -> Self {
        Part { disk, begin: range.start, size: range.end - range.start, position: 0 }
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.size - self.position).unwrap_or(usize::MAX));
        self.disk.read(self.begin + self.position, &mut buffer[..length]).map_err(Error::other)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = position.filter(|at| *at <= self.size).ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
