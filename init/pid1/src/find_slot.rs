//! Finds the root slot that the command line names, by partition GUID, on whatever disk it lies.

use std::path::{Path, PathBuf};

use init_boot::{BACKUP_SECTORS, PRIMARY_SECTORS, RootHash, RootSlot, SECTOR_BYTES, Table, label, root_slots};
use init_linux::{Kernel, SystemError};

const BLOCK_CLASS: &str = "/sys/class/block";
/// A number and a line feed, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 64;
/// Devices that hold no partition tables of ours, by the beginning of their names.
const SKIPPED: [&str; 7] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd"];

/// The slot that was asked for, and its neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundSlot {
    /// The slot that holds the root.
    pub(crate) slot: RootSlot,
    /// The node of its partition.
    pub(crate) device: PathBuf,
    /// The other slot on the same disk.
    pub(crate) other: Option<RootSlot>,
    /// The node of META on the same disk.
    pub(crate) meta: Option<PathBuf>,
}

/// Looks at every disk that is there now. What cannot be read is no disk of ours, and `notes` says why.
pub(crate) fn find_slot(kernel: &dyn Kernel, root: &RootHash, notes: &mut Vec<String>) -> Option<FoundSlot> {
    let names = kernel.list(Path::new(BLOCK_CLASS)).unwrap_or_default();
    for disk in names.iter().filter(|name| is_disk(kernel, name)) {
        let table = match read_table(kernel, disk) {
            Ok(table) => table,
            Err(reason) => {
                notes.push(format!("{disk}: {reason}"));
                continue;
            }
        };
        let mut slots = root_slots(&table);
        let Some(index) = slots.iter().position(|slot| slot.holds(root)) else {
            notes.push(format!("{disk}: none of its {} root slots holds this root", slots.len()));
            continue;
        };
        let slot = slots.swap_remove(index);
        let Some(device) = partition_node(kernel, &names, disk, slot.number) else {
            notes.push(format!("{disk}: the kernel does not show partition {} yet", slot.number));
            continue;
        };
        let meta = table.find_label(label::META).and_then(|(number, _)| partition_node(kernel, &names, disk, number));
        return Some(FoundSlot { slot, device, other: slots.pop(), meta });
    }
    None
}

fn is_disk(kernel: &dyn Kernel, name: &str) -> bool {
    !SKIPPED.iter().any(|beginning| name.starts_with(beginning)) && !kernel.exists(&class_path(name, "partition"))
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
