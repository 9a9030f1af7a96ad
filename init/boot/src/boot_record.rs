//! The boot record on META: which slot is good, and which image is being tried, how often it was started and why it
//! ended.
//!
//! machined writes it when it arms a try and when it knows the outcome; stage one counts each start of the tried image
//! in it before anything of that image runs, PID 1 notes why it ended one. Two copies take turns, and each is one
//! sector, so that a torn write costs at most the newer one. Nothing here is a firmware variable.
//!
//! ```text
//! sequence 7
//! good a
//! try b 5a5a...5a starts=1 deadline=300
//! ended machined failed 8 times in a row
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use thiserror::Error;

use crate::meta::{MetaError, MetaKind, MetaRecord};
use crate::root_hash::RootHash;
use crate::slot::Slot;

/// How often one armed try may start: a power cut or a kernel that panicked once must not condemn an image, and one
/// that never lives long enough to say why must not start for ever.
pub const STARTS_MAX: u32 = 3;

/// The longest reason that is noted, in bytes: header, all lines and this fit into one sector of 512 bytes.
pub const REASON_BYTES_MAX: usize = 200;

/// The deadlines that a try may have, in seconds from the kernel's start: shorter than a boot, nothing could become
/// healthy; longer than an hour, nobody would wait.
pub const DEADLINE_SECONDS: std::ops::RangeInclusive<u64> = 20..=3600;

/// Which slot is good, and what is being tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRecord {
    /// Grows with each write; the copy with the larger one counts.
    pub sequence: u64,
    /// The slot that the boot loader starts by default.
    pub good: Slot,
    /// The image that is being tried.
    pub attempt: Option<Attempt>,
}

/// An image that is being tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where it lies.
    pub slot: Slot,
    /// Its root hash.
    pub root: RootHash,
    /// How often stage one of it began, since it was armed.
    pub starts: u32,
    /// How long after the kernel's start it must be good, in whole seconds.
    pub deadline: Duration,
    /// Why PID 1 ended it.
    pub ended: Option<String>,
}

/// Why bytes are no boot record.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BootRecordError {
    /// The place on META.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The text.
    #[error("line {line} of the boot record cannot be read")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
}

impl BootRecord {
    /// The record of a machine that was never upgraded.
    pub const fn first(good: Slot) -> Self {
        Self { sequence: 0, good, attempt: None }
    }

    /// The record that follows this one; the caller changes it before it is written.
    pub fn next(&self) -> Self {
        Self { sequence: self.sequence + 1, ..self.clone() }
    }

    /// The newer of two copies, each as it was read from its place. A damaged copy does not count: it is a write that
    /// a power cut interrupted, and the other one is what was true before.
    pub fn newest(first: &[u8], second: &[u8]) -> Option<Self> {
        let copies = [(MetaKind::BootFirst, first), (MetaKind::BootSecond, second)];
        let read = copies.into_iter().filter_map(|(kind, place)| Self::parse(kind, place).ok().flatten());
        read.max_by_key(|record| record.sequence)
    }

    /// Reads one copy; `None` when nothing was ever written there.
    ///
    /// # Errors
    /// When the place holds something that is not a whole boot record.
    pub fn parse(kind: MetaKind, place: &[u8]) -> Result<Option<Self>, BootRecordError> {
        let Some(record) = MetaRecord::parse(kind, place)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&record.bytes).into_owned();
        read(&text).map(Some).map_err(|line| BootRecordError::Line { line })
    }

    /// Which copy this record replaces, and its bytes.
    ///
    /// # Panics
    /// Never: reasons are cut to [`REASON_BYTES_MAX`], so that the record always fits.
    pub fn encode(&self) -> (MetaKind, Vec<u8>) {
        let kind = if self.sequence.is_multiple_of(2) { MetaKind::BootFirst } else { MetaKind::BootSecond };
        let record = MetaRecord { kind, bytes: self.text().into_bytes() };
        (kind, record.encode().expect("because the text is a few hundred bytes"))
    }

    fn text(&self) -> String {
        let mut text = format!("sequence {}\ngood {}\n", self.sequence, self.good.letter());
        if let Some(attempt) = &self.attempt {
            let Attempt { slot, root, starts, deadline, ended } = attempt;
            let seconds = deadline.as_secs();
            // Writing to a String does not fail.
            let _ = writeln!(text, "try {} {root} starts={starts} deadline={seconds}", slot.letter());
            if let Some(reason) = ended {
                let _ = writeln!(text, "ended {}", clean(reason));
            }
        }
        text
    }
}

impl Attempt {
    /// Notes why it ended, once: the first reason is the cause of those that follow.
    pub fn end(&mut self, reason: &str) {
        self.ended.get_or_insert_with(|| clean(reason));
    }
}

/// One line of printable ASCII, cut to what fits.
fn clean(reason: &str) -> String {
    let plain = |character: char| if matches!(character, ' '..='~') { character } else { '?' };
    reason.trim().chars().map(plain).take(REASON_BYTES_MAX).collect()
}

