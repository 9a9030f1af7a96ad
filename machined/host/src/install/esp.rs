//! The content of a new EFI system partition, made in memory: only the pieces that a file system of that size has written.

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use init_boot::esp::{VOLUME_ID, VOLUME_LABEL, cluster_bytes};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Pieces that are kept or not as a whole, in bytes.
const PIECE: usize = 64 << 10;

/// A volume as the pieces that were written; all else reads as zeros.
struct Sparse {
    pieces: BTreeMap<u64, Vec<u8>>,
    size: u64,
    at: u64,
}

impl Sparse {
    /// Where the position lies: piece, offset in it, and how many of `wanted` bytes it has room for.
    fn here(&self, wanted: usize) -> (u64, usize, usize) {
        let (piece, offset) = (self.at / PIECE as u64, (self.at % PIECE as u64) as usize);
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        (piece, offset, wanted.min(PIECE - offset).min(left))
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (piece, offset, count) = self.here(buffer.len());
        match self.pieces.get(&piece) {
            Some(bytes) => buffer[..count].copy_from_slice(&bytes[offset..offset + count]),
            None => buffer[..count].fill(0),
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Sparse {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let (piece, offset, count) = self.here(buffer.len());
        let bytes = self.pieces.entry(piece).or_insert_with(|| vec![0; PIECE]);
        bytes[offset..offset + count].copy_from_slice(&buffer[..count]);
        self.at += count as u64;
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.at = position.filter(|at| *at <= self.size).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A FAT32 volume of `size` bytes (whole pieces) with these files: offsets and bytes.
pub(super) fn build(size: u64, files: &[(String, Vec<u8>)]) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut volume = Sparse { pieces: BTreeMap::new(), size, at: 0 };
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(cluster_bytes(size))
        .volume_id(VOLUME_ID)
        .volume_label(VOLUME_LABEL);
    fatfs::format_volume(&mut volume, options)?;
    volume.at = 0;
    let system = FileSystem::new(&mut volume, FsOptions::new())?;
    for (path, content) in files {
        let mut folder = system.root_dir();
        let mut names = path.trim_start_matches('/').split('/').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_some() {
                folder = folder.create_dir(name)?;
            } else {
                let mut file = folder.create_file(name)?;
                file.write_all(content)?;
                file.flush()?;
            }
        }
    }
    system.unmount()?;
    Ok(volume.pieces.into_iter().map(|(piece, bytes)| (piece * PIECE as u64, bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn files_are_found_on_a_disk_that_held_something_else_before() {
        let size = 64 << 20;
        let content: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
        let files =
            [("/EFI/BOOT/BOOTX64.EFI".to_owned(), content.clone()), ("/loader/loader.conf".to_owned(), vec![9])];
        let pieces = build(size, &files).expect("because the files are small");
        let written: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(written < 4 << 20, "{written} bytes are written for 300 KB");
        let mut disk = vec![0xd7; size as usize];
        for (offset, bytes) in pieces {
            disk[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let system = FileSystem::new(Cursor::new(&mut disk), FsOptions::new()).expect("because it was made");
        assert_eq!(system.fat_type(), FatType::Fat32);
        let mut read = Vec::new();
        let mut file = system.root_dir().open_file("EFI/BOOT/BOOTX64.EFI").expect("because it was written");
        file.read_to_end(&mut read).expect("because it can be read");
        assert!(read == content);
        let names = system.root_dir().iter().map(|entry| entry.map(|entry| entry.file_name()));
        let names: Vec<String> = names.collect::<Result<_, _>>().expect("because the folder can be read");
        assert_eq!(names, ["EFI", "loader"], "and nothing of before");
    }
}
