//! Tests of the disk's layout, through the reader that PID 1 uses.

use init_boot::{Slot, root_slots};

use super::*;

const SIZES: DiskSizes = DiskSizes { total: 64 << 20, esp: 8 << 20, root: 8 << 20, state: 8 << 20 };

fn contents(root: &[u8]) -> Contents<'_> {
    Contents { esp: vec![0xe5; 1 << 20], root, root_hash: RootHash::from_bytes([7; 32]), seed: Some(b"seed { }") }
}

fn bytes_at(disk: &Disk, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (start, piece) in disk.chunks() {
        for (index, byte) in piece.iter().enumerate() {
            let at = start + index as u64;
            if (offset..offset + length as u64).contains(&at) {
                bytes[(at - offset) as usize] = *byte;
            }
        }
    }
    bytes
}

/// The table that the disk must carry, after a look at both its copies.
fn table(disk: &Disk) -> Table {
    let table = partition(&SIZES, &RootHash::from_bytes([7; 32])).expect("because the partitions fit");
    let encoded = table.encode();
    assert_eq!(bytes_at(disk, 0, encoded.primary.len()), encoded.primary);
    assert_eq!(bytes_at(disk, encoded.backup_offset, encoded.backup.len()), encoded.backup);
    table
}

#[test]
fn slot_a_holds_the_root_and_slot_b_is_empty() {
    let disk = lay_out(&SIZES, contents(b"root file system")).expect("because all fits");
    let table = table(&disk);
    let slots = root_slots(&table);
    assert_eq!(slots[0].slot, Slot::A);
    assert!(slots[0].holds(&RootHash::from_bytes([7; 32])));
    assert!(slots[1].is_empty());
    assert_eq!(bytes_at(&disk, slots[0].partition.offset_bytes(), 16), b"root file system");
}

#[test]
fn the_seed_is_found_on_meta_and_the_identity_key_is_absent() {
    let disk = lay_out(&SIZES, contents(b"root")).expect("because all fits");
    let table = table(&disk);
    let (_, meta) = table.find_label(label::META).expect("because every disk has META");
    for (kind, expected) in [(MetaKind::Seed, Some(b"seed { }".to_vec())), (MetaKind::IdentityKey, None)] {
        let place = bytes_at(&disk, meta.offset_bytes() + kind.offset(), kind.place_bytes());
        let record = MetaRecord::parse(kind, &place).expect("because the place is whole");
        assert_eq!(record.map(|record| record.bytes), expected);
    }
}

#[test]
fn ephemeral_takes_what_is_left() {
    let table = partition(&SIZES, &RootHash::from_bytes([1; 32])).expect("because the partitions fit");
    let (_, ephemeral) = table.find_label(label::EPHEMERAL).expect("because every disk has EPHEMERAL");
    assert_eq!(ephemeral.last, table.last_usable());
}

#[test]
fn a_root_that_does_not_fit_is_refused() {
    let root = vec![1; (8 << 20) + 1];
    let error = lay_out(&SIZES, contents(&root)).expect_err("because the slot is one byte too small");
    assert!(error.to_string().contains("enlarge root"), "{error}");
}

#[test]
fn zeros_are_left_out_of_the_raw_file() {
    use std::os::unix::fs::MetadataExt as _;
    let disk = lay_out(&SIZES, contents(b"root")).expect("because all fits");
    let folder = tempfile::tempdir().expect("because temporary folders can be made");
    let path = folder.path().join("disk.raw");
    write_raw(&disk, &path).expect("because the folder is ours");
    let metadata = std::fs::metadata(&path).expect("because it was just written");
    assert_eq!(metadata.len(), SIZES.total);
    assert!(metadata.blocks() * 512 < 4 << 20, "{} blocks are allocated", metadata.blocks());
}

#[test]
fn only_zeros_are_zero() {
    assert!(is_zero(&[]));
    assert!(is_zero(&[0; 100]));
    assert!(!is_zero(&[0, 0, 1]));
    assert!(!is_zero(&[1, 0, 0]));
}