/// The record, or the number of the first line that is wrong.
fn read(text: &str) -> Result<BootRecord, usize> {
    let mut lines = text.strip_suffix('\n').ok_or(1_usize)?.split('\n');
    let mut next = |name: &str| lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let sequence = next("sequence").and_then(|number| number.parse().ok()).ok_or(1_usize)?;
    let good = next("good").and_then(Slot::from_letter).ok_or(2_usize)?;
    let mut attempt = match lines.next() {
        Some(line) => Some(line.strip_prefix("try ").and_then(read_attempt).ok_or(3_usize)?),
        None => None,
    };
    match (lines.next(), &mut attempt) {
        (Some(line), Some(attempt)) => attempt.ended = Some(line.strip_prefix("ended ").ok_or(4_usize)?.to_owned()),
        (Some(_), None) => return Err(4),
        (None, _) => {}
    }
    match lines.next() {
        Some(_) => Err(5),
        None => Ok(BootRecord { sequence, good, attempt }),
    }
}

fn read_attempt(line: &str) -> Option<Attempt> {
    let words: Vec<&str> = line.split(' ').collect();
    let [slot, root, starts, deadline] = words.as_slice() else { return None };
    let seconds = deadline.strip_prefix("deadline=")?.parse().ok().filter(|s| DEADLINE_SECONDS.contains(s))?;
    Some(Attempt {
        slot: Slot::from_letter(slot)?,
        root: root.parse().ok()?,
        starts: starts.strip_prefix("starts=")?.parse().ok()?,
        deadline: Duration::from_secs(seconds),
        ended: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trying(sequence: u64) -> BootRecord {
        let attempt = Attempt {
            slot: Slot::B,
            root: RootHash::from_bytes([0x5a; 32]),
            starts: 1,
            deadline: Duration::from_secs(300),
            ended: Some("machined failed 8 times in a row".to_owned()),
        };
        BootRecord { sequence, good: Slot::A, attempt: Some(attempt) }
    }

    fn place(record: &BootRecord) -> Vec<u8> {
        let mut bytes = record.encode().1;
        bytes.resize(MetaKind::BootFirst.place_bytes(), 0);
        bytes
    }

    #[test]
    fn a_record_is_read_back_and_fits_into_one_sector() {
        for record in [BootRecord::first(Slot::B), trying(8)] {
            let (kind, bytes) = record.encode();
            assert_eq!(kind, MetaKind::BootFirst);
            assert_eq!(BootRecord::parse(kind, &place(&record)), Ok(Some(record)));
            assert!(bytes.len() <= 512);
        }
        let mut longest = trying(u64::MAX);
        let attempt = longest.attempt.as_mut().expect("because it has one");
        (attempt.ended, attempt.starts) = (Some("x".repeat(5000)), u32::MAX);
        assert!(longest.encode().1.len() <= 512);
    }

    #[test]
    fn the_newer_copy_counts_and_a_torn_one_does_not() {
        let (older, newer) = (BootRecord::first(Slot::A).next().next(), trying(3));
        let (first, second) = (place(&older), place(&newer));
        assert_eq!(BootRecord::newest(&first, &second), Some(newer.clone()));
        for index in 0..newer.encode().1.len() {
            let mut torn = second.clone();
            torn[index] ^= 0x10;
            assert_eq!(BootRecord::newest(&first, &torn), Some(older.clone()), "byte {index} changed unnoticed");
        }
        let nothing = vec![0; 65_536];
        assert_eq!(BootRecord::newest(&nothing, &nothing), None);
        assert_eq!(BootRecord::newest(&nothing, &second), Some(newer));
    }

    #[test]
    fn records_take_turns_in_their_places() {
        let record = trying(4);
        assert_ne!(record.encode().0, record.next().encode().0);
        assert_eq!(record.next().attempt, record.attempt);
    }

    #[test]
    fn the_first_reason_stays_and_is_one_line() {
        let mut attempt = trying(1).attempt.expect("because it has one");
        attempt.ended = None;
        attempt.end("not healthy:\ntwo lines \u{1f600}");
        attempt.end("later");
        assert_eq!(attempt.ended.as_deref(), Some("not healthy:?two lines ?"));
    }

    #[test]
    fn anything_else_is_refused() {
        let root = "5a".repeat(32);
        for text in [
            "",
            "sequence 1\ngood c\n",
            "good a\nsequence 1\n",
            "sequence 1\ngood a",
            "sequence 1\ngood a\nended x\n",
            &format!("sequence 1\ngood a\ntry b {root} starts=1 deadline=5\n"),
            &format!("sequence 1\ngood a\ntry b {root} starts=-1 deadline=300\n"),
            &format!("sequence 1\ngood a\ntry b {root} starts=1 deadline=300\nended x\nmore\n"),
        ] {
            assert!(read(text).is_err(), "{text:?} was accepted");
        }
    }
}
