//! What machined extended into PCR 15: which commits it applied and which extensions it merged, in order, so that a register's value can
//! be explained.
//!
//! machined keeps the log for as long as the registers live, until the machine restarts; `cairnctl attest` replays it. The log
//! itself proves nothing: only what leads to the value that the TPM signed counts.

use crate::artefact::ExtensionDigest;
use crate::tpm::PcrValue;
use sha2::{Digest as _, Sha256};
use std::fmt;
use thiserror::Error;

/// Entries that are kept; older ones are summed up by the register's value before the first. Three years of a commit a day.
pub const APPLIED_ENTRIES_MAX: usize = 1024;
/// The longest log, in bytes.
pub const APPLIED_LOG_BYTES_MAX: usize = 512 * 1024;

/// Begins what is hashed for each activation, so that it means nothing else.
const PREFIX: &str = "cairn.applied.v1\n";
/// Begins what is hashed for each extension.
const EXTENSION_PREFIX: &str = "cairn.merged.v1\n";
/// Begins the line of an extension.
const EXTENSION_WORD: &str = "extension ";
/// The longest commit id or step, in bytes: SHA-256 in hex.
const ID_BYTES_MAX: usize = 64;

/// One activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedEntry {
    /// Activations of this machine so far; grows with every one, reverts included.
    pub generation: u64,
    /// The step, in hex.
    pub step: String,
    /// The commit, in hex.
    pub commit: String,
}

impl AppliedEntry {
    /// What is extended.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(PREFIX).chain_update(self.to_string()).finalize().into()
    }
}

impl fmt::Display for AppliedEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.generation, self.step, self.commit)
    }
}

/// What is extended at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// A commit was applied.
    Applied(AppliedEntry),
    /// An extension is about to be merged; all of a start, in the order of their names.
    Extension(ExtensionDigest),
}

impl LogEntry {
    /// What is extended.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        match self {
            LogEntry::Applied(entry) => entry.digest(),
            LogEntry::Extension(digest) => {
                Sha256::new().chain_update(EXTENSION_PREFIX).chain_update(digest.to_string()).finalize().into()
            }
        }
    }
}

impl fmt::Display for LogEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogEntry::Applied(entry) => entry.fmt(formatter),
            LogEntry::Extension(digest) => write!(formatter, "{EXTENSION_WORD}{digest}"),
        }
    }
}

/// Why a text is no log.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line} is not one of a log of applied commits")]
pub struct AppliedLogError {
    line: usize,
}

/// The log: the register's value before the first entry, then the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedLog {
    base: PcrValue,
    entries: Vec<LogEntry>,
}

impl Default for AppliedLog {
    fn default() -> Self {
        AppliedLog::after(PcrValue::ZERO)
    }
}

impl AppliedLog {
    /// A log that begins at a value that it does not explain.
    #[must_use]
    pub const fn after(base: PcrValue) -> Self {
        AppliedLog { base, entries: Vec::new() }
    }

    /// Adds an entry; the oldest one is summed up when there are too many.
    pub fn push(&mut self, entry: LogEntry) {
        if self.entries.len() >= APPLIED_ENTRIES_MAX {
            let oldest = self.entries.remove(0);
            self.base = self.base.extended(&oldest.digest());
        }
        self.entries.push(entry);
    }

    /// What the register holds once all entries were extended.
    #[must_use]
    pub fn value(&self) -> PcrValue {
        self.entries.iter().fold(self.base, |value, entry| value.extended(&entry.digest()))
    }

    /// What it held before the last entry.
    #[must_use]
    pub fn value_before_last(&self) -> PcrValue {
        let before = self.entries.len().saturating_sub(1);
        self.entries[..before].iter().fold(self.base, |value, entry| value.extended(&entry.digest()))
    }

    /// What was extended last.
    #[must_use]
    pub fn last(&self) -> Option<&LogEntry> {
        self.entries.last()
    }

    /// The commit that was applied last.
    #[must_use]
    pub fn applied(&self) -> Option<&AppliedEntry> {
        self.entries.iter().rev().find_map(|entry| match entry {
            LogEntry::Applied(entry) => Some(entry),
            LogEntry::Extension(_) => None,
        })
    }

    /// The extensions that were merged, in order.
    pub fn extensions(&self) -> impl Iterator<Item = ExtensionDigest> {
        self.entries.iter().filter_map(|entry| match entry {
            LogEntry::Applied(_) => None,
            LogEntry::Extension(digest) => Some(*digest),
        })
    }

