//! The disks of this machine, as /sys describes them, and what lies on them.

use init_boot::{BACKUP_SECTORS, PRIMARY_SECTORS, SECTOR_BYTES, Table, label};
use machined_controllers::install::{DiskFacts, Holds, INSTALLING};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is no disk that anybody installs on, by the beginning of its name.
const SKIPPED: [&str; 10] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "pmem", "nbd", "mtdblock"];
/// Bytes at both ends of a disk that must be zeros for it to count as empty.
const EDGE_BYTES: u64 = 1 << 20;

/// All disks, in the order of their names. One that cannot be read counts as holding something.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn list_disks(medium: &str) -> io::Result<Vec<DiskFacts>> {
    let mut disks = Vec::new();
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !SKIPPED.iter().any(|beginning| name.starts_with(beginning)) {
            disks.extend(describe(&entry.path(), &name, medium));
        }
    }
    disks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(disks)
}

/// `None` for a drive without a disk in it.
fn describe(folder: &Path, name: &str, medium: &str) -> Option<DiskFacts> {
    let text = |attribute: &str| {
        let text = std::fs::read_to_string(folder.join(attribute)).unwrap_or_default();
        text.trim().to_owned()
    };
    let number = |attribute: &str| text(attribute).parse::<u64>().unwrap_or_default();
    let bytes = number("size") * SECTOR_BYTES;
    if bytes == 0 {
        return None;
    }
    let serial = [text("device/serial"), text("serial"), vpd_serial(folder)].into_iter().find(|text| !text.is_empty());
    let wwn = [text("device/wwid"), text("wwid")].into_iter().find(|text| !text.is_empty());
    Some(DiskFacts {
        name: name.to_owned(),
        bytes,
        sector_bytes: number("queue/logical_block_size"),
        model: text("device/model"),
        serial: serial.unwrap_or_default(),
        wwn: wwn.unwrap_or_default(),
        read_only: number("ro") != 0,
        is_medium: name == medium,
        holds: look(&Path::new("/dev").join(name), bytes).unwrap_or(Holds::Something),
    })
}

/// The serial number that a SCSI or ATA disk says (SPC-5, 7.8.18: "unit serial number"); four bytes lie before it.
fn vpd_serial(folder: &Path) -> String {
    let page = std::fs::read(folder.join("device/vpd_pg80")).unwrap_or_default();
    page.get(4..).map(|text| String::from_utf8_lossy(text).trim_matches(['\0', ' ']).to_owned()).unwrap_or_default()
}

fn look(device: &Path, bytes: u64) -> io::Result<Holds> {
    let file = File::open(device)?;
    let mut head = vec![0; EDGE_BYTES.min(bytes) as usize];
    file.read_exact_at(&mut head, 0)?;
    if head.starts_with(INSTALLING) {
        return Ok(Holds::Unfinished);
    }
    let mut tail = vec![0; EDGE_BYTES.min(bytes) as usize];
    let at = bytes - tail.len() as u64;
    file.read_exact_at(&mut tail, at)?;
    if head.iter().chain(&tail).all(|byte| *byte == 0) {
        return Ok(Holds::Nothing);
    }
    let primary = head.get(..(PRIMARY_SECTORS * SECTOR_BYTES) as usize).unwrap_or_default();
    let backup = tail.len().checked_sub((BACKUP_SECTORS * SECTOR_BYTES) as usize).map_or(&[][..], |at| &tail[at..]);
    let cairn = Table::parse(primary, backup, bytes / SECTOR_BYTES).is_ok_and(|t| t.find_label(label::STATE).is_some());
    Ok(if cairn { Holds::Cairn } else { Holds::Something })
}

#[cfg(test)]
mod tests {
    use super::*;
    use init_boot::{Guid, type_guid};

    fn looked(bytes: &[u8]) -> Holds {
        let file = tempfile::NamedTempFile::new().expect("because there is a temporary folder");
        file.as_file().write_all_at(bytes, 0).expect("because the file is new");
        look(file.path(), bytes.len() as u64).expect("because it can be read")
    }

    #[test]
    fn what_lies_on_a_disk_is_told_apart() {
        let empty = vec![0; 8 << 20];
        assert_eq!(looked(&empty), Holds::Nothing);
        let with = |at: usize, what: &[u8]| {
            let mut bytes = empty.clone();
            bytes[at..at + what.len()].copy_from_slice(what);
            bytes
        };
        assert_eq!(looked(&with(0, INSTALLING)), Holds::Unfinished);
        assert_eq!(looked(&with(4096, b"somebody's data")), Holds::Something);
        assert_eq!(looked(&with((8 << 20) - 512, b"EFI PART")), Holds::Something);
        let mut table = Table::new(Guid::from_text_order([1; 16]), 16_384).expect("because 8 MiB hold a table");
        table.append(type_guid::STATE, Guid::from_text_order([2; 16]), "data", 2048).expect("because there is room");
        assert_eq!(looked(&with(0, &table.encode().primary)), Holds::Something);
        table.append(type_guid::STATE, Guid::from_text_order([3; 16]), label::STATE, 2048).expect("because of room");
        assert_eq!(looked(&with(0, &table.encode().primary)), Holds::Cairn);
        let encoded = table.encode();
        assert_eq!(looked(&with(encoded.backup_offset as usize, &encoded.backup)), Holds::Cairn, "by its second copy");
    }
}
