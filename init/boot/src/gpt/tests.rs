//! Tables go to bytes and back, survive the loss of either copy, and no damage panics or passes unnoticed.

use super::*;
use crate::slot::EMPTY_SLOT_GUID;

const SECTORS: u64 = 1 << 18;

fn table() -> Table {
    let mut table = Table::new(Guid::from_text_order([9; 16]), SECTORS).expect("because 128 MiB hold a table");
    let parts = [
        (type_guid::ESP, [1; 16], label::ESP, 65536),
        (type_guid::ROOT_X86_64, [2; 16], label::ROOT_A, 40000),
        (type_guid::ROOT_X86_64, EMPTY_SLOT_GUID.text_order(), label::ROOT_B, 40000),
        (type_guid::META, [4; 16], label::META, 2048),
    ];
    for (kind, guid, label, sectors) in parts {
        table.append(kind, Guid::from_text_order(guid), label, sectors).expect("because the disk has room");
    }
    let rest = table.free_sectors();
    table
        .append(type_guid::STATE, Guid::from_text_order([5; 16]), label::STATE, rest)
        .expect("because the rest fits exactly");
    table
}

#[test]
fn a_table_survives_encoding() {
    let encoded = table().encode();
    assert_eq!(encoded.primary.len() as u64, PRIMARY_SECTORS * SECTOR_BYTES);
    assert_eq!(encoded.backup_offset + encoded.backup.len() as u64, SECTORS * SECTOR_BYTES);
    assert_eq!(Table::parse(&encoded.primary, &encoded.backup, SECTORS), Ok(table()));
}

#[test]
fn either_copy_is_enough() {
    let encoded = table().encode();
    let zeros = vec![0; encoded.primary.len()];
    assert_eq!(Table::parse(&zeros, &encoded.backup, SECTORS), Ok(table()));
    assert_eq!(Table::parse(&encoded.primary, &zeros, SECTORS), Ok(table()));
    assert!(matches!(Table::parse(&zeros, &zeros, SECTORS), Err(GptError::Both { .. })));
    assert!(matches!(Table::parse(&[], &[], SECTORS), Err(GptError::Both { .. })));
}

#[test]
fn an_image_on_a_larger_disk_is_read_and_on_a_smaller_one_refused() {
    let encoded = table().encode();
    let zeros = vec![0; encoded.backup.len()];
    let parsed = Table::parse(&encoded.primary, &zeros, SECTORS * 2).expect("because the primary copy is whole");
    assert_eq!(parsed.sectors(), SECTORS);
    assert!(Table::parse(&encoded.primary, &zeros, SECTORS - 1).is_err());
}

#[test]
fn damage_of_the_primary_falls_back_to_the_same_table() {
    let encoded = table().encode();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..200 {
        let mut primary = encoded.primary.clone();
        for _ in 0..3 {
            let index = 512 + next(&mut random) as usize % (primary.len() - 512);
            primary[index] ^= 1 << (next(&mut random) % 8);
        }
        assert_eq!(Table::parse(&primary, &encoded.backup, SECTORS), Ok(table()));
    }
}

#[test]
fn hostile_fields_with_right_checksums_never_panic() {
    let whole = table().encode();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..200 {
        let mut primary = whole.primary.clone();
        let index = match next(&mut random) % 2 {
            0 => 512 + next(&mut random) as usize % 92,
            _ => 1024 + next(&mut random) as usize % 1024,
        };
        primary[index] = next(&mut random) as u8;
        reseal(&mut primary);
        let sectors = [0, 1, 67, SECTORS, u64::MAX][next(&mut random) as usize % 5];
        if let Ok(parsed) = Table::parse(&primary, &whole.backup, sectors) {
            for (_, partition) in parsed.partitions() {
                assert!(partition.first <= partition.last && partition.last < sectors);
            }
        }
    }
}

#[test]
fn overlapping_entries_are_refused_even_when_the_sums_are_right() {
    let mut primary = table().encode().primary;
    primary.copy_within(1024 + 32..1024 + 48, 1024 + 128 + 32);
    reseal(&mut primary);
    let refused = Table::parse(&primary, &[], SECTORS).expect_err("because ESP and ROOT-A overlap");
    let GptError::Both { primary, .. } = refused else { panic!("the reason is {refused}") };
    assert!(matches!(*primary, GptError::Entry { number: 2, source: TableError::Overlap { .. } }));
}

#[test]
fn what_cannot_stand_in_a_table_is_refused() {
    assert!(Table::new(Guid::ZERO, 67).is_err());
    assert!(Table::new(Guid::ZERO, u64::MAX).is_err());
    let mut table = table();
    assert!(matches!(table.append(type_guid::ESP, Guid::ZERO, "x", 1), Err(TableError::Full { .. })));
    assert!(matches!(table.append(type_guid::ESP, Guid::ZERO, "x", 0), Err(TableError::Full { .. })));
    let partition =
        Partition { type_guid: type_guid::ESP, guid: Guid::ZERO, label: "x".repeat(37), first: 40, last: 50 };
    assert!(matches!(table.insert(7, partition.clone()), Err(TableError::Label { .. })));
    assert!(matches!(table.insert(1, partition.clone()), Err(TableError::Number { number: 1 })));
    assert!(matches!(table.insert(129, partition), Err(TableError::Number { number: 129 })));
    assert!(table.set_guid("nowhere", Guid::ZERO).is_err());
}

#[test]
fn an_upgrade_changes_one_guid_and_nothing_else() {
    let mut upgraded = table();
    upgraded.set_guid(label::ROOT_B, Guid::from_text_order([7; 16])).expect("because the slot is there");
    let (number, slot) = upgraded.find_label(label::ROOT_B).expect("because the slot is there");
    assert_eq!((number, slot.guid), (3, Guid::from_text_order([7; 16])));
    assert_eq!(slot.first % ALIGN_SECTORS, 0);
    assert_eq!(upgraded.find_guid(Guid::from_text_order([7; 16])).map(|(number, _)| number), Some(3));
    assert_eq!(table().partitions().count(), upgraded.partitions().count());
}

/// Puts right checksums over whatever the header and the entries now say.
fn reseal(primary: &mut [u8]) {
    let count = u32::from_le_bytes([primary[592], primary[593], primary[594], primary[595]]).min(ENTRIES_MAX) as usize;
    let entries = crate::crc32::crc32(&primary[1024..1024 + count * ENTRY_BYTES]);
    primary[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    primary[512 + 16..512 + 20].fill(0);
    let size = u32::from_le_bytes([primary[524], primary[525], primary[526], primary[527]]).min(512) as usize;
    let header = crate::crc32::crc32(&primary[512..512 + size]);
    primary[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

/// A step of xorshift64: the same bytes on every run.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
