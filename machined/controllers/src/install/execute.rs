//! Carries a plan out: writes a phase, has the disk keep it, reads it back, and only then begins the next.

use super::{Content, Phase, Plan, Write};
use sha2::{Digest as _, Sha256};
use std::io;

/// Bytes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// What a cleared piece is compared with.
static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

/// A disk that is written.
pub trait Disk {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// When the disk does.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Comes back once everything is kept, and makes the next read ask the disk and not memory.
    ///
    /// # Errors
    /// When the disk does.
    fn keep(&mut self) -> io::Result<()>;
    /// Fills `bytes`.
    ///
    /// # Errors
    /// When the disk does.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// The medium's root image.
pub trait Source {
    /// Fills `bytes` from an offset of the root image.
    ///
    /// # Errors
    /// When the medium does.
    fn read_root(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// Why an installation ended early. The disk does not boot then, and may be installed on again.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The medium cannot be read.
    #[error("{phase}: the medium cannot be read at {offset} of its root image")]
    Source {
        /// What was being done.
        phase: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk failed.
    #[error("{phase}: the disk failed at byte {offset}")]
    Disk {
        /// What was being done.
        phase: &'static str,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk holds other bytes than it was given.
    #[error("{phase}: what the disk holds at byte {offset} is not what was written; the disk or the medium is damaged")]
    Differs {
        /// What was being done.
        phase: &'static str,
        /// Where.
        offset: u64,
    },
}

/// Installs. `progress` hears each phase as it begins.
///
/// # Errors
/// [`ExecuteError`], at the first thing that fails.
pub fn execute(
    plan: &Plan,
    disk: &mut impl Disk,
    source: &mut impl Source,
    mut progress: impl FnMut(&'static str),
) -> Result<(), ExecuteError> {
    for phase in &plan.phases {
        progress(phase.name);
        for write in &phase.writes {
            put(phase, write, disk, source)?;
        }
        disk.keep().map_err(failed(phase, 0))?;
        for write in &phase.writes {
            check(phase, write, disk)?;
        }
    }
    Ok(())
}

fn failed(phase: &Phase, offset: u64) -> impl FnOnce(io::Error) -> ExecuteError {
    let phase = phase.name;
    move |source| ExecuteError::Disk { phase, offset, source }
}

/// Calls `each` with every piece of a length: its offset and size.
fn pieces<E>(bytes: u64, mut each: impl FnMut(u64, usize) -> Result<(), E>) -> Result<(), E> {
    let mut at = 0;
    while at < bytes {
        let size = usize::try_from(bytes - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        each(at, size)?;
        at += size as u64;
    }
    Ok(())
}

fn put(phase: &Phase, write: &Write, disk: &mut impl Disk, source: &mut impl Source) -> Result<(), ExecuteError> {
    let Write { offset, content } = write;
    let mut chunk = vec![0; CHUNK_BYTES];
    pieces(content.bytes(), |at, size| {
        let piece: &[u8] = match content {
            Content::Bytes(bytes) => &bytes[at as usize..at as usize + size],
            Content::Zeros(_) => &ZEROS[..size],
            Content::Root { .. } => {
                let unread = |source| ExecuteError::Source { phase: phase.name, offset: at, source };
                source.read_root(at, &mut chunk[..size]).map_err(unread)?;
                &chunk[..size]
            }
        };
        disk.write(offset + at, piece).map_err(failed(phase, offset + at))
    })
}

fn check(phase: &Phase, write: &Write, disk: &mut impl Disk) -> Result<(), ExecuteError> {
    let Write { offset, content } = write;
    let differs = |at| ExecuteError::Differs { phase: phase.name, offset: offset + at };
    let (mut chunk, mut hash) = (vec![0; CHUNK_BYTES], Sha256::new());
    pieces(content.bytes(), |at, size| {
        let piece = &mut chunk[..size];
        disk.read(offset + at, piece).map_err(failed(phase, offset + at))?;
        let same = match content {
            Content::Bytes(bytes) => bytes[at as usize..at as usize + size] == *piece,
            Content::Zeros(_) => *piece == ZEROS[..size],
            Content::Root { .. } => {
                hash.update(&*piece);
                true
            }
        };
        if same { Ok(()) } else { Err(differs(at)) }
    })?;
    match content {
        Content::Root { sha256, .. } if *sha256 != <[u8; 32]>::from(hash.finalize()) => Err(differs(0)),
        Content::Root { .. } | Content::Bytes(_) | Content::Zeros(_) => Ok(()),
    }
}
