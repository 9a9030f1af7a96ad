//! Stage 7: the disk: partition table, ESP, two root slots, META, STATE and EPHEMERAL, as a value of a few extents.
//!
//! Called by `pipeline`; `write_raw` here and `qcow2` turn the value into files. STATE and EPHEMERAL stay empty: machined formats
//! them at first boot. Must never hold an identity: two machines from one image share nothing but the image.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use init_boot::{MetaError, MetaKind, MetaRecord, RootHash, SECTOR_BYTES, Table, TableError, label};

use crate::files::FileError;
use crate::profile::DiskSizes;

/// Granularity at which zeros are left out of files, in bytes.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Some bytes at a place of the disk; all else is zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset on the disk, a multiple of 512.
    pub offset: u64,
    /// What lies there.
    pub bytes: Vec<u8>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its size in bytes.
    pub size: u64,
    /// Its content, sorted by offset, without overlaps.
    pub extents: Vec<Extent>,
}

/// What lies on the disk.
pub struct Contents<'a> {
    /// Content of the EFI system partition.
    pub esp: Vec<u8>,
    /// Content of slot A.
    pub root: &'a [u8],
    /// Its verity root hash, which names the partition.
    pub root_hash: RootHash,
    /// Text of the seed, when the image has one.
    pub seed: Option<&'a [u8]>,
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The partitions do not fit.
    #[error("the partitions do not fit on the disk; correct the sizes of the profile")]
    Table(#[from] TableError),
    /// The root file system does not fit into its slot.
    #[error("the root image has {image} bytes, a slot of the profile {slot}; enlarge root in the profile's disk")]
    RootTooLarge {
        /// Bytes of the image.
        image: u64,
        /// Bytes of the slot.
        slot: u64,
    },
    /// The seed does not fit.
    #[error("the seed does not fit into its place on META")]
    Seed(#[from] MetaError),
}

/// Lays the disk out.
///
/// # Errors
/// See [`DiskError`].
pub fn lay_out(sizes: &DiskSizes, contents: Contents<'_>) -> Result<Disk, DiskError> {
    let Contents { esp, root, root_hash, seed } = contents;
    let image = root.len() as u64;
    if image > sizes.root {
        return Err(DiskError::RootTooLarge { image, slot: sizes.root });
    }
    let table = partition(sizes, &root_hash)?;
    let offset = |label: &str| {
        let (_, partition) = table.find_label(label).expect("because partition() made it");
        partition.offset_bytes()
    };
    let encoded = table.encode();
    let mut extents = vec![
        Extent { offset: 0, bytes: encoded.primary },
        Extent { offset: offset(label::ESP), bytes: esp },
        Extent { offset: offset(label::ROOT_A), bytes: root.to_vec() },
        Extent { offset: encoded.backup_offset, bytes: encoded.backup },
    ];
    if let Some(seed) = seed {
        let bytes = MetaRecord { kind: MetaKind::Seed, bytes: seed.to_vec() }.encode()?;
        extents.push(Extent { offset: offset(label::META) + MetaKind::Seed.offset(), bytes });
    }
    extents.sort_by_key(|extent| extent.offset);
    Ok(Disk { size: sizes.total, extents })
}

/// The partition table; GUIDs come from the root hash, so that the same image is the same disk.
fn partition(sizes: &DiskSizes, root_hash: &RootHash) -> Result<Table, TableError> {
    sizes.partitions().partition(sizes.total / SECTOR_BYTES, root_hash, root_hash.as_bytes())
}

impl Disk {
    /// The parts of the content that are not all zeros, cut at multiples of [`CHUNK_BYTES`] of the disk.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.extents.iter().flat_map(|extent| {
            let to_boundary = CHUNK_BYTES - (extent.offset % CHUNK_BYTES as u64) as usize;
            let (head, tail) = extent.bytes.split_at(to_boundary.min(extent.bytes.len()));
            let mut at = extent.offset;
            let pieces = std::iter::once(head).chain(tail.chunks(CHUNK_BYTES));
            pieces
                .map(move |piece| {
                    let start = at;
                    at += piece.len() as u64;
                    (start, piece)
                })
                .filter(|(_, piece)| !is_zero(piece))
        })
    }
}

/// Whether all bytes are zero; compares with itself shifted by one, which the C library does a vector at a time.
fn is_zero(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [first, rest @ ..] => *first == 0 && rest == &bytes[..bytes.len() - 1],
    }
}

/// Writes the disk as a raw file; zeros take no room on file systems that know holes.
///
/// # Errors
/// When the file cannot be written.
pub fn write_raw(disk: &Disk, path: &Path) -> Result<(), FileError> {
    let because = || FileError::because("write", path);
    let mut file = File::create(path).map_err(because())?;
    file.set_len(disk.size).map_err(because())?;
    for (offset, bytes) in disk.chunks() {
        file.seek(SeekFrom::Start(offset)).map_err(because())?;
        file.write_all(bytes).map_err(because())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
