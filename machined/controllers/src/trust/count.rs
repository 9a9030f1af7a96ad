//! The TPM's counter against old copies of the record: what the two together mean. Pure; `trust_record` acts on it.
//!
//! ```text
//! nothing counted --> Starting (on disk) --> counter made, +1 --> At n (on disk)
//! a move:             At n+1 (on disk, with the new position) --> counter +1
//! at start:           record = counter: fine | record = counter + 1: the move is finished | anything else: a doubt
//! ```
//!
//! The record is written first, because a counter cannot be taken back: a power cut between the two leaves a record that is one ahead, and
//! nothing else does. A doubt stops every move until somebody proves the newest position.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a record says about the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", tag = "kind")]
pub enum Count {
    /// Counting begins; whatever the counter's next value is, it becomes this record's.
    Starting {},
    /// The counter's value once this record's last move is finished.
    At {
        /// The value.
        value: u64,
    },
}

/// What the TPM says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counter {
    /// There is no TPM.
    NoTpm,
    /// No counter was ever made.
    Never,
    /// Its value.
    At(u64),
}

/// Why the newest position is not known for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Positions were accepted after this record was written.
    OldCopy {
        /// The counter's value that the record names; `None` when it names none.
        recorded: Option<u64>,
        /// The counter.
        counter: u64,
    },
    /// The TPM was cleared or is another one.
    CounterLost,
    /// The machine counted in a TPM and has none now.
    TpmGone,
    /// The TPM does not answer as it should.
    TpmFails {
        /// What it does.
        story: String,
    },
    /// A newer release wrote the record.
    Newer {
        /// Version of its format.
        version: u32,
    },
}

impl Doubt {
    /// The stable reason.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Doubt::OldCopy { .. } | Doubt::CounterLost | Doubt::TpmGone | Doubt::TpmFails { .. } => "FreshnessUnproven",
            Doubt::Newer { .. } => "NewerState",
        }
    }
}

/// What to do about it, for all whose way out is the same.
const WAY_OUT: &str = "nothing moves until another machine shows this one's newest mark, or an admin names the newest accepted step: \
                       cairnctl vouch";

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::OldCopy { recorded: Some(recorded), counter } => {
                let moves = counter.saturating_sub(*recorded);
                write!(
                    f,
                    "an old copy of this machine's state was put back: its TPM counted {moves} accepted moves since; {WAY_OUT}"
                )
            }
            Doubt::OldCopy { recorded: None, .. } => {
                write!(
                    f,
                    "this machine's trust record is missing, damaged, not its own, or older than the counter in its TPM: an old copy may have been put back; {WAY_OUT}"
                )
            }
            Doubt::CounterLost => {
                write!(
                    f,
                    "the TPM was cleared or replaced, and the counter that shows an old copy of the state is gone; {WAY_OUT}"
                )
            }
            Doubt::TpmGone => {
                write!(
                    f,
                    "this machine counted in a TPM and has none now; switch it on in the firmware's setup, or {WAY_OUT}"
                )
            }
            Doubt::TpmFails { story } => {
                write!(
                    f,
                    "whether this state is the newest cannot be told, and nothing moves until the TPM answers: {story}; \
                     restart the machine: cairnctl reboot"
                )
            }
            Doubt::Newer { version } => {
                write!(
                    f,
                    "a newer release wrote this machine's trust record (version {version}); what runs keeps running and \
                     nothing moves; go back to the newer image: cairnctl rollback"
                )
            }
        }
    }
}

/// What record and counter come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is no TPM and never was: an old copy cannot be noticed here.
    Undetectable,
    /// `Starting` is to be written, then the counter's next value.
    Begin,
    /// The counter's next value is to be written.
    Adopt,
    /// The last move was cut off before the counter: it is to be incremented.
    Finish,
    /// The record is the newest.
    Newest,
    /// It may be an old one.
    Doubt(Doubt),
}

/// Judges a record. `first`: there is no file at all, as after an installation.
pub(super) fn judge(first: bool, count: Option<Count>, counter: Counter) -> Verdict {
    match (count, counter) {
        (None | Some(Count::Starting {}), Counter::NoTpm) => Verdict::Undetectable,
        (None, Counter::Never) => Verdict::Begin,
        (None, Counter::At(_)) if first => Verdict::Begin,
        (None, Counter::At(counter)) => Verdict::Doubt(Doubt::OldCopy { recorded: None, counter }),
        (Some(Count::Starting {}), Counter::Never | Counter::At(_)) => Verdict::Adopt,
        (Some(Count::At { .. }), Counter::NoTpm) => Verdict::Doubt(Doubt::TpmGone),
        (Some(Count::At { .. }), Counter::Never) => Verdict::Doubt(Doubt::CounterLost),
        (Some(Count::At { value }), Counter::At(counter)) => {
            if value == counter {
                Verdict::Newest
            } else if counter.checked_add(1) == Some(value) {
                Verdict::Finish
            } else if value < counter {
                Verdict::Doubt(Doubt::OldCopy { recorded: Some(value), counter })
            } else {
                Verdict::Doubt(Doubt::CounterLost)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_at_the_counter_or_one_ahead_is_the_newest() {
        let at = |value, counter| judge(false, Some(Count::At { value }), Counter::At(counter));
        assert_eq!(at(7, 7), Verdict::Newest);
        assert_eq!(at(8, 7), Verdict::Finish);
        assert_eq!(at(6, 7), Verdict::Doubt(Doubt::OldCopy { recorded: Some(6), counter: 7 }));
        assert_eq!(at(9, 7), Verdict::Doubt(Doubt::CounterLost), "no record is two ahead");
        assert_eq!(at(0, u64::MAX), Verdict::Doubt(Doubt::OldCopy { recorded: Some(0), counter: u64::MAX }));
    }

    #[test]
    fn taking_the_tpm_or_the_count_away_hides_nothing() {
        let counted = Some(Count::At { value: 7 });
        assert_eq!(judge(false, counted, Counter::NoTpm), Verdict::Doubt(Doubt::TpmGone));
        assert_eq!(judge(false, counted, Counter::Never), Verdict::Doubt(Doubt::CounterLost));
        let older = judge(false, None, Counter::At(7));
        assert_eq!(older, Verdict::Doubt(Doubt::OldCopy { recorded: None, counter: 7 }));
    }

    #[test]
    fn a_machine_that_never_counted_begins_where_there_is_a_tpm() {
        assert_eq!(judge(true, None, Counter::NoTpm), Verdict::Undetectable);
        assert_eq!(judge(false, None, Counter::Never), Verdict::Begin, "a record of a release that did not count");
        assert_eq!(judge(true, None, Counter::At(7)), Verdict::Begin, "installed again on a machine that counted");
        for counter in [Counter::Never, Counter::At(7)] {
            assert_eq!(judge(false, Some(Count::Starting {}), counter), Verdict::Adopt);
        }
    }
}
