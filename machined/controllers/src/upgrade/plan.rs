//! What a running upgrade does next: a function of the journal and of what disk and boot record say.
//!
//! Pure, and told nothing of what happened: after a power cut anywhere the same question gives the step that is missing.

use super::journal::{Origin, Stage, Task};
use super::{ImageNote, Journal, Slots, Wanted};
use init_boot::{Attempt, STARTS_MAX};
use machined_config::ImageConfig;

/// How often the boot loader is asked to start one image: a power cut before it starts uses one up, and so does a firmware that
/// forgets.
pub(super) const ASKS_MAX: u32 = STARTS_MAX;

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The artefact is fetched.
    Obtain {
        /// From where.
        url: String,
    },
    /// The obtained artefact is judged and compared with its manifest.
    Judge,
    /// The other slot is written.
    Write,
    /// The boot loader is asked to start the image once, and the machine restarts.
    Try,
    /// The image runs: it is good once it has been healthy for a while.
    Prove,
    /// The image was tried and is not good.
    Fail {
        /// Why.
        reason: String,
    },
    /// It cannot go on and nothing was tried.
    Refuse {
        /// Why.
        reason: String,
    },
}

/// The next step of a task. `obtained`: a whole artefact lies in the place for obtained ones.
#[must_use]
pub fn next(task: &Task, slots: &Slots, obtained: bool) -> Step {
    match (task.stage, obtained) {
        (Stage::Obtaining, true) => Step::Judge,
        (Stage::Writing, true) => Step::Write,
        (Stage::Obtaining | Stage::Writing, false) => obtain(&task.origin),
        (Stage::Written, _) => Step::Try,
        (Stage::Trying, _) if task.root() == Some(slots.root) => Step::Prove,
        (Stage::Trying, _) => after_a_try(task, slots),
    }
}

fn obtain(origin: &Origin) -> Step {
    match origin {
        Origin::Document { url, .. } | Origin::Request { url: Some(url), .. } => Step::Obtain { url: url.clone() },
        Origin::Request { url: None, .. } | Origin::Rollback { .. } => {
            Step::Refuse { reason: "the artefact that was sent is not whole or is gone; send it again".to_owned() }
        }
    }
}

/// The machine is back on the slot from before, or was never restarted.
fn after_a_try(task: &Task, slots: &Slots) -> Step {
    let attempt = slots.record.as_ref().and_then(|record| record.attempt.as_ref());
    let attempt = attempt.filter(|attempt| Some(attempt.root) == task.root());
    let seen = task.unhealthy.as_deref().map(|reason| format!("; it said: {reason}")).unwrap_or_default();
    match attempt {
        Some(Attempt { ended: Some(reason), .. }) => Step::Fail { reason: format!("{reason}{seen}") },
        Some(Attempt { starts, .. }) if *starts >= STARTS_MAX => {
            Step::Fail { reason: format!("it was started {starts} times and never became good{seen}") }
        }
        Some(Attempt { starts: 0, .. }) | None if task.asked >= ASKS_MAX => Step::Fail {
            reason: format!(
                "the boot loader was asked {} times to start it, and none of its programs ever ran: its kernel does not start, or \
                 the firmware forgets what it is asked",
                task.asked
            ),
        },
        Some(Attempt { starts, .. }) if task.asked >= ASKS_MAX => {
            Step::Fail { reason: format!("it was started {starts} times and was cut off each time{seen}") }
        }
        Some(_) | None => Step::Try,
    }
}

/// Whether the document's wish begins an upgrade.
#[must_use]
pub(super) fn wants(journal: &Journal, running: &ImageNote, image: &ImageConfig) -> bool {
    let wanted = Wanted::from(image);
    running.digest.as_ref() != Some(&wanted.digest) && journal.avoided.as_ref() != Some(&wanted)
}
