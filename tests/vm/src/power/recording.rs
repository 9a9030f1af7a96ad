//! All that a machine had its disk write, in order, with what was known of the machine meanwhile.
//!
//! ```text
//! W offset 8 | length 4 | bytes      a write that the disk took
//! F                                  the disk said: all that I took before is kept
//! V length 4 | bytes                 the firmware's variables, as they were by now
//! M length 4 | JSON                  what is known of the machine from here on: `Known`
//! ```
//!
//! Integers are little-endian. The file is written while the machine runs, and read by whoever cuts its power afterwards.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Longest entry that is read, in bytes: QEMU splits what is longer.
const ENTRY_BYTES_MAX: usize = 64 << 20;

/// What must hold of a machine whose power is cut from now on, until the next of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// What the machine does, for people.
    pub(crate) doing: String,
    /// Its identity, once somebody saw it.
    pub(crate) identity: Option<String>,
    /// The least generation of its ledger; `None` while it may have none.
    pub(crate) generation: Option<u64>,
    /// The slots that it may run from.
    pub(crate) slots: Vec<String>,
    /// Whether it may have become a new machine.
    pub(crate) new: bool,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The disk took these bytes of the recording.
    Write { offset: u64, bytes: Range<usize> },
    /// Everything before is kept.
    Flush,
    /// The firmware's variables.
    Variables { bytes: Range<usize> },
    /// What is known from here on.
    Mark(Known),
}

/// Writes a recording while the machine runs.
pub(crate) struct Recorder {
    file: BufWriter<File>,
    variables: PathBuf,
    seen: Option<SystemTime>,
}

impl Recorder {
    /// Begins a recording; `variables` is the file of the firmware's variables, which is looked at whenever the disk flushes.
    pub(crate) fn create(path: &Path, variables: PathBuf) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("writing {}", path.display()))?;
        Ok(Recorder { file: BufWriter::new(file), variables, seen: None })
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all(b"W")?;
        self.file.write_all(&offset.to_le_bytes())?;
        self.sized(bytes)
    }

    /// The disk kept all. A machine that changes a variable flushes its disk soon afterwards: it restarts.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file.write_all(b"F")?;
        let changed = std::fs::metadata(&self.variables).and_then(|data| data.modified()).ok();
        if changed.is_some() && changed != self.seen {
            self.seen = changed;
            let bytes = std::fs::read(&self.variables).context("reading the firmware's variables")?;
            self.file.write_all(b"V")?;
            self.sized(&bytes)?;
        }
        Ok(())
    }

    pub(crate) fn mark(&mut self, known: &Known) -> Result<()> {
        self.file.write_all(b"M")?;
        self.sized(&serde_json::to_vec(known)?)
    }

    /// Ends the recording.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.file.flush().context("writing the end of a recording")
    }

    fn sized(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(&u32::try_from(bytes.len())?.to_le_bytes())?;
        Ok(self.file.write_all(bytes)?)
    }
}

/// A whole recording, in memory.
#[derive(Debug)]
pub(crate) struct Recording {
    bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

impl Recording {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let entries = parse(&bytes).with_context(|| format!("{} is no recording", path.display()))?;
        Ok(Recording { bytes, entries })
    }

    #[cfg(test)]
    pub(crate) fn of(bytes: Vec<u8>) -> Result<Self> {
        let entries = parse(&bytes)?;
        Ok(Recording { bytes, entries })
    }

    pub(crate) fn slice(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// What was known when entry `at` happened.
    pub(crate) fn known(&self, at: usize) -> Known {
        let before = self.entries[..at].iter().rev();
        let mark = before.filter_map(|entry| match entry {
            Entry::Mark(known) => Some(known.clone()),
            Entry::Write { .. } | Entry::Flush | Entry::Variables { .. } => None,
        });
        mark.into_iter().next().unwrap_or_default()
    }

    /// The variables as they were then.
    pub(crate) fn variables(&self, at: usize) -> Option<&[u8]> {
        self.entries[..at].iter().rev().find_map(|entry| match entry {
            Entry::Variables { bytes } => Some(self.slice(bytes)),
            Entry::Write { .. } | Entry::Flush | Entry::Mark(_) => None,
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Entry>> {
    let mut at = 0;
    let mut entries = Vec::new();
    while at < bytes.len() {
        let tag = bytes[at];
        at += 1;
        entries.push(match tag {
            b'W' => {
                let offset = take(bytes, &mut at, 8)?;
                let offset = u64::from_le_bytes(bytes[offset].try_into()?);
                Entry::Write { offset, bytes: sized(bytes, &mut at)? }
            }
            b'F' => Entry::Flush,
            b'V' => Entry::Variables { bytes: sized(bytes, &mut at)? },
            b'M' => Entry::Mark(serde_json::from_slice(&bytes[sized(bytes, &mut at)?])?),
            other => bail!("there is no entry {other:#x}, as at {at}"),
        });
    }
    Ok(entries)
}

fn take(bytes: &[u8], at: &mut usize, length: usize) -> Result<Range<usize>> {
    let range = *at..*at + length;
    if bytes.get(range.clone()).is_none() {
        bail!("it ends in the middle of an entry");
    }
    *at = range.end;
    Ok(range)
}

fn sized(bytes: &[u8], at: &mut usize) -> Result<Range<usize>> {
    let length = take(bytes, at, 4)?;
    let length = u32::from_le_bytes(bytes[length].try_into()?) as usize;
    if length > ENTRY_BYTES_MAX {
        bail!("an entry of {length} bytes");
    }
    take(bytes, at, length)
}
