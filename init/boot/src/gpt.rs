//! GUID partition tables: the values, their limits and the names that Cairn's disks use. `encode` writes them,
//! `parse` reads them.
//!
//! The image builder makes a table, stage one reads it to find its slot, machined changes a slot's GUID at an
//! upgrade. Sectors have 512 bytes; a disk with native sectors of 4096 bytes is not supported yet.
//!
//! Format: UEFI specification 2.10, chapter 5.

mod encode;
mod parse;

use std::collections::BTreeMap;

use thiserror::Error;

pub use encode::Encoded;
pub use parse::GptError;

use crate::guid::Guid;

/// The size of a sector, in bytes.
pub const SECTOR_BYTES: u64 = 512;
/// The entries in a table, as every tool writes them; more are refused.
pub const ENTRIES_MAX: u32 = 128;
/// The longest label, in UTF-16 units.
pub const LABEL_UNITS_MAX: usize = 36;
/// Partitions begin at multiples of this many sectors (1 MiB), so that they fit any flash and RAID geometry.
pub const ALIGN_SECTORS: u64 = 2048;
/// Protective MBR, header and entries at the start of the disk, in sectors.
pub const PRIMARY_SECTORS: u64 = 2 + ENTRY_SECTORS;
/// Entries and header at the end of the disk, in sectors.
pub const BACKUP_SECTORS: u64 = ENTRY_SECTORS + 1;

const ENTRY_BYTES: usize = 128;
const ENTRY_SECTORS: u64 = ENTRIES_MAX as u64 * ENTRY_BYTES as u64 / SECTOR_BYTES;

/// The labels of the partitions of a Cairn disk.
pub mod label {
    /// EFI system partition, FAT.
    pub const ESP: &str = "ESP";
    /// First root slot: squashfs, verity superblock, hash tree.
    pub const ROOT_A: &str = "CAIRN-ROOT-A";
    /// Second root slot.
    pub const ROOT_B: &str = "CAIRN-ROOT-B";
    /// Raw records, see [`crate::MetaRecord`].
    pub const META: &str = "CAIRN-META";
    /// What must survive: machine ledger, control plane, accepted commits. ext4.
    pub const STATE: &str = "CAIRN-STATE";
    /// What can be made again: containers, images, logs. ext4.
    pub const EPHEMERAL: &str = "CAIRN-EPHEMERAL";
}

/// The type GUIDs of the partitions, from the Discoverable Partitions Specification where it has one.
pub mod type_guid {
    use crate::guid::Guid;

    /// EFI system partition.
    pub const ESP: Guid = Guid::from_text_order([
        0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
    ]);
    /// Root partition, x86-64.
    pub const ROOT_X86_64: Guid = Guid::from_text_order([
        0x4f, 0x68, 0xbc, 0xe3, 0xe8, 0xcd, 0x4d, 0xb1, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09,
    ]);
    /// META, our own.
    pub const META: Guid = Guid::from_text_order([
        0xee, 0xea, 0x35, 0x8a, 0x74, 0x93, 0x44, 0xe0, 0x8f, 0x51, 0xac, 0x90, 0x2d, 0xee, 0x25, 0x7d,
    ]);
    /// STATE: Linux file system data.
    pub const STATE: Guid = Guid::from_text_order([
        0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
    ]);
    /// EPHEMERAL: variable data, /var.
    pub const EPHEMERAL: Guid = Guid::from_text_order([
        0x4d, 0x21, 0xb0, 0x16, 0xb5, 0x34, 0x45, 0xc2, 0xa9, 0xfb, 0x5c, 0x16, 0xe0, 0x91, 0xfd, 0x2d,
    ]);
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What it is for, see [`type_guid`].
    pub type_guid: Guid,
    /// What it is; a root slot's says what it holds, see [`crate::EMPTY_SLOT_GUID`].
    pub guid: Guid,
    /// Its label, see [`label`].
    pub label: String,
    /// Its first sector.
    pub first: u64,
    /// Its last sector, itself included.
    pub last: u64,
}

impl Partition {
    /// Its length in sectors.
    pub const fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Where it begins on the disk, in bytes.
    pub const fn offset_bytes(&self) -> u64 {
        self.first * SECTOR_BYTES
    }

    /// Its length in bytes.
    pub const fn size_bytes(&self) -> u64 {
        self.sectors() * SECTOR_BYTES
    }
}

/// A partition table for a disk of a known size. Its partitions lie inside of the usable sectors and never overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    disk_guid: Guid,
    sectors: u64,
    partitions: BTreeMap<u32, Partition>,
}

/// Why a partition cannot stand in a table.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TableError {
    /// Too small for the table itself, or larger than bytes can be counted.
    #[error("a disk of {sectors} sectors cannot hold a partition table")]
    DiskSize {
        /// Its size.
        sectors: u64,
    },
    /// Outside of the usable sectors, or backwards.
    #[error(
        "partition {label:?} from sector {first} to {last} is not within the usable sectors {usable_first} to {usable_last}"
    )]
    Outside {
        /// Its label.
        label: String,
        /// Its first sector.
        first: u64,
        /// Its last sector.
        last: u64,
        /// The first usable sector.
        usable_first: u64,
        /// The last usable sector.
        usable_last: u64,
    },
    /// Shares sectors with another one.
    #[error("partitions {label:?} and {other:?} overlap")]
    Overlap {
        /// Its label.
        label: String,
        /// The other one's label.
        other: String,
    },
    /// A label that does not fit.
    #[error("partition label {label:?} is longer than {LABEL_UNITS_MAX} UTF-16 units")]
    Label {
        /// The label.
        label: String,
    },
    /// The type that means "unused".
    #[error("partition {label:?} has the all-zero type, which means an unused entry")]
    Unused {
        /// Its label.
        label: String,
    },
    /// No entry left, or a number from nowhere.
    #[error("partition number {number} is not one of the table's free numbers 1 to {ENTRIES_MAX}")]
    Number {
        /// The number.
        number: u32,
    },
    /// No room left behind the last partition.
    #[error("there is no room for partition {label:?} of {sectors} sectors")]
    Full {
        /// Its label.
        label: String,
        /// Its length.
        sectors: u64,
    },
    /// There is no such partition.
    #[error("the disk has no partition labelled {label:?}")]
    Absent {
        /// The label.
        label: String,
    },
}

