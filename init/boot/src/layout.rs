//! How a Cairn disk is divided: the one place that the image builder and the installer take it from.
//!
//! The order never changes: machines in the field have it. Sizes come from the profile; EPHEMERAL takes what the others leave.

use sha2::{Digest, Sha256};

use crate::gpt::{ALIGN_SECTORS, BACKUP_SECTORS, SECTOR_BYTES, Table, TableError, label, type_guid};
use crate::guid::Guid;
use crate::meta::META_BYTES;
use crate::root_hash::RootHash;
use crate::slot::EMPTY_SLOT_GUID;

/// The least that EPHEMERAL gets on a disk that is worth installing on, in bytes: container images alone need more.
pub const EPHEMERAL_BYTES_MIN: u64 = 2 << 30;

/// Sizes of the partitions that a profile decides, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionSizes {
    /// EFI system partition: boot loader and the UKIs of both slots.
    pub esp: u64,
    /// Each of the two root slots.
    pub root: u64,
    /// STATE: identity, ledger, cluster store.
    pub state: u64,
}

impl PartitionSizes {
    /// The smallest disk that holds them, in bytes.
    pub const fn disk_bytes_min(&self) -> u64 {
        let aligned = (ALIGN_SECTORS + BACKUP_SECTORS) * SECTOR_BYTES;
        self.esp + 2 * self.root + META_BYTES + self.state + EPHEMERAL_BYTES_MIN + aligned
    }

    /// The partition table of a whole disk of `sectors` sectors: slot A holds this root, slot B nothing. `identity` decides the GUIDs
    /// of all that is not a root slot: the same one gives the same disk.
    ///
    /// # Errors
    /// When the partitions do not fit.
    pub fn partition(&self, sectors: u64, root: &RootHash, identity: &[u8]) -> Result<Table, TableError> {
        let mut table = Table::new(named("disk", identity), sectors)?;
        let mut append = |kind, id, label, bytes: u64| table.append(kind, id, label, bytes / SECTOR_BYTES).map(drop);
        append(type_guid::ESP, named(label::ESP, identity), label::ESP, self.esp)?;
        append(type_guid::ROOT_X86_64, root.partition_guid(), label::ROOT_A, self.root)?;
        append(type_guid::ROOT_X86_64, EMPTY_SLOT_GUID, label::ROOT_B, self.root)?;
        append(type_guid::META, named(label::META, identity), label::META, META_BYTES)?;
        append(type_guid::STATE, named(label::STATE, identity), label::STATE, self.state)?;
        let rest = table.free_sectors();
        table.append(type_guid::EPHEMERAL, named(label::EPHEMERAL, identity), label::EPHEMERAL, rest)?;
        Ok(table)
    }
}

/// The partition table of an installer medium of `sectors` sectors: an ESP, slot A with exactly the root, META. It has no second slot
/// and no place for data: nothing is ever written to it. Its GUIDs are others than those of any installed disk.
///
/// # Errors
/// When the partitions do not fit.
pub fn partition_medium(sectors: u64, esp: u64, root_bytes: u64, root: &RootHash) -> Result<Table, TableError> {
    let identity = [b"installer ", &root.as_bytes()[..]].concat();
    let mut table = Table::new(named("disk", &identity), sectors)?;
    let mut append =
        |kind, id, label, bytes: u64| table.append(kind, id, label, bytes.div_ceil(SECTOR_BYTES)).map(drop);
    append(type_guid::ESP, named(label::ESP, &identity), label::ESP, esp)?;
    append(type_guid::ROOT_X86_64, root.partition_guid(), label::ROOT_A, root_bytes)?;
    append(type_guid::META, named(label::META, &identity), label::META, META_BYTES)?;
    Ok(table)
}

/// The GUID of something on the disk with this identity.
fn named(what: &str, identity: &[u8]) -> Guid {
    let digest = Sha256::new().chain_update("cairn disk ").chain_update(what).chain_update(identity);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    Guid::from_text_order(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::{Slot, root_slots};

    const SIZES: PartitionSizes = PartitionSizes { esp: 8 << 20, root: 8 << 20, state: 8 << 20 };

    #[test]
    fn a_disk_of_the_least_size_leaves_ephemeral_its_least() {
        let sectors = SIZES.disk_bytes_min() / SECTOR_BYTES;
        let root = RootHash::from_bytes([7; 32]);
        let table = SIZES.partition(sectors, &root, b"one").expect("because it is the least size");
        let (_, ephemeral) = table.find_label(label::EPHEMERAL).expect("because every disk has EPHEMERAL");
        assert!(ephemeral.size_bytes() >= EPHEMERAL_BYTES_MIN, "{}", ephemeral.size_bytes());
        assert_eq!(ephemeral.last, table.last_usable());
        assert!(root_slots(&table)[0].holds(&root) && root_slots(&table)[1].is_empty());
    }

    #[test]
    fn no_two_disks_share_the_partition_by_which_a_boot_loader_is_known() {
        let root = RootHash::from_bytes([7; 32]);
        let esp = |table: Table| table.find_label(label::ESP).map(|(_, esp)| esp.guid);
        let disk = |identity: &[u8]| esp(SIZES.partition(1 << 23, &root, identity).expect("because 4 GiB are enough"));
        let medium = esp(partition_medium(1 << 17, 8 << 20, 5000, &root).expect("because 64 MiB are enough"));
        assert_ne!(disk(b"one"), disk(b"other"));
        assert_ne!(disk(root.as_bytes()), medium);
        assert_eq!(disk(b"one"), disk(b"one"));
    }

    #[test]
    fn a_medium_has_one_slot_and_no_place_for_data() {
        let root = RootHash::from_bytes([7; 32]);
        let table = partition_medium(1 << 17, 8 << 20, 5000, &root).expect("because 64 MiB are enough");
        assert_eq!(root_slots(&table).iter().map(|slot| slot.slot).collect::<Vec<_>>(), [Slot::A]);
        assert!(table.find_label(label::STATE).is_none() && table.find_label(label::EPHEMERAL).is_none());
        let (_, slot) = table.find_label(label::ROOT_A).expect("because it has one");
        assert_eq!(slot.sectors(), 10, "5000 bytes are ten sectors");
    }
}
