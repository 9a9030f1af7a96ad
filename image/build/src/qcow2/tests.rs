//! Tests of the qcow2 writer: read back by hand here, and by qemu-img where it is installed.

use std::process::Command;

use super::*;
use crate::disk::Extent;

/// Content at the start, across a cluster's border, in another L2 table and at the very end.
fn disk() -> Disk {
    let size = 2 << 30;
    let extent = |offset: u64, byte: u8, length: usize| Extent { offset, bytes: vec![byte; length] };
    Disk {
        size,
        extents: vec![
            extent(0, 1, 512),
            extent(CLUSTER * 3 - 512, 2, 1024),
            extent(CLUSTER * ENTRIES + CLUSTER * 5, 3, 3 * CHUNK_BYTES),
            extent(size - 512, 4, 512),
        ],
    }
}

fn file() -> Vec<u8> {
    let mut bytes = Vec::new();
    stream(&disk(), &mut bytes).expect("because a Vec takes all it is given");
    bytes
}

fn u64_at(bytes: &[u8], at: u64) -> u64 {
    let at = at as usize;
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("because eight bytes were asked for"))
}

/// What the guest reads at an offset.
fn guest(file: &[u8], offset: u64) -> u8 {
    let l1 = u64_at(file, 40);
    let l2 = u64_at(file, l1 + offset / (CLUSTER * ENTRIES) * 8) & !COPIED;
    if l2 == 0 {
        return 0;
    }
    let cluster = u64_at(file, l2 + offset / CLUSTER % ENTRIES * 8) & !COPIED;
    if cluster == 0 { 0 } else { file[(cluster + offset % CLUSTER) as usize] }
}

#[test]
fn the_guest_reads_what_the_disk_holds() {
    let file = file();
    for extent in disk().extents {
        let end = extent.offset + extent.bytes.len() as u64;
        assert_eq!(guest(&file, extent.offset), extent.bytes[0], "at {}", extent.offset);
        assert_eq!(guest(&file, end - 1), extent.bytes[0], "before {end}");
    }
    assert_eq!(guest(&file, 512), 0);
    assert_eq!(guest(&file, 1 << 30), 0);
}

#[test]
fn only_used_clusters_take_room() {
    assert!((file().len() as u64) < 20 * CLUSTER, "{} bytes", file().len());
}

/// Needs qemu-img (package qemu-utils); without it the test says so and the ones above stand alone.
#[test]
fn qemu_img_finds_no_fault_and_the_same_content() {
    let folder = tempfile::tempdir().expect("because temporary folders can be made");
    let (raw, qcow2) = (folder.path().join("disk.raw"), folder.path().join("disk.qcow2"));
    crate::disk::write_raw(&disk(), &raw).expect("because the folder is ours");
    write(&disk(), &qcow2).expect("because the folder is ours");
    let check = Command::new("qemu-img").arg("check").arg(&qcow2).output();
    let Ok(check) = check else {
        eprintln!("not compared with qemu-img, which is in the package qemu-utils");
        return;
    };
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let compare = Command::new("qemu-img").arg("compare").args([&raw, &qcow2]).output();
    let compare = compare.expect("because qemu-img ran a moment ago");
    assert!(compare.status.success(), "{}", String::from_utf8_lossy(&compare.stdout));
}
