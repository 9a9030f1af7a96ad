//! Overrides: what people (and health) decided about what runs, kept as a chain of hashes so that none can be taken out later.

use crate::limits::MAX_OVERRIDES;
use crate::refusal::{Reason, Refusal};
use crate::verified::{Commit, Verified};
use jiff::{SignedDuration, Timestamp};
use machined_ids::{Digest, Epoch, Seq, StepId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest hold or pin: a week, after which somebody has to mean it again.
pub const MAX_OVERRIDE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Action {
    /// What is applied stays.
    Hold,
    /// An accepted ancestor is applied.
    Pin {
        /// Its number.
        seq: Seq,
    },
    /// Hold or pin ends.
    Resume,
    /// What was accepted was not healthy; an ancestor is applied until the next step is accepted.
    Revert {
        /// The step that was not healthy.
        from: StepId,
        /// The number of the one that is applied instead.
        to: Seq,
    },
    /// A step was accepted by break-glass.
    BreakGlass {
        /// Its number.
        seq: Seq,
    },
    /// The history began again.
    Recovery {
        /// The new epoch.
        epoch: Epoch,
    },
}

/// What is asked for, by whom, until when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub action: Action,
    /// The principal, or the part of the machine, that decided.
    pub by: String,
    /// When it ends; holds and pins have an end.
    pub until: Option<Timestamp>,
    /// In words, for those who come later.
    pub reason: String,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Override {
    /// Counts entries, from 1.
    pub number: u64,
    /// What was decided.
    pub action: Action,
    /// By whom.
    pub by: String,
    /// When, where the time was known.
    pub at: Option<Timestamp>,
    /// When it ends.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// `SHA-256("cairn.override.v1\n" | hash of the entry before (32 bytes) | this entry as JSON with a hash of zeros)`.
    pub hash: Digest,
}

/// The newest entries, and the hash that the oldest of them continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Log {
    before: Digest,
    entries: Vec<Override>,
}

const NOTHING: Digest = Digest::from_bytes([0; 32]);

impl Default for Log {
    fn default() -> Self {
        Log { before: NOTHING, entries: Vec::new() }
    }
}

impl Override {
    fn hash_after(&self, before: &Digest) -> Digest {
        let open = Override { hash: NOTHING, ..self.clone() };
        let json = serde_json::to_vec(&open).expect("because an entry holds only texts and numbers");
        let hasher = Sha256::new_with_prefix(b"cairn.override.v1\n").chain_update(before.as_bytes());
        Digest::from_bytes(hasher.chain_update(json).finalize().into())
    }

    /// Whether a hold or pin has not ended. Without a trusted time it has not: what an operator stopped does not start by itself.
    fn holds(&self, now: Option<Timestamp>) -> bool {
        let (Some(now), Some(until)) = (now, self.until) else { return true };
        // An end further away than any may be was set while the clock was wrong.
        now < until && until.duration_since(now) <= MAX_OVERRIDE
    }
}

impl Log {
    pub(crate) fn entries(&self) -> &[Override] {
        &self.entries
    }

    pub(crate) fn is_whole(&self) -> bool {
        let mut before = self.before;
        self.entries.iter().all(|entry| {
            let right = entry.hash_after(&before) == entry.hash;
            before = entry.hash;
            right
        })
    }

    pub(crate) fn push(&mut self, order: Order, at: Option<Timestamp>) {
        let Order { action, by, until, reason } = order;
        let (number, before) = self.entries.last().map_or((1, self.before), |last| (last.number + 1, last.hash));
        let mut entry = Override { number, action, by, at, until, reason, hash: NOTHING };
        entry.hash = entry.hash_after(&before);
        self.entries.push(entry);
        if self.entries.len() > MAX_OVERRIDES {
            self.before = self.entries.remove(0).hash;
        }
    }

    /// Writes down what a step itself says: that it came by break-glass, or began an epoch.
    pub(crate) fn accepted(&mut self, step: &Verified<Commit>, at: Option<Timestamp>) {
        let seq = step.position().seq;
        let glass = step.break_glass().filter(|glass| glass.seq == seq);
        let known = |action: &Action| self.entries.iter().any(|entry| entry.action == *action);
        let (action, until) = match (glass, step.is_recovery()) {
            (Some(glass), _) => (Action::BreakGlass { seq }, Some(glass.until)),
            (None, true) => (Action::Recovery { epoch: step.epoch() }, None),
            (None, false) => return,
        };
        if !known(&action) {
            let by: Vec<&str> = step.approvals().iter().map(|name| name.as_str()).collect();
            let reason = step.position().subject.chars().take(MAX_REASON_CHARS).collect();
            self.push(Order { action, by: by.join(", "), until, reason }, at);
        }
    }

    /// The hold or pin that is in force.
    pub(crate) fn in_force(&self, now: Option<Timestamp>) -> Option<&Override> {
        let decides = |action: &Action| match action {
            Action::Hold | Action::Pin { .. } | Action::Resume => true,
            Action::Revert { .. } | Action::BreakGlass { .. } | Action::Recovery { .. } => false,
        };
        let last = self.entries.iter().rev().find(|entry| decides(&entry.action))?;
        (last.action != Action::Resume && last.holds(now)).then_some(last)
    }
}

/// Characters of a reason that are kept; bounds the state.
const MAX_REASON_CHARS: usize = 200;

/// Whether an order may be taken: holds and pins end within [`MAX_OVERRIDE`], and words are short.
pub(crate) fn check(order: &Order, now: Option<Timestamp>) -> Result<(), Refusal> {
    let ends = matches!(order.action, Action::Hold | Action::Pin { .. });
    let in_time = match (order.until, now) {
        (Some(until), Some(now)) => until > now && until.duration_since(now) <= MAX_OVERRIDE,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if ends && !in_time {
        let message = "a hold or pin ends within seven days; say when: cairnctl hold --hours 4";
        return Err(Refusal::new(Reason::Limit, message));
    }
    if order.reason.chars().count() > MAX_REASON_CHARS || order.by.len() > MAX_REASON_CHARS {
        let message =
            format!("a reason has at most {MAX_REASON_CHARS} characters; say it shorter: cairnctl hold --reason");
        return Err(Refusal::new(Reason::Limit, message));
    }
    Ok(())
}
