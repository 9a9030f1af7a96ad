//! What a source offers, and what is known about the time and the other machines when it does.

use crate::mark::SignedMark;
use crate::objects::ObjectSet;
use crate::statement::SignedStatement;
use jiff::Timestamp;
use machined_ids::{CommitId, Digest, Fingerprint};

/// The time, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// Now; `None` when the machine has no time that it trusts.
    pub now: Option<Timestamp>,
}

impl Clock {
    /// A trusted time.
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        Clock { now: Some(now) }
    }

    /// The time below which it certainly is not: now, or the floor under it.
    pub(crate) fn earliest(self, floor: Option<Timestamp>) -> Option<Timestamp> {
        self.now.max(floor)
    }
}

/// Whether somebody stands at the machine and vouches for a recovery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presence<'a> {
    /// Nobody does.
    #[default]
    None,
    /// Somebody does, for the recovery whose body has this SHA-256 and for no other.
    For(&'a Digest),
    /// As if somebody did, whichever it is: a laptop asks what would be.
    AsIf,
}

impl Presence<'_> {
    /// Whether it is for the recovery with this body.
    pub(crate) fn is_for(self, body: &Digest) -> bool {
        match self {
            Presence::None => false,
            Presence::For(confirmed) => confirmed == body,
            Presence::AsIf => true,
        }
    }
}

/// A tip, what came with it, and what else its judgement depends on. Pure values: the caller did the reading.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// The commit that the deploy ref is said to be at.
    pub tip: &'a CommitId,
    /// Everything between it and accepted.
    pub objects: &'a ObjectSet,
    /// Statements that came beside the commits; at most [`crate::limits::MAX_STATEMENTS`] are looked at.
    pub statements: &'a [SignedStatement],
    /// The time.
    pub clock: Clock,
    /// Marks that machines of this cluster gave just now; at most [`crate::limits::MAX_MARKS`] are looked at.
    pub marks: &'a [SignedMark],
    /// Identity of the machine that judges; `None` on a laptop.
    pub machine: Option<&'a Fingerprint>,
    /// For which recovery somebody at the machine vouched: it does not wait.
    pub presence: Presence<'a>,
}

impl<'a> Offer<'a> {
    /// A tip with its objects and nothing else: no statements, no trusted time, no marks.
    #[must_use]
    pub const fn of(tip: &'a CommitId, objects: &'a ObjectSet) -> Self {
        Offer {
            tip,
            objects,
            statements: &[],
            clock: Clock { now: None },
            marks: &[],
            machine: None,
            presence: Presence::None,
        }
    }
}
