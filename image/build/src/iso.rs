//! The installer's medium: one file that firmware starts from a CD drive and from a USB stick, and that comes along with `netboot.efi`.
//!
//! ```text
//! 0        protective MBR, GPT         for a USB stick (sectors of 512 bytes)
//! 32 KiB   ISO 9660 descriptors        for a CD drive (sectors of 2048 bytes): El Torito leads firmware to the ESP
//! 1 MiB    ESP | CAIRN-ROOT-A | CAIRN-META
//! end      the GPT's second copy
//! ```
//!
//! Both views name the same bytes: firmware starts the ESP's boot loader either way, and PID 1 finds the slot by the GPT, also on a CD.
//! Called by `pipeline`. UKI and root are the artefact's own. Must never hold an identity, and nothing that changes from build to build.
//!
//! Formats: ECMA-119 (4th edition), El Torito 1.0, UEFI specification 2.10, 13.3.2.

use init_boot::{BACKUP_SECTORS, MetaKind, MetaRecord, RootHash, SECTOR_BYTES, Table, label, partition_medium};

use crate::disk::{Disk, DiskError, Extent};

/// A sector of a CD, in bytes.
const BLOCK: usize = 2048;
/// The first block that a CD's descriptors may use; those before it belong to the machine, here to the GPT.
const SYSTEM_BLOCKS: u32 = 16;
/// Blocks of the descriptors, in their order.
const CATALOGUE: u32 = SYSTEM_BLOCKS + 3;
const PATHS_LITTLE: u32 = CATALOGUE + 1;
const PATHS_BIG: u32 = PATHS_LITTLE + 1;
const ROOT_FOLDER: u32 = PATHS_BIG + 1;
/// The size of the medium's ESP, in bytes: boot loader and one UKI, with room for the largest UKI that a machine could take.
const ESP_BYTES_MIN: u64 = 48 << 20;
/// Room beside the files on the ESP, in bytes: FAT's tables and folders.
const ESP_MARGIN: u64 = 8 << 20;
const MEBIBYTE: u64 = 1 << 20;
/// Name of the volume; what a desktop shows.
const VOLUME: &[u8] = b"CAIRN";

/// What lies on a medium.
pub struct Contents<'a> {
    /// Content of the ESP.
    pub esp: Vec<u8>,
    /// The root image.
    pub root: &'a [u8],
    /// Its verity root hash, which names its partition.
    pub root_hash: RootHash,
    /// Text of the seed, which the installed disk gets as it is.
    pub seed: Option<&'a [u8]>,
    /// Text that makes this medium an installer: which disk.
    pub install: &'a [u8],
}

/// The size of an ESP for files of so many bytes: whole MiB.
pub fn esp_bytes(files: usize) -> u64 {
    (files as u64 + ESP_MARGIN).next_multiple_of(MEBIBYTE).max(ESP_BYTES_MIN)
}

/// Lays the medium out.
///
/// # Errors
/// When seed or installation do not fit on META.
pub fn lay_out(contents: Contents<'_>) -> Result<Disk, DiskError> {
    let Contents { esp, root, root_hash, seed, install } = contents;
    let parts = [esp.len() as u64, root.len() as u64, init_boot::META_BYTES];
    // Each partition begins at a whole MiB, the first at one; a last one holds the second copy of the table.
    let bytes: u64 = parts.iter().map(|part| part.next_multiple_of(MEBIBYTE)).sum::<u64>() + 2 * MEBIBYTE;
    let table = partition_medium(bytes / SECTOR_BYTES, parts[0], parts[1], &root_hash)?;
    let offset = |label: &str| {
        let (_, partition) = table.find_label(label).expect("because every medium has it");
        partition.offset_bytes()
    };
    let encoded = table.encode();
    let mut extents = vec![
        Extent { offset: 0, bytes: encoded.primary },
        Extent { offset: u64::from(SYSTEM_BLOCKS) * BLOCK as u64, bytes: descriptors(&table, bytes) },
        Extent { offset: offset(label::ESP), bytes: esp },
        Extent { offset: offset(label::ROOT_A), bytes: root.to_vec() },
        Extent { offset: encoded.backup_offset, bytes: encoded.backup },
    ];
    for (kind, text) in [(MetaKind::Seed, seed), (MetaKind::Install, Some(install))] {
        let Some(text) = text else { continue };
        let bytes = MetaRecord { kind, bytes: text.to_vec() }.encode()?;
        extents.push(Extent { offset: offset(label::META) + kind.offset(), bytes });
    }
    extents.sort_by_key(|extent| extent.offset);
    const { assert!(BACKUP_SECTORS * SECTOR_BYTES < MEBIBYTE, "the last MiB holds the second copy") }
    Ok(Disk { size: bytes, extents })
}

/// The partitions as files of the CD, so that tools that know only ISO 9660 see what is there: name and label.
const FILES: [(&[u8], &str); 3] =
    [(b"ESP.IMG;1", label::ESP), (b"META.IMG;1", label::META), (b"ROOT.IMG;1", label::ROOT_A)];