    /// Whether everything since the machine's start is in it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.base == PcrValue::ZERO
    }

    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[LogEntry] {
        &self.entries
    }

    /// The text: `base <hex>`, then `<generation> <step> <commit>` or `extension <digest>` a line.
    #[must_use]
    pub fn render(&self) -> String {
        let lines = self.entries.iter().map(|entry| format!("{entry}\n"));
        std::iter::once(format!("base {}\n", self.base)).chain(lines).collect()
    }

    /// Reads a text.
    ///
    /// # Errors
    /// When it is anything but the one way to write a log, or too long.
    pub fn parse(text: &str) -> Result<Self, AppliedLogError> {
        let wrong = |line| AppliedLogError { line };
        if text.len() > APPLIED_LOG_BYTES_MAX || !text.ends_with('\n') {
            return Err(wrong(0));
        }
        let mut lines = text.split_terminator('\n');
        let base = lines.next().and_then(|line| PcrValue::parse(line.strip_prefix("base ")?)).ok_or(wrong(1))?;
        let mut log = AppliedLog::after(base);
        for (index, line) in lines.enumerate() {
            let entry = entry(line).filter(|entry| entry.to_string() == line).ok_or(wrong(index + 2))?;
            if log.entries.len() >= APPLIED_ENTRIES_MAX {
                return Err(wrong(index + 2));
            }
            log.entries.push(entry);
        }
        if log.render() == text { Ok(log) } else { Err(wrong(1)) }
    }
}

fn entry(line: &str) -> Option<LogEntry> {
    if let Some(digest) = line.strip_prefix(EXTENSION_WORD) {
        return digest.parse().ok().map(LogEntry::Extension);
    }
    let mut words = line.split(' ');
    let (generation, step, commit) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let id = |text: &str| (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let sound = words.next().is_none() && id(step) && id(commit);
    sound.then(|| LogEntry::Applied(AppliedEntry { generation, step: step.to_owned(), commit: commit.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_of(generation: u64) -> LogEntry {
        LogEntry::Applied(AppliedEntry { generation, step: "ab".repeat(32), commit: "cd".repeat(20) })
    }

    #[test]
    fn extensions_count_and_are_told_from_commits() {
        let name = format!("sha256:{}", "0a".repeat(32));
        let digest: ExtensionDigest = name.parse().expect("because it is a digest");
        let mut log = AppliedLog::default();
        log.push(entry_of(1));
        let before = log.value();
        log.push(LogEntry::Extension(digest));
        let text = format!("cairn.merged.v1\n{name}");
        assert_eq!(log.value(), before.extended(&Sha256::digest(text).into()));
        assert_eq!(
            log.applied(),
            Some(&AppliedEntry { generation: 1, step: "ab".repeat(32), commit: "cd".repeat(20) })
        );
        assert_eq!(log.extensions().collect::<Vec<_>>(), [digest]);
        assert_eq!(AppliedLog::parse(&log.render()), Ok(log.clone()));
        assert!(AppliedLog::parse(&log.render().replace("extension ", "extension  ")).is_err());
    }

    #[test]
    fn the_value_follows_from_the_order_and_is_read_as_written() {
        let mut log = AppliedLog::default();
        let mut swapped = AppliedLog::default();
        for (one, other) in [(1, 2), (2, 1)] {
            log.push(entry_of(one));
            swapped.push(entry_of(other));
        }
        assert_ne!(log.value(), swapped.value());
        assert_eq!(AppliedLog::parse(&log.render()), Ok(log.clone()));
        assert_eq!(log.value(), log.value_before_last().extended(&entry_of(2).digest()));
        assert_eq!(log.last(), Some(&entry_of(2)));
        let text = format!("cairn.applied.v1\n1 {} {}", "ab".repeat(32), "cd".repeat(20));
        assert_eq!(entry_of(1).digest(), <[u8; 32]>::from(Sha256::digest(text)));
    }

    #[test]
    fn a_full_log_sums_up_its_oldest_entry_and_keeps_its_value() {
        let (mut log, mut value) = (AppliedLog::default(), PcrValue::ZERO);
        for generation in 0..APPLIED_ENTRIES_MAX as u64 + 3 {
            log.push(entry_of(generation));
            value = value.extended(&entry_of(generation).digest());
        }
        assert_eq!((log.value(), log.entries().len(), log.is_whole()), (value, APPLIED_ENTRIES_MAX, false));
        assert!(log.render().len() <= APPLIED_LOG_BYTES_MAX);
    }

    #[test]
    fn anything_else_is_refused() {
        let whole = {
            let mut log = AppliedLog::default();
            log.push(entry_of(1));
            log.render()
        };
        for wrong in [
            "",
            "base 00\n",
            &whole[..whole.len() - 1],
            &format!("{whole}\n"),
            &whole.replace("1 ab", "01 ab"),
            &whole.replace("ab", "xy"),
        ] {
            assert!(AppliedLog::parse(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
