//! Stage 5: the initramfs: PID 1 as /init and the modules it needs to reach the root file system.
//!
//! Called by `pipeline`. The archive is cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst), compressed with zstd.
//! Must never hold anything of the root: what is here stays in memory until PID 1 frees it.

use std::io;

use init_boot::{MEDIUM_IN_INITRAMFS, STAGE_ONE_MODULES};

use crate::modules::{self, Module};
use crate::tree::IMAGE_TIME;

/// Where the modules lie.
const MODULES: &str = "modules";
/// Folders that PID 1 mounts on.
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "root", "run", "sys"];
/// zstd's level: 19 takes several times as long for a hundredth less.
const ZSTD_LEVEL: i32 = 15;
/// The level for a medium: its parts are compressed already, and all that is left are the zeros between them.
const MEDIUM_ZSTD_LEVEL: i32 = 1;
/// What newc calls the last entry.
const TRAILER: &str = "TRAILER!!!";

/// File types of inode(7).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Packs PID 1 and its modules, uncompressed.
pub fn archive(init: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    for folder in MOUNT_POINTS {
        cpio.entry(folder, FOLDER | 0o755, (0, 0), &[]);
    }
    // The kernel opens it for PID 1 before anything is mounted.
    cpio.entry("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), &[]);
    cpio.entry("init", FILE | 0o755, (0, 0), init);
    cpio.entry(MODULES, FOLDER | 0o755, (0, 0), &[]);
    let path = |module: &Module| format!("/{MODULES}/{}.ko", module.name);
    for module in modules {
        cpio.entry(path(module).trim_start_matches('/'), FILE | 0o644, (0, 0), &module.bytes);
    }
    let list = modules::load_list(modules.iter(), path).render();
    cpio.entry(STAGE_ONE_MODULES.trim_start_matches('/'), FILE | 0o644, (0, 0), list.as_bytes());
    cpio.finish()
}

/// A medium as a second archive of an initramfs, compressed: for a machine that starts from the network.
///
/// # Errors
/// When zstd runs out of memory.
pub fn medium(medium: &[u8]) -> io::Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    cpio.entry(MEDIUM_IN_INITRAMFS.trim_start_matches('/'), FILE | 0o644, (0, 0), medium);
    zstd::encode_all(cpio.finish().as_slice(), MEDIUM_ZSTD_LEVEL)
}

/// Compresses an archive as the kernel reads it: zstd with a check sum.
///
/// # Errors
/// When zstd runs out of memory.
pub fn compress(archive: &[u8]) -> io::Result<Vec<u8>> {
    zstd::encode_all(archive, ZSTD_LEVEL)
}

/// A cpio archive being written.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("because no file of an initramfs has 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("because names are short");
        let links = if mode & FOLDER != 0 && mode & FILE == 0 { 2 } else { 1 };
        let time = if name == TRAILER { 0 } else { IMAGE_TIME as u32 };
        let fields = [self.entries, mode, 0, 0, links, time, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads names, modes and contents back, independently of the writer.
    fn read_back(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                let digits = std::str::from_utf8(&bytes[start..start + 8]).expect("because fields are ASCII");
                usize::from_str_radix(digits, 16).expect("because fields are hexadecimal")
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name =
                String::from_utf8(bytes[at + 110..at + 110 + name_size - 1].to_vec()).expect("because names are ASCII");
            if name == TRAILER {
                return entries;
            }
            let content = (at + 110 + name_size).next_multiple_of(4);
            entries.push((name, mode as u32, bytes[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
    }

    #[test]
    fn init_and_modules_are_found_again_in_load_order() {
        let module = |name: &str| Module { name: name.to_owned(), bytes: name.as_bytes().to_vec() };
        let modules = [module("dm_mod"), module("virtio_blk"), module("dm_verity")];
        let archive = archive(b"init program", &modules);
        let entries = read_back(&archive);
        let content = |name: &str| {
            let found = entries.iter().find(|entry| entry.0 == name);
            found.unwrap_or_else(|| panic!("because {name} was written")).clone()
        };
        assert_eq!(content("init"), ("init".to_owned(), 0o100_755, b"init program".to_vec()));
        assert_eq!(content("modules/dm_verity.ko").2, b"dm_verity");
        assert_eq!(content("modules.load").2, b"/modules/dm_mod.ko\n/modules/virtio_blk.ko\n/modules/dm_verity.ko\n");
        assert_eq!(content("dev/console").1, 0o020_600);
    }

    #[test]
    fn a_medium_is_an_archive_with_that_one_file() {
        let compressed = medium(&[0x5a; 5000]).expect("because there is memory");
        let entries = read_back(&zstd::decode_all(compressed.as_slice()).expect("because it was just compressed"));
        assert_eq!(entries, [("medium.iso".to_owned(), 0o100_644, vec![0x5a; 5000])]);
    }

    #[test]
    fn what_is_compressed_is_the_archive() {
        let archive = archive(b"init", &[]);
        let compressed = compress(&archive).expect("because there is memory");
        assert_eq!(zstd::decode_all(compressed.as_slice()).expect("because it was just compressed"), archive);
    }
}
