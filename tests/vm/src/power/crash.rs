//! What a power cut leaves on a disk: everything from before the last flush, and of what came after it whatever luck has.
//!
//! Pure, but for the disk's file: the same recording, moment and luck make the same disk.

use super::disk::{Disk, SECTOR};
use super::recording::{Entry, Recording};
use crate::faults::Moments;
use anyhow::Result;

/// Power is cut when the disk has taken this many entries of the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Entries that the machine got out.
    pub(crate) at: usize,
    /// Which of the writes behind the last flush were kept follows from this.
    pub(crate) luck: u64,
}

/// How a disk treats what it took and did not flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// It writes at once: all is there, but for what was written just then.
    Through,
    /// It keeps all in memory.
    Lost,
    /// It writes in an order of its own.
    Reordered,
}

impl Recording {
    /// Where the last flush before `at` is; everything up to there is kept.
    fn kept(&self, at: usize) -> usize {
        self.entries[..at].iter().rposition(|entry| *entry == Entry::Flush).map_or(0, |flush| flush + 1)
    }

    /// The disk that the machine finds when the power is back. `disk` has the entries below `done` already.
    pub(crate) fn survive(&self, mut disk: Disk, done: usize, cut: Cut) -> Result<Disk> {
        let kept = self.kept(cut.at);
        self.apply(&mut disk, done, kept)?;
        let mut luck = Moments::new(cut.luck);
        let cache = match luck.below(4) {
            0 => Cache::Through,
            1 => Cache::Lost,
            _ => Cache::Reordered,
        };
        let writes = self.entries[kept..cut.at].iter().filter_map(|entry| match entry {
            Entry::Write { offset, bytes } => Some((*offset, self.slice(bytes))),
            Entry::Flush | Entry::Variables { .. } | Entry::Mark(_) => None,
        });
        let writes: Vec<(u64, &[u8])> = writes.collect();
        let torn = match (cache, writes.len()) {
            (Cache::Lost, _) | (_, 0) => None,
            (Cache::Through, count) => Some(count - 1),
            (Cache::Reordered, count) => Some(luck.below(count as u64) as usize),
        };
        for (index, (offset, bytes)) in writes.into_iter().enumerate() {
            if torn == Some(index) {
                for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
                    if luck.below(2) == 0 {
                        disk.write(offset + (sector * SECTOR) as u64, bytes)?;
                    }
                }
            } else if cache == Cache::Through || (cache == Cache::Reordered && luck.below(2) == 0) {
                disk.write(offset, bytes)?;
            }
        }
        Ok(disk)
    }

    /// Writes the entries from `from` on up to `to`.
    pub(crate) fn apply(&self, disk: &mut Disk, from: usize, to: usize) -> Result<()> {
        for entry in self.entries.get(from..to).unwrap_or_default() {
            match entry {
                Entry::Write { offset, bytes } => disk.write(*offset, self.slice(bytes))?,
                Entry::Flush | Entry::Variables { .. } | Entry::Mark(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::tests::empty;
    use super::*;
    use std::collections::BTreeSet;

    /// One flushed sector of ones; behind the flush two of twos and then two of threes, in two writes.
    fn recording() -> Recording {
        let mut bytes = Vec::new();
        let mut write = |offset: u64, byte: u8, sectors: usize| {
            bytes.push(b'W');
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&((sectors * SECTOR) as u32).to_le_bytes());
            bytes.extend(std::iter::repeat_n(byte, sectors * SECTOR));
        };
        write(0, 1, 1);
        write(512, 2, 2);
        write(1536, 3, 2);
        let flush = 13 + SECTOR;
        bytes.insert(flush, b'F');
        Recording::of(bytes).expect("because it was just made")
    }

    fn sectors(luck: u64, at: usize) -> Vec<u8> {
        let disk = recording().survive(empty(1), 0, Cut { at, luck }).expect("because all lies inside");
        (0..5).map(|sector| disk.bytes(sector * 512, 1).expect("because it lies inside")[0]).collect()
    }

    #[test]
    fn what_was_flushed_is_kept_and_the_rest_is_lost_kept_reordered_or_torn() {
        let seen: BTreeSet<Vec<u8>> = (0..400).map(|luck| sectors(luck, 4)).collect();
        assert!(seen.iter().all(|sectors| sectors[0] == 1), "a flushed write was lost: {seen:?}");
        assert!(seen.contains(&vec![1, 0, 0, 0, 0]), "the cache is lost");
        assert!(seen.contains(&vec![1, 2, 2, 3, 3]), "all is kept");
        assert!(seen.contains(&vec![1, 0, 0, 3, 3]), "the later one alone is kept");
        assert!(seen.contains(&vec![1, 2, 2, 0, 3]), "a write is torn");
        assert_eq!(sectors(7, 4), sectors(7, 4), "the same luck makes the same disk");
    }

    #[test]
    fn what_was_not_written_yet_is_never_there() {
        assert!((0..100).all(|luck| sectors(luck, 3)[3..] == [0, 0]));
        assert!((0..100).all(|luck| sectors(luck, 1) == [1, 0, 0, 0, 0] || sectors(luck, 1) == [0; 5]));
    }
}
