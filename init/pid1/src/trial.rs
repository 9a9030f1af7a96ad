//! A boot of an image that is being tried: counted before anything of it runs, and ended by PID 1 when it does not
//! become good in time.
//!
//! ```text
//! stage one: starts + 1 on META ----> stage two: deadline ----> "good" from machined: an ordinary boot from now on
//!     | too many, or cannot be counted     | over, or machined keeps failing
//!     '------------------------------------'--> reason noted on META, the other slot
//! ```
//!
//! The boot loader's default stays the good slot all the while, so that a panic, a reset or a power cut needs nobody.

use std::path::Path;
use std::time::Duration;

use init_boot::{Attempt, BootRecord, MetaKind, RootHash, STARTS_MAX};
use init_linux::Kernel;

use crate::find_slot::{FoundSlot, find_slot};
use crate::{log, stage_one};

/// How stage two is told: `try=<seconds>`.
const ARGUMENT: &str = "try=";

/// What kind of boot this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trial {
    /// An ordinary one.
    #[default]
    None,
    /// The image must be good this long after the kernel's start.
    Until(Duration),
}

impl Trial {
    /// For stage two's command line.
    pub(crate) fn to_argument(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Until(deadline) => format!("{ARGUMENT}{}", deadline.as_secs()),
        }
    }

    /// From stage one.
    pub(crate) fn from_argument(text: &str) -> Self {
        let seconds = text.strip_prefix(ARGUMENT).and_then(|seconds| seconds.parse().ok());
        seconds.map_or(Self::None, |seconds| Self::Until(Duration::from_secs(seconds)))
    }

    /// How long the image still has at `now`; `None` when it has no deadline.
    pub(crate) fn left(self, now: Duration) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Until(deadline) => Some(deadline.saturating_sub(now)),
        }
    }
}

/// Counts this start when the slot's image is being tried. The error means that it may not run.
pub(crate) fn begin(kernel: &dyn Kernel, found: &FoundSlot, root: &RootHash) -> Result<Trial, String> {
    let Some(meta) = &found.meta else { return Ok(Trial::None) };
    let Some(record) = read(kernel, meta)? else { return Ok(Trial::None) };
    let mut counted = record.next();
    let Some(attempt) = counted.attempt.as_mut().filter(|attempt| attempt.root == *root) else {
        return Ok(Trial::None);
    };
    if let Some(reason) = &attempt.ended {
        return Err(format!("this image was tried and is not started again by itself: {reason}"));
    }
    if attempt.starts >= STARTS_MAX {
        return Err(format!("this image was started {STARTS_MAX} times and never became good"));
    }
    attempt.starts += 1;
    let Attempt { starts, deadline, .. } = *attempt;
    write(kernel, meta, &counted)?;
    log::line(kernel, &format!("this image is being tried, start {starts} of {STARTS_MAX}"));
    Ok(Trial::Until(deadline))
}

/// Notes on META why the image that runs is not good. What cannot be noted is told in the log: the machine falls back
/// all the same.
pub(crate) fn end(kernel: &dyn Kernel, reason: &str) {
    if let Err(why) = try_end(kernel, reason) {
        log::line(kernel, &format!("the end of the try cannot be noted: {why}"));
    }
}

fn try_end(kernel: &dyn Kernel, reason: &str) -> Result<(), String> {
    let (root, _) = stage_one::read_command_line(kernel)?;
    let mut notes = Vec::new();
    let found = find_slot(kernel, &root, &mut notes).ok_or_else(|| notes.join("; "))?;
    let meta = found.meta.ok_or("the disk has no META partition")?;
    let Some(record) = read(kernel, &meta)? else { return Ok(()) };
    let mut next = record.next();
    match next.attempt.as_mut().filter(|attempt| attempt.root == root) {
        Some(attempt) => attempt.end(reason),
        None => return Ok(()),
    }
    write(kernel, &meta, &next)
}

fn read(kernel: &dyn Kernel, meta: &Path) -> Result<Option<BootRecord>, String> {
    let place = |kind: MetaKind| kernel.read_at(meta, kind.offset(), kind.place_bytes());
    let first = place(MetaKind::BootFirst).map_err(|error| error.story())?;
    let second = place(MetaKind::BootSecond).map_err(|error| error.story())?;
    Ok(BootRecord::newest(&first, &second))
}

fn write(kernel: &dyn Kernel, meta: &Path, record: &BootRecord) -> Result<(), String> {
    let (kind, bytes) = record.encode();
    kernel.write_at(meta, kind.offset(), &bytes).map_err(|error| error.story())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_two_learns_the_deadline() {
        let trial = Trial::Until(Duration::from_secs(300));
        assert_eq!(Trial::from_argument(&trial.to_argument()), trial);
        assert_eq!(Trial::from_argument(&Trial::None.to_argument()), Trial::None);
        assert_eq!(trial.left(Duration::from_secs(299)), Some(Duration::from_secs(1)));
        assert_eq!(trial.left(Duration::from_secs(301)), Some(Duration::ZERO));
    }
}
