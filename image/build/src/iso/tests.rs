//! Tests of the medium: both views of it lead to the same bytes, as firmware and PID 1 follow them.

use init_boot::{BACKUP_SECTORS, PRIMARY_SECTORS, RootHash};

use super::*;

fn root_hash() -> RootHash {
    RootHash::from_bytes([7; 32])
}

/// A medium with parts that do not end at whole sectors, as one run of bytes.
fn medium() -> Vec<u8> {
    let esp = [vec![0xeb; 1000], vec![0; (3 << 20) - 1000]].concat();
    let (seed, install) = (Some(&b"seed { }"[..]), &b"install"[..]);
    let contents = Contents { esp, root: &[0x5a; 5_000_000], root_hash: root_hash(), seed, install };
    let disk = lay_out(contents).expect("because the seed is short");
    let mut bytes = vec![0; disk.size as usize];
    for extent in &disk.extents {
        let part = &mut bytes[extent.offset as usize..][..extent.bytes.len()];
        assert!(part.iter().all(|byte| *byte == 0), "two extents share bytes at {}", extent.offset);
        part.copy_from_slice(&extent.bytes);
    }
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// As PID 1 reads it, from either end.
fn table(bytes: &[u8]) -> Table {
    let sectors = bytes.len() as u64 / SECTOR_BYTES;
    let primary = &bytes[..(PRIMARY_SECTORS * SECTOR_BYTES) as usize];
    let backup = &bytes[((sectors - BACKUP_SECTORS) * SECTOR_BYTES) as usize..];
    let table = Table::parse(primary, backup, sectors).expect("because both copies are whole");
    assert_eq!(Table::parse(&[0; 17_408], backup, sectors), Ok(table.clone()), "the second copy says the same");
    table
}

#[test]
fn firmware_finds_the_same_esp_on_a_cd_and_on_a_stick() {
    let bytes = medium();
    assert_eq!(bytes.len() % BLOCK, 0, "a CD has whole blocks");
    // El Torito: descriptor at block 17, catalogue, validation entry, default entry.
    let record = &bytes[17 * BLOCK..18 * BLOCK];
    assert_eq!(&record[..30], b"\0CD001\x01EL TORITO SPECIFICATION");
    let catalogue = &bytes[u32_at(record, 71) as usize * BLOCK..][..64];
    let sum =
        catalogue[..32].chunks(2).fold(0_u16, |sum, word| sum.wrapping_add(u16::from_le_bytes([word[0], word[1]])));
    assert_eq!((catalogue[0], catalogue[1], sum), (1, 0xef, 0), "a UEFI entry whose words add up to nothing");
    assert_eq!((catalogue[32], catalogue[33], &catalogue[38..40]), (0x88, 0, &[0, 0][..]));
    let on_cd = u64::from(u32_at(catalogue, 40)) * BLOCK as u64;
    let table = table(&bytes);
    let (_, esp) = table.find_label(label::ESP).expect("because it has one");
    assert_eq!(on_cd, esp.offset_bytes());
    assert_eq!(bytes[on_cd as usize], 0xeb);
    assert_eq!(bytes[510..512], [0x55, 0xaa], "the protective MBR is there");
}

#[test]
fn the_slot_holds_the_whole_root_and_meta_what_the_installer_needs() {
    let bytes = medium();
    let table = table(&bytes);
    let slots = init_boot::root_slots(&table);
    assert!(slots[0].holds(&root_hash()));
    let slot = &bytes[slots[0].partition.offset_bytes() as usize..][..slots[0].partition.size_bytes() as usize];
    assert!(slot[..5_000_000].iter().all(|byte| *byte == 0x5a) && slot[5_000_000..].iter().all(|byte| *byte == 0));
    let (_, meta) = table.find_label(label::META).expect("because it has one");
    for (kind, text) in [(MetaKind::Seed, &b"seed { }"[..]), (MetaKind::Install, b"install")] {
        let place = &bytes[(meta.offset_bytes() + kind.offset()) as usize..][..kind.place_bytes()];
        let record = MetaRecord::parse(kind, place).expect("because it is whole");
        assert_eq!(record.map(|record| record.bytes).as_deref(), Some(text));
    }
}

#[test]
fn the_volume_names_its_parts_as_files_where_they_lie() {
    let bytes = medium();
    let volume = &bytes[16 * BLOCK..17 * BLOCK];
    assert_eq!((volume[0], &volume[1..7]), (1, &b"CD001\x01"[..]));
    assert_eq!(u32_at(volume, 80) as usize * BLOCK, bytes.len(), "the volume is the whole medium");
    let folder = &bytes[u32_at(volume, 158) as usize * BLOCK..][..BLOCK];
    let (mut at, mut found) = (0, Vec::new());
    while folder[at] != 0 {
        let entry = &folder[at..at + folder[at] as usize];
        let name = String::from_utf8_lossy(&entry[33..33 + entry[32] as usize]).into_owned();
        found.push((name, u64::from(u32_at(entry, 2)) * BLOCK as u64));
        at += entry.len();
    }
    let table = table(&bytes);
    let place = |label| table.find_label(label).map(|(_, part)| part.offset_bytes()).expect("because it has one");
    let expected = [("ESP.IMG;1", label::ESP), ("META.IMG;1", label::META), ("ROOT.IMG;1", label::ROOT_A)];
    assert_eq!(found[2..], expected.map(|(name, label)| (name.to_owned(), place(label))));
}

#[test]
fn an_esp_has_room_for_its_files_and_stays_fat32() {
    assert_eq!(esp_bytes(1), 48 << 20);
    assert_eq!(esp_bytes(100 << 20), 108 << 20);
}
