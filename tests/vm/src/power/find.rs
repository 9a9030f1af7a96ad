//! Where the parts of the boot chain lie on a disk.

use super::disk::{Disk, SECTOR};
use super::judge::{Part, table};
use anyhow::{Context, Result};
use fatfs::{FileSystem, FsOptions};
use init_boot::label;
use std::io::Read;
use std::ops::Range;

/// The bytes of a partition.
pub(crate) fn partition(disk: &Disk, label: &str) -> Result<Range<u64>> {
    let table = table(disk)?;
    let (_, partition) = table.find_label(label).with_context(|| format!("there is no partition {label}"))?;
    Ok(partition.offset_bytes()..partition.offset_bytes() + partition.size_bytes())
}

/// A file of the ESP.
pub(crate) fn file(disk: &Disk, path: &str) -> Result<Vec<u8>> {
    let esp = FileSystem::new(Part::of(disk, &partition(disk, label::ESP)?), FsOptions::new())?;
    let mut bytes = Vec::new();
    let mut file = esp.root_dir().open_file(path).with_context(|| format!("opening {path} on the ESP"))?;
    file.read_to_end(&mut bytes).with_context(|| format!("reading {path} on the ESP"))?;
    Ok(bytes)
}

/// Where a file of the ESP lies in one piece, as whoever builds the disk writes it.
pub(crate) fn contiguous(disk: &Disk, file: &[u8]) -> Result<u64> {
    let esp = partition(disk, label::ESP)?;
    let mark = &file[..SECTOR.min(file.len())];
    for at in esp.clone().step_by(SECTOR) {
        let fits = at + file.len() as u64 <= esp.end;
        if fits && disk.bytes(at, mark.len())? == mark && disk.bytes(at, file.len())? == file {
            return Ok(at);
        }
    }
    anyhow::bail!("a file of {} bytes does not lie on the ESP in one piece", file.len())
}
