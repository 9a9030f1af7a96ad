//! Reads a partition table from the first and the last sectors of a disk: the primary copy, or the backup where that
//! one is damaged.

use thiserror::Error;

use super::encode::{HEADER_BYTES, REVISION, SIGNATURE};
use super::{
    BACKUP_SECTORS, ENTRIES_MAX, ENTRY_BYTES, ENTRY_SECTORS, PRIMARY_SECTORS, Partition, SECTOR_BYTES, Table,
    TableError,
};
use crate::crc32::crc32;
use crate::guid::Guid;

/// Why a copy of a partition table is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GptError {
    /// Both copies are bad; the primary one's reason is the source.
    #[error("neither copy of the partition table can be read (the backup copy: {backup})")]
    Both {
        /// Why the backup was refused.
        backup: Box<GptError>,
        /// Why the primary was refused.
        #[source]
        primary: Box<GptError>,
    },
    /// Too few bytes were read.
    #[error("{bytes} bytes of the partition table are there, {wanted} are needed")]
    CutOff {
        /// What is there.
        bytes: usize,
        /// What is needed.
        wanted: usize,
    },
    /// No table at all.
    #[error("there is no GPT signature")]
    Signature,
    /// A field that every table has the same, and this one not.
    #[error("the GPT header's {field} is {found}")]
    Header {
        /// The field.
        field: &'static str,
        /// What stands there.
        found: u64,
    },
    /// Torn or damaged.
    #[error("the checksum of the GPT {part} does not match")]
    Checksum {
        /// Header or entries.
        part: &'static str,
    },
    /// An entry that cannot be.
    #[error("entry {number} of the partition table is impossible")]
    Entry {
        /// Its number, from 1.
        number: u32,
        /// What is wrong with it.
        #[source]
        source: TableError,
    },
    /// A label that is no UTF-16.
    #[error("the label of entry {number} of the partition table is not UTF-16")]
    Label {
        /// Its number, from 1.
        number: u32,
    },
}

const SECTOR: usize = SECTOR_BYTES as usize;
const ENTRIES_BYTES: usize = ENTRIES_MAX as usize * ENTRY_BYTES;

impl Table {
    /// Parses the table of a disk of `sectors` sectors from its first [`PRIMARY_SECTORS`] and its last
    /// [`BACKUP_SECTORS`].
    ///
    /// An image copied to a larger disk keeps its size: the primary copy says where its backup lies, and that is what
    /// [`Table::sectors`] tells.
    ///
    /// # Errors
    /// When neither copy is whole and sound.
    pub fn parse(primary: &[u8], backup: &[u8], sectors: u64) -> Result<Self, GptError> {
        parse_primary(primary, sectors).or_else(|primary| {
            parse_backup(backup, sectors)
                .map_err(|backup| GptError::Both { backup: Box::new(backup), primary: Box::new(primary) })
        })
    }
}

fn parse_primary(bytes: &[u8], sectors: u64) -> Result<Table, GptError> {
    let bytes = whole(bytes, PRIMARY_SECTORS)?;
    let header = Header::parse(&bytes[SECTOR..2 * SECTOR])?;
    header.expect_place(1, 2)?;
    if header.other >= sectors {
        return Err(GptError::Header { field: "backup sector", found: header.other });
    }
    let size = header.other + 1;
    header.table(&bytes[2 * SECTOR..], size)
}

fn parse_backup(bytes: &[u8], sectors: u64) -> Result<Table, GptError> {
    let bytes = whole(bytes, BACKUP_SECTORS)?;
    let header = Header::parse(&bytes[ENTRIES_BYTES..])?;
    let own = sectors.saturating_sub(1);
    header.expect_place(own, own.saturating_sub(ENTRY_SECTORS))?;
    header.table(&bytes[..ENTRIES_BYTES], sectors)
}

fn whole(bytes: &[u8], sectors: u64) -> Result<&[u8], GptError> {
    let wanted = sectors as usize * SECTOR;
    bytes.get(..wanted).ok_or(GptError::CutOff { bytes: bytes.len(), wanted })
}

/// The fields of a header whose own checksum was right.
struct Header {
    own: u64,
    other: u64,
    disk_guid: Guid,
    entries_at: u64,
    entry_count: u32,
    entries_sum: u32,
}

impl Header {
    fn parse(sector: &[u8]) -> Result<Self, GptError> {
        if sector[0..8] != SIGNATURE {
            return Err(GptError::Signature);
        }
        let number = |offset| u32::from_le_bytes(array(sector, offset));
        let long = |offset| u64::from_le_bytes(array(sector, offset));
        let revision = number(8);
        if revision != REVISION {
            return Err(GptError::Header { field: "revision", found: revision.into() });
        }
        let size = number(12) as usize;
        if !(HEADER_BYTES..=SECTOR).contains(&size) {
            return Err(GptError::Header { field: "size", found: size as u64 });
        }
        let mut summed = sector[..size].to_vec();
        summed[16..20].fill(0);
        if crc32(&summed) != number(16) {
            return Err(GptError::Checksum { part: "header" });
        }
        let entry_bytes = number(84);
        if entry_bytes as usize != ENTRY_BYTES {
            return Err(GptError::Header { field: "entry size", found: entry_bytes.into() });
        }
        let entry_count = number(80);
        if entry_count == 0 || entry_count > ENTRIES_MAX {
            return Err(GptError::Header { field: "number of entries", found: entry_count.into() });
        }
        Ok(Self {
            own: long(24),
            other: long(32),
            disk_guid: Guid::from_disk(array(sector, 56)),
            entries_at: long(72),
            entry_count,
            entries_sum: number(88),
        })
    }

    fn expect_place(&self, own: u64, entries_at: u64) -> Result<(), GptError> {
        if self.own != own {
            return Err(GptError::Header { field: "own sector", found: self.own });
        }
        if self.entries_at != entries_at {
            return Err(GptError::Header { field: "first sector of the entries", found: self.entries_at });
        }
        Ok(())
    }

    fn table(&self, entries: &[u8], sectors: u64) -> Result<Table, GptError> {
        let entries = &entries[..self.entry_count as usize * ENTRY_BYTES];
        if crc32(entries) != self.entries_sum {
            return Err(GptError::Checksum { part: "entries" });
        }
        let mut table = Table::new(self.disk_guid, sectors).map_err(|source| GptError::Entry { number: 0, source })?;
        for (number, entry) in (1..).zip(entries.chunks_exact(ENTRY_BYTES)) {
            if let Some(partition) = parse_entry(number, entry)? {
                table.insert(number, partition).map_err(|source| GptError::Entry { number, source })?;
            }
        }
        Ok(table)
    }
}

fn parse_entry(number: u32, entry: &[u8]) -> Result<Option<Partition>, GptError> {
    let type_guid = Guid::from_disk(array(entry, 0));
    if type_guid == Guid::ZERO {
        return Ok(None);
    }
    let units: Vec<u16> = entry[56..ENTRY_BYTES]
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    Ok(Some(Partition {
        type_guid,
        guid: Guid::from_disk(array(entry, 16)),
        label: String::from_utf16(&units).map_err(|_| GptError::Label { number })?,
        first: u64::from_le_bytes(array(entry, 32)),
        last: u64::from_le_bytes(array(entry, 40)),
    }))
}

/// Copies `N` bytes from a place that the caller's slice is known to have.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut copied = [0; N];
    copied.copy_from_slice(&bytes[offset..offset + N]);
    copied
}
