//! Writes a partition table: protective MBR, both headers, both copies of the entries.

use super::{ENTRIES_MAX, ENTRY_BYTES, ENTRY_SECTORS, Partition, SECTOR_BYTES, Table};
use crate::crc32::crc32;

/// The bytes of a table and where they belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Protective MBR, header and entries, for the start of the disk.
    pub primary: Vec<u8>,
    /// Entries and header, for `backup_offset`.
    pub backup: Vec<u8>,
    /// Where `backup` belongs, in bytes from the start of the disk.
    pub backup_offset: u64,
}

pub(super) const SIGNATURE: [u8; 8] = *b"EFI PART";
pub(super) const REVISION: u32 = 0x0001_0000;
pub(super) const HEADER_BYTES: usize = 92;
const SECTOR: usize = SECTOR_BYTES as usize;

impl Table {
    /// Encodes both copies. A writer puts the backup down first and syncs between the two, so that one is always whole.
    pub fn encode(&self) -> Encoded {
        let entries = self.encode_entries();
        let backup_header = self.sectors - 1;
        let backup_entries = backup_header - ENTRY_SECTORS;

        let mut primary = self.protective_mbr();
        primary.extend_from_slice(&self.header(1, backup_header, 2, &entries));
        primary.extend_from_slice(&entries);

        let mut backup = entries.clone();
        backup.extend_from_slice(&self.header(backup_header, 1, backup_entries, &entries));
        Encoded { primary, backup, backup_offset: backup_entries * SECTOR_BYTES }
    }

    fn encode_entries(&self) -> Vec<u8> {
        let mut entries = vec![0; ENTRIES_MAX as usize * ENTRY_BYTES];
        for (number, partition) in self.partitions() {
            // insert() keeps numbers between 1 and ENTRIES_MAX.
            let start = (number as usize - 1) * ENTRY_BYTES;
            encode_entry(partition, &mut entries[start..start + ENTRY_BYTES]);
        }
        entries
    }

    fn header(&self, own: u64, other: u64, entries_at: u64, entries: &[u8]) -> [u8; SECTOR] {
        let mut header = [0; SECTOR];
        header[0..8].copy_from_slice(&SIGNATURE);
        header[8..12].copy_from_slice(&REVISION.to_le_bytes());
        header[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        header[24..32].copy_from_slice(&own.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[40..48].copy_from_slice(&self.first_usable().to_le_bytes());
        header[48..56].copy_from_slice(&self.last_usable().to_le_bytes());
        header[56..72].copy_from_slice(&self.disk_guid.to_disk());
        header[72..80].copy_from_slice(&entries_at.to_le_bytes());
        header[80..84].copy_from_slice(&ENTRIES_MAX.to_le_bytes());
        header[84..88].copy_from_slice(&(ENTRY_BYTES as u32).to_le_bytes());
        header[88..92].copy_from_slice(&crc32(entries).to_le_bytes());
        let sum = crc32(&header[..HEADER_BYTES]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    }

    /// One MBR partition of type 0xEE over the whole disk, so that old tools leave it alone.
    fn protective_mbr(&self) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        let length = u32::try_from(self.sectors - 1).unwrap_or(u32::MAX);
        // Status, first address as cylinder-head-sector, type, last address, first sector, length.
        sector[446..454].copy_from_slice(&[0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
        sector[454..458].copy_from_slice(&1_u32.to_le_bytes());
        sector[458..462].copy_from_slice(&length.to_le_bytes());
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        sector
    }
}

fn encode_entry(partition: &Partition, entry: &mut [u8]) {
    entry[0..16].copy_from_slice(&partition.type_guid.to_disk());
    entry[16..32].copy_from_slice(&partition.guid.to_disk());
    entry[32..40].copy_from_slice(&partition.first.to_le_bytes());
    entry[40..48].copy_from_slice(&partition.last.to_le_bytes());
    for (unit, place) in partition.label.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
        place.copy_from_slice(&unit.to_le_bytes());
    }
}
