//! The two root slots: their labels, boot entries and partition GUIDs, and how PID 1 asks systemd-boot for the other
//! one.
//!
//! A slot's partition GUID says what it holds: half of the root hash, or [`EMPTY_SLOT_GUID`]. So stage one finds its
//! slot by the hash on the command line alone, whatever order the disks come in.

use crate::gpt::{Partition, Table, label};
use crate::guid::Guid;
use crate::root_hash::RootHash;

/// The partition GUID of a root slot that holds nothing.
pub const EMPTY_SLOT_GUID: Guid = Guid::from_text_order([
    0xca, 0x12, 0x4e, 0x00, 0xe3, 0xb7, 0x4d, 0x51, 0x9a, 0x70, 0x5b, 0x1e, 0x0f, 0x0f, 0x0f, 0x00,
]);

/// The folder of the boot entries on the EFI system partition.
pub const UKI_FOLDER: &str = "/EFI/Linux";

/// The configuration of systemd-boot on the EFI system partition.
pub const LOADER_CONFIGURATION: &str = "/loader/loader.conf";

/// The variable that systemd-boot reads and deletes: the entry to start once (Boot Loader Interface,
/// systemd.io/BOOT_LOADER_INTERFACE).
pub const LOADER_ENTRY_ONE_SHOT: &str = "LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Non-volatile, visible to boot services and at run time: what efivarfs wants as four bytes before a variable's value.
pub const EFI_VARIABLE_ATTRIBUTES: u32 = 0x1 | 0x2 | 0x4;

/// One of the two root slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// `CAIRN-ROOT-A`.
    A,
    /// `CAIRN-ROOT-B`.
    B,
}

impl Slot {
    /// Both slots, in the order of the disk.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The slot's partition label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::A => label::ROOT_A,
            Self::B => label::ROOT_B,
        }
    }

    /// The file name of the slot's boot entry, in [`UKI_FOLDER`]; systemd-boot uses it as the entry's id.
    pub const fn entry_name(self) -> &'static str {
        match self {
            Self::A => "cairn-a.efi",
            Self::B => "cairn-b.efi",
        }
    }

    /// The slot's letter, as records and people write it.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The slot with this letter.
    pub fn from_letter(letter: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|slot| slot.letter() == letter)
    }

    /// The boot loader's configuration when this slot is the one that starts by default: at once, and nobody edits the
    /// command line. Both slots' texts have the same length and fit into one sector, so that changing the default is
    /// one sector's write.
    pub fn loader_configuration(self) -> String {
        format!("default {}\ntimeout 0\neditor no\n", self.entry_name())
    }

    /// The other slot.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// What to write to efivarfs under [`LOADER_ENTRY_ONE_SHOT`] so that this slot starts once: attributes, then
    /// UTF-16 with its NUL.
    pub fn one_shot_variable(self) -> Vec<u8> {
        let mut bytes = EFI_VARIABLE_ATTRIBUTES.to_le_bytes().to_vec();
        for unit in self.entry_name().encode_utf16().chain([0]) {
            bytes.extend_from_slice(&unit.to_le_bytes());
        }
        bytes
    }
}

/// A root slot as a partition table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootSlot {
    /// Which of the two.
    pub slot: Slot,
    /// Its partition number, from 1.
    pub number: u32,
    /// Its partition entry.
    pub partition: Partition,
}

impl RootSlot {
    /// Whether the slot holds nothing that could be booted.
    pub fn is_empty(&self) -> bool {
        self.partition.guid == EMPTY_SLOT_GUID
    }

    /// Whether the slot claims to hold the root with this hash; only verity proves it.
    pub fn holds(&self, root: &RootHash) -> bool {
        self.partition.guid == root.partition_guid()
    }
}

/// The root slots of a table, by label.
pub fn root_slots(table: &Table) -> Vec<RootSlot> {
    Slot::ALL
        .into_iter()
        .filter_map(|slot| {
            let (number, partition) = table.find_label(slot.label())?;
            Some(RootSlot { slot, number, partition: partition.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::type_guid;

    #[test]
    fn one_shot_variable_is_attributes_and_utf16_with_its_nul() {
        let bytes = Slot::B.one_shot_variable();
        assert_eq!(&bytes[..8], [7, 0, 0, 0, b'c', 0, b'a', 0]);
        assert_eq!(bytes.len(), 4 + 2 * "cairn-b.efi".len() + 2);
        assert!(bytes.ends_with(&[b'i', 0, 0, 0]));
    }

    #[test]
    fn changing_the_default_changes_one_byte_of_one_sector() {
        let [a, b] = Slot::ALL.map(Slot::loader_configuration);
        assert_eq!(a.len(), b.len());
        assert_eq!(a.bytes().zip(b.bytes()).filter(|(a, b)| a != b).count(), 1);
        assert!(a.len() <= 512);
        assert_eq!(Slot::ALL.map(|slot| Slot::from_letter(slot.letter())), Slot::ALL.map(Some));
    }

    #[test]
    fn slots_are_told_apart_by_what_their_guids_say() {
        let root = RootHash::from_bytes([7; 32]);
        let mut table = Table::new(Guid::from_text_order([1; 16]), 1 << 16).expect("because 32 MiB hold a table");
        for (slot, guid) in [(Slot::A, root.partition_guid()), (Slot::B, EMPTY_SLOT_GUID)] {
            table.append(type_guid::ROOT_X86_64, guid, slot.label(), 2048).expect("because the disk has room");
        }
        let slots = root_slots(&table);
        assert_eq!(slots.len(), 2);
        assert!(slots[0].holds(&root) && !slots[0].is_empty());
        assert!(slots[1].is_empty() && !slots[1].holds(&root));
        assert_eq!((slots[0].number, slots[1].number), (1, 2));
        assert_eq!(slots[0].slot.other(), slots[1].slot);
    }
}
