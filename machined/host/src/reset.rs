//! Erases this machine's disk for a reset: headers by overwriting, and everything where the disk can do that by itself.
//!
//! What lies behind an overwritten header is unreadable where the volume was encrypted, because its keys lay in the header. Where it was
//! not, it stays on the disk until something else is written there, unless the disk takes the request to discard it.

use crate::block::{blocking, find_partition};
use crate::meta::{self, LinuxMeta};
use init_boot::MetaKind;
use machined_controllers::block::BlockError;
use machined_controllers::identity::{MetaAccessError, MetaHost};
use machined_controllers::reset::ResetHost;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is overwritten at the beginning of a volume, in bytes: a LUKS2 header with both its copies and all its key slots takes 16 MiB, and
/// at most 32 MiB with the largest areas that cryptsetup makes unless told otherwise.
const HEAD_BYTES: u64 = 32 << 20;
/// What is overwritten at its end: the mark of a format that was cut off, see `block`.
const TAIL_BYTES: u64 = 64 << 10;
/// Written at a time, in bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// The disk of this machine.
#[derive(Debug, Default)]
pub struct LinuxReset;

impl ResetHost for LinuxReset {
    async fn read(&self, kind: MetaKind) -> Result<Option<Vec<u8>>, MetaAccessError> {
        LinuxMeta.read(kind).await
    }

    async fn write(&self, kind: MetaKind, bytes: Vec<u8>) -> Result<(), MetaAccessError> {
        LinuxMeta.write(kind, bytes).await
    }

    async fn erase(&self, kind: MetaKind) -> Result<(), MetaAccessError> {
        meta::blocking(move || meta::erase(kind)).await
    }

    async fn empty(&self, label: &'static str) -> Result<(), BlockError> {
        match find_partition(label)? {
            Some(device) => blocking(&device, empty).await,
            None => Ok(()),
        }
    }
}

fn empty(device: &Path) -> std::io::Result<()> {
    let mut file = File::options().write(true).open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let head = HEAD_BYTES.min(size);
    let zeros = vec![0; PIECE_BYTES as usize];
    for at in (0..head).step_by(PIECE_BYTES as usize) {
        let length = PIECE_BYTES.min(head - at) as usize;
        file.write_all_at(&zeros[..length], at)?;
    }
    let tail = TAIL_BYTES.min(size);
    file.write_all_at(&zeros[..tail as usize], size - tail)?;
    file.sync_all()?;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (from, length) = (head.cast_signed(), (size - head).cast_signed());
    if length > 0
        && let Err(error) = fallocate(&file, flags, from, length)
    {
        tracing::info!(device = %device.display(), %error, "the disk does not discard; what lies behind the headers stays");
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_the_mark_of_a_format_are_gone_from_large_and_small_volumes() {
        for size in [HEAD_BYTES + (3 << 20), HEAD_BYTES - 512, 4096] {
            let file = tempfile::NamedTempFile::new().expect("because temporary files can be made");
            for at in (0..size).step_by(PIECE_BYTES as usize) {
                let length = PIECE_BYTES.min(size - at) as usize;
                file.as_file().write_all_at(&vec![0xaa; length], at).expect("because it can be written");
            }
            empty(file.path()).expect("because it can be written");
            let bytes = std::fs::read(file.path()).expect("because it can be read");
            assert_eq!(bytes.len() as u64, size, "a volume keeps its size");
            let (head, tail) = (HEAD_BYTES.min(size) as usize, TAIL_BYTES.min(size) as usize);
            assert!(bytes[..head].iter().all(|byte| *byte == 0), "the head of {size} bytes");
            assert!(bytes[bytes.len() - tail..].iter().all(|byte| *byte == 0), "the tail of {size} bytes");
        }
    }
}