/// All blocks from the first descriptor to the root folder.
fn descriptors(table: &Table, bytes: u64) -> Vec<u8> {
    let blocks = u32::try_from(bytes / BLOCK as u64).expect("because a medium has far less than 8 TiB");
    let files = FILES.map(|(name, label)| {
        let (_, partition) = table.find_label(label).expect("because every medium has it");
        let first = u32::try_from(partition.offset_bytes() / BLOCK as u64).expect("because it lies on the medium");
        let length = u32::try_from(partition.size_bytes()).expect("because a part has less than 4 GiB");
        (name, first, length)
    });
    let esp = files[0].1;
    let parts =
        [primary(blocks), boot_record(), terminator(), catalogue(esp), paths(true), paths(false), folder(&files)];
    parts.concat()
}

fn block(kind: u8) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[0] = kind;
    block[1..6].copy_from_slice(b"CD001");
    block[6] = 1;
    block
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A number in both byte orders (ECMA-119, 7.3.3 and 7.2.3).
fn both32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn both16(number: u16) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    bytes[2..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The primary volume descriptor (ECMA-119, 8.4). All times are "not specified".
fn primary(blocks: u32) -> Vec<u8> {
    let mut block = block(1);
    block[8..72].fill(b' ');
    put(&mut block, 40, VOLUME);
    put(&mut block, 80, &both32(blocks));
    put(&mut block, 120, &both16(1));
    put(&mut block, 124, &both16(1));
    put(&mut block, 128, &both16(BLOCK as u16));
    put(&mut block, 132, &both32(PATH_TABLE_BYTES));
    put(&mut block, 140, &PATHS_LITTLE.to_le_bytes());
    put(&mut block, 148, &PATHS_BIG.to_be_bytes());
    put(&mut block, 156, &entry(&[0], ROOT_FOLDER, BLOCK as u32, true));
    block[190..813].fill(b' ');
    for time in [813, 830, 847, 864] {
        block[time..time + 16].fill(b'0');
    }
    block[881] = 1;
    block
}

/// Where the boot catalogue lies (El Torito, figure 7).
fn boot_record() -> Vec<u8> {
    let mut block = block(0);
    put(&mut block, 7, b"EL TORITO SPECIFICATION");
    put(&mut block, 71, &CATALOGUE.to_le_bytes());
    block
}

fn terminator() -> Vec<u8> {
    block(255)
}

/// One boot image for UEFI: the ESP (El Torito, figures 2 and 3; platform 0xEF is the UEFI specification's). Its length in sectors has
/// 16 bits only; 0 means "to the end of the medium", and the FAT in it says how long it is.
fn catalogue(esp: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[0] = 1;
    block[1] = 0xef;
    put(&mut block, 4, b"CAIRN");
    put(&mut block, 30, &[0x55, 0xaa]);
    let words = block[..32].chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
    let sum = words.fold(0_u16, u16::wrapping_add);
    put(&mut block, 28, &sum.wrapping_neg().to_le_bytes());
    block[32] = 0x88;
    put(&mut block, 40, &esp.to_le_bytes());
    block
}

/// The root folder's entry is the only one.
const PATH_TABLE_BYTES: u32 = 10;

/// The path table in one byte order (ECMA-119, 9.4).
fn paths(little: bool) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[0] = 1;
    put(&mut block, 2, &if little { ROOT_FOLDER.to_le_bytes() } else { ROOT_FOLDER.to_be_bytes() });
    put(&mut block, 6, &if little { 1_u16.to_le_bytes() } else { 1_u16.to_be_bytes() });
    block
}

/// The root folder (ECMA-119, 6.8): itself, its parent, the files in the order of their names.
fn folder(files: &[(&[u8], u32, u32)]) -> Vec<u8> {
    let mut bytes = entry(&[0], ROOT_FOLDER, BLOCK as u32, true);
    bytes.extend(entry(&[1], ROOT_FOLDER, BLOCK as u32, true));
    for (name, first, length) in files {
        bytes.extend(entry(name, *first, *length, false));
    }
    bytes.resize(BLOCK, 0);
    bytes
}

/// An entry of a folder (ECMA-119, 9.1), without a time.
fn entry(name: &[u8], first: u32, length: u32, folder: bool) -> Vec<u8> {
    let mut entry = vec![0; (33 + name.len()).next_multiple_of(2)];
    entry[0] = u8::try_from(entry.len()).expect("because names are short");
    put(&mut entry, 2, &both32(first));
    put(&mut entry, 10, &both32(length));
    entry[25] = if folder { 2 } else { 0 };
    put(&mut entry, 28, &both16(1));
    entry[32] = u8::try_from(name.len()).expect("because names are short");
    put(&mut entry, 33, name);
    entry
}

#[cfg(test)]
mod tests;
