//! Finds the root slot that the command line names, by partition GUID, on whatever disk it lies.
//!
//! The installer's medium and an installed disk may hold the same root. The one that the boot loader came from wins: firmware's boot
//! order is what a person decides by, and META beside the slot belongs to it. The boot loader says which partition that was; a CD
//! and a medium in memory have no partitions for it, so where it says nothing they win.

use std::path::{Path, PathBuf};

use init_boot::{
    BACKUP_SECTORS, Guid, LOADER_DEVICE_PART_UUID, LOADER_DEVICE_PART_UUID_BYTES, PRIMARY_SECTORS, Partition, RootHash,
    RootSlot, SECTOR_BYTES, Table, label, loader_partition, root_slots,
};
use init_linux::efi::EFI_VARIABLES;
use init_linux::{Kernel, SystemError};

const BLOCK_CLASS: &str = "/sys/class/block";
/// A number and a line feed, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 64;
/// Devices that hold no partition tables of ours, by the beginning of their names.
const SKIPPED: [&str; 5] = ["ram", "zram", "dm-", "md", "fd"];
/// Devices of which the kernel shows no partitions: CD drives, and what stage one attached.
const UNDIVIDED: [&str; 2] = ["sr", LOOP];
/// A file as a device: the medium of a machine that started from the network.
const LOOP: &str = "loop";
/// What firmware loaded into memory as a disk.
const IN_MEMORY: &str = "pmem";

/// Where a partition is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Through its node.
    Node(PathBuf),
    /// As a part of a device whose partitions the kernel does not show: first sector and how many.
    Part(PathBuf, u64, u64),
}

/// The slot that was asked for, and its neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundSlot {
    /// The slot that holds the root.
    pub(crate) slot: RootSlot,
    /// Its partition.
    pub(crate) place: Place,
    /// The other slot on the same disk.
    pub(crate) other: Option<RootSlot>,
    /// The node of META on the same disk, when it can be written.
    pub(crate) meta: Option<PathBuf>,
    /// Whether the boot loader came from this disk, as far as anybody knows.
    pub(crate) loader_was_here: bool,
}

/// Looks at every disk that is there now, and gives the best slot: where the boot loader came from, else the first. What cannot be read
/// is no disk of ours, and `notes` says why.
pub(crate) fn find_slot(kernel: &dyn Kernel, root: &RootHash, notes: &mut Vec<String>) -> Option<FoundSlot> {
    let loader = loader_came_from(kernel);
    let names = kernel.list(Path::new(BLOCK_CLASS)).unwrap_or_default();
    let mut best: Option<FoundSlot> = None;
    for disk in names.iter().filter(|name| is_disk(kernel, name)) {
        match look_at(kernel, root, &names, disk, loader) {
            Ok(found) if found.loader_was_here => return Some(found),
            Ok(found) if best.is_none() => best = Some(found),
            Ok(found) => notes.push(format!("{disk}: slot {:?} holds this root as well", found.slot.slot)),
            Err(reason) => notes.push(format!("{disk}: {reason}")),
        }
    }
    best
}

/// The partition that the boot loader names as its own.
fn loader_came_from(kernel: &dyn Kernel) -> Option<Guid> {
    let path = Path::new(EFI_VARIABLES).join(LOADER_DEVICE_PART_UUID);
    loader_partition(&kernel.read_file(&path, LOADER_DEVICE_PART_UUID_BYTES).ok()?)
}

fn look_at(
    kernel: &dyn Kernel,
    root: &RootHash,
    names: &[String],
    disk: &str,
    loader: Option<Guid>,
) -> Result<FoundSlot, String> {
    let table = read_table(kernel, disk)?;
    let mut slots = root_slots(&table);
    let index = slots.iter().position(|slot| slot.holds(root));
    let index = index.ok_or_else(|| format!("none of its {} root slots holds this root", slots.len()))?;
    let slot = slots.swap_remove(index);
    let place = place(kernel, names, disk, slot.number, &slot.partition)
        .ok_or_else(|| format!("the kernel does not show partition {} yet", slot.number))?;
    let meta = table.find_label(label::META).and_then(|(number, _)| partition_node(kernel, names, disk, number));
    let loader_was_here = match loader {
        Some(guid) => table.find_guid(guid).is_some(),
        None => is_undivided(disk) || disk.starts_with(IN_MEMORY),
    };
    Ok(FoundSlot { slot, place, other: slots.pop(), meta, loader_was_here })
}

fn is_disk(kernel: &dyn Kernel, name: &str) -> bool {
    // The kernel has some with nothing behind them.
    let empty = name.starts_with(LOOP) && !kernel.exists(&class_path(name, "loop/backing_file"));
    let skipped = empty || SKIPPED.iter().any(|beginning| name.starts_with(beginning));
    !skipped && !kernel.exists(&class_path(name, "partition"))
}

fn is_undivided(disk: &str) -> bool {
    UNDIVIDED.iter().any(|beginning| disk.starts_with(beginning))
}

fn read_table(kernel: &dyn Kernel, disk: &str) -> Result<Table, String> {
    let device = Path::new("/dev").join(disk);
    let story = |error: SystemError| error.story();
    let sectors = kernel.device_bytes(&device).map_err(story)? / SECTOR_BYTES;
    if sectors < PRIMARY_SECTORS + BACKUP_SECTORS {
        return Err(format!("it has {sectors} sectors, too few for a partition table"));
    }
    let primary = kernel.read_at(&device, 0, (PRIMARY_SECTORS * SECTOR_BYTES) as usize).map_err(story)?;
    let backup_at = (sectors - BACKUP_SECTORS) * SECTOR_BYTES;
    let backup = kernel.read_at(&device, backup_at, (BACKUP_SECTORS * SECTOR_BYTES) as usize).map_err(story)?;
    Table::parse(&primary, &backup, sectors).map_err(|error| match std::error::Error::source(&error) {
        Some(primary) => format!("{error}; the primary copy: {primary}"),
        None => error.to_string(),
    })
}

fn place(kernel: &dyn Kernel, names: &[String], disk: &str, number: u32, partition: &Partition) -> Option<Place> {
    if is_undivided(disk) {
        return Some(Place::Part(Path::new("/dev").join(disk), partition.first, partition.sectors()));
    }
    partition_node(kernel, names, disk, number).map(Place::Node)
}

/// The kernel names partitions `vda2` and `nvme0n1p2`; the attribute says which is which.
fn partition_node(kernel: &dyn Kernel, names: &[String], disk: &str, number: u32) -> Option<PathBuf> {
    let name = names.iter().filter(|name| name.starts_with(disk)).find(|name| {
        let attribute = kernel.read_file(&class_path(name, "partition"), ATTRIBUTE_BYTES_MAX).unwrap_or_default();
        String::from_utf8_lossy(&attribute).trim().parse() == Ok(number)
    })?;
    Some(Path::new("/dev").join(name))
}

fn class_path(name: &str, attribute: &str) -> PathBuf {
    Path::new(BLOCK_CLASS).join(name).join(attribute)
}