impl Table {
    /// An empty table for a disk of `sectors` sectors of 512 bytes.
    ///
    /// # Errors
    /// When both copies of the table would not fit, or the size in bytes does not fit into 64 bits.
    pub fn new(disk_guid: Guid, sectors: u64) -> Result<Self, TableError> {
        if sectors <= PRIMARY_SECTORS + BACKUP_SECTORS || sectors.checked_mul(SECTOR_BYTES).is_none() {
            return Err(TableError::DiskSize { sectors });
        }
        Ok(Self { disk_guid, sectors, partitions: BTreeMap::new() })
    }

    /// The disk's own GUID.
    pub const fn disk_guid(&self) -> Guid {
        self.disk_guid
    }

    /// The size of the disk that the table was made for, in sectors.
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The first sector that a partition may use.
    pub const fn first_usable(&self) -> u64 {
        PRIMARY_SECTORS
    }

    /// The last sector that a partition may use.
    pub const fn last_usable(&self) -> u64 {
        self.sectors - BACKUP_SECTORS - 1
    }

    /// The partitions with their numbers, from 1.
    pub fn partitions(&self) -> impl Iterator<Item = (u32, &Partition)> {
        self.partitions.iter().map(|(number, partition)| (*number, partition))
    }

    /// The first partition with this label, and its number.
    pub fn find_label(&self, label: &str) -> Option<(u32, &Partition)> {
        self.partitions().find(|(_, partition)| partition.label == label)
    }

    /// The first partition with this GUID, and its number.
    pub fn find_guid(&self, guid: Guid) -> Option<(u32, &Partition)> {
        self.partitions().find(|(_, partition)| partition.guid == guid)
    }

    /// Puts a partition of `sectors` sectors behind the last one, aligned to [`ALIGN_SECTORS`]; gives its number.
    ///
    /// # Errors
    /// When there is no room, no free number, or the label does not fit.
    pub fn append(&mut self, type_guid: Guid, guid: Guid, label: &str, sectors: u64) -> Result<u32, TableError> {
        let full = || TableError::Full { label: label.to_owned(), sectors };
        let free = self.partitions.values().map(|partition| partition.last + 1).max().unwrap_or(PRIMARY_SECTORS);
        let first = free.checked_next_multiple_of(ALIGN_SECTORS).ok_or_else(full)?;
        let last = sectors.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or_else(full)?;
        if last > self.last_usable() {
            return Err(full());
        }
        let number = self.partitions.keys().next_back().map_or(1, |number| number + 1);
        self.insert(number, Partition { type_guid, guid, label: label.to_owned(), first, last })?;
        Ok(number)
    }

    /// How many sectors a partition appended now could have at most.
    pub fn free_sectors(&self) -> u64 {
        let free = self.partitions.values().map(|partition| partition.last + 1).max().unwrap_or(PRIMARY_SECTORS);
        let first = free.next_multiple_of(ALIGN_SECTORS);
        (self.last_usable() + 1).saturating_sub(first)
    }

    /// Puts a partition at a number and place of the caller's choice.
    ///
    /// # Errors
    /// When the number is taken, the sectors are not free, or the label does not fit.
    pub fn insert(&mut self, number: u32, partition: Partition) -> Result<(), TableError> {
        if number == 0 || number > ENTRIES_MAX || self.partitions.contains_key(&number) {
            return Err(TableError::Number { number });
        }
        let label = || partition.label.clone();
        let (first, last) = (partition.first, partition.last);
        if partition.type_guid == Guid::ZERO {
            return Err(TableError::Unused { label: label() });
        }
        if partition.label.encode_utf16().count() > LABEL_UNITS_MAX {
            return Err(TableError::Label { label: label() });
        }
        let (usable_first, usable_last) = (self.first_usable(), self.last_usable());
        if first > last || first < usable_first || last > usable_last {
            return Err(TableError::Outside { label: label(), first, last, usable_first, usable_last });
        }
        if let Some(other) = self.partitions.values().find(|other| first <= other.last && other.first <= last) {
            return Err(TableError::Overlap { label: label(), other: other.label.clone() });
        }
        self.partitions.insert(number, partition);
        Ok(())
    }

    /// Gives the labelled partition another GUID: how an upgrade says what a root slot now holds.
    ///
    /// # Errors
    /// When no partition has this label.
    pub fn set_guid(&mut self, label: &str, guid: Guid) -> Result<(), TableError> {
        let partition = self.partitions.values_mut().find(|partition| partition.label == label);
        partition.ok_or_else(|| TableError::Absent { label: label.to_owned() })?.guid = guid;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
