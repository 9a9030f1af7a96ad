//! Beacons and freshness: how long a source can keep news back before somebody notices.
//!
//! ```text
//!            no beacon yet            expires passes
//! Unproven -----------------> Fresh ----------------> Stale        Withheld: a beacon names a step that did not come
//!     ^---- new machine          ^---- next beacon ----'
//! ```
//!
//! A beacon needs a trusted time: without one it counts as ended, and moves no floor.

use crate::offer::Clock;
use crate::policy::{Policy, Use};
use crate::refusal::{Reason, Refusal};
use crate::state::TrustState;
use crate::statement::{Beacon, SignedStatement};
use jiff::{SignedDuration, Timestamp};
use machined_ids::{Seq, StepId};
use serde::{Deserialize, Serialize};

/// How far ahead of this machine's clock a beacon may be issued: clocks of two machines differ.
pub const MAX_BEACON_AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// Longest life of a beacon where the policy does not ask for freshness, and so does not say.
const DEFAULT_BEACON_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is remembered of a beacon that counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SeenBeacon {
    /// The newest step's number.
    pub seq: Seq,
    /// The newest step.
    pub step: StepId,
    /// When it was made.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

impl SeenBeacon {
    fn is_current(&self, now: Timestamp) -> bool {
        self.expires > now && self.issued <= now + MAX_BEACON_AHEAD
    }
}

/// How fresh what is accepted is known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// The policy does not ask, and nobody says that anything is kept back.
    NotAsked,
    /// A beacon says that nothing newer existed when it was made.
    Fresh {
        /// When the beacon ends.
        until: Timestamp,
    },
    /// The last beacon has ended, or the time is not known.
    Stale {
        /// When it ended.
        since: Timestamp,
    },
    /// A beacon names a step that the source does not deliver.
    Withheld {
        /// The step's number.
        seq: Seq,
        /// The step.
        step: StepId,
    },
    /// The policy asks, and there never was a beacon.
    Unproven,
}

impl Freshness {
    /// Why this machine refuses joins and installations, and shows a condition; `None` when all is well.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let (reason, message) = match self {
            Freshness::NotAsked | Freshness::Fresh { .. } => return None,
            Freshness::Stale { since } => {
                let message = format!(
                    "the last beacon ended at {since}, or this machine has no trusted time; look at the beacon's signer and \
                     the time servers: cairnctl status"
                );
                (Reason::SourceStale, message)
            }
            Freshness::Withheld { seq, step } => {
                let message = format!(
                    "a beacon names step {seq} ({step}), and the source does not deliver it; push it by another way: \
                     cairnctl push --bundle"
                );
                (Reason::SourceWithheld, message)
            }
            Freshness::Unproven => {
                let message = "the policy asks for freshness, and there is neither a beacon nor a majority of the control \
                               plane that says so; sign a beacon: cairnctl beacon";
                (Reason::FreshnessUnproven, message.to_owned())
            }
        };
        Some(Refusal::new(reason, message))
    }
}

/// How fresh the accepted step is.
#[must_use]
pub fn freshness(state: &TrustState, clock: Clock) -> Freshness {
    let accepted = state.accepted();
    let newest = state.trust.beacons.values().max_by_key(|seen| (seen.seq, seen.issued));
    if let Some(SeenBeacon { seq, step, .. }) = newest.filter(|seen| !holds(state, seen)) {
        return Freshness::Withheld { seq: *seq, step: *step };
    }
    if state.beacon_life().is_none() {
        return Freshness::NotAsked;
    }
    let held = state.trust.beacons.values().filter(|seen| seen.seq <= accepted.seq);
    let Some(last) = held.max_by_key(|seen| seen.expires) else { return Freshness::Unproven };
    match now(state, clock) {
        Some(now) if last.is_current(now) => Freshness::Fresh { until: last.expires },
        Some(_) | None => Freshness::Stale { since: last.expires },
    }
}

/// Now, when it can be trusted: a clock that lies below the floor is wrong, and no time at all. The floor comes from other clocks,
/// which may be a little ahead.
pub(crate) fn now(state: &TrustState, clock: Clock) -> Option<Timestamp> {
    let floor = state.clock_floor();
    clock.now.filter(|now| floor.is_none_or(|floor| *now + MAX_BEACON_AHEAD >= floor))
}

/// Whether accepted history holds a beacon's step. Below what is remembered it is taken to.
fn holds(state: &TrustState, seen: &SeenBeacon) -> bool {
    match state.history().iter().find(|known| known.seq == seen.seq) {
        Some(known) => known.step == seen.step,
        None => seen.seq < state.accepted().seq,
    }
}

/// Whether some beacon that is remembered, or came now, is current and lies on the chain that `on_chain` knows.
pub(crate) fn proven<'a>(
    beacons: impl Iterator<Item = &'a SeenBeacon>,
    now: Option<Timestamp>,
    on_chain: impl Fn(Seq, &StepId) -> bool,
) -> bool {
    let Some(now) = now else { return false };
    beacons.into_iter().any(|seen| seen.is_current(now) && on_chain(seen.seq, &seen.step))
}

/// Judges a beacon by the accepted policy.
///
/// # Errors
/// `WrongTarget`, `UnknownKey`, `WrongUse`, `NoTouch`, `Revoked`, `StaleBeacon`.
pub(crate) fn judge(
    state: &TrustState,
    policy: &Policy,
    clock: Clock,
    signed: &SignedStatement,
    beacon: &Beacon,
) -> Result<SeenBeacon, Refusal> {
    let Beacon { cluster, deploy_ref, epoch, seq, step, issued, expires } = beacon;
    let key = signed.key();
    let refuse = |reason, what: &str| {
        Err(Refusal::new(reason, format!("a beacon by key {key}: {what}; sign another: cairnctl beacon")))
    };
    let introduction = state.introduction();
    if (cluster, deploy_ref, *epoch) != (&introduction.cluster, &introduction.deploy_ref, state.epoch()) {
        return refuse(Reason::WrongTarget, "it is for another cluster, branch or epoch");
    }
    let Some((_, uses)) = policy.key(key) else {
        return refuse(Reason::UnknownKey, "the key belongs to nobody in trust/");
    };
    if !uses.contains(&Use::Fresh) {
        return refuse(Reason::WrongUse, "the key is not for beacons (use \"fresh\")");
    }
    if signed.touched() == Some(false) {
        return refuse(Reason::NoTouch, "it was signed without a touch");
    }
    if state.revocations().contains_key(key) || policy.revoked().contains_key(key) {
        return refuse(Reason::Revoked, "the key was revoked");
    }
    let life = policy.freshness().unwrap_or(DEFAULT_BEACON_LIFE);
    if expires <= issued || expires.duration_since(*issued) > life {
        return refuse(Reason::StaleBeacon, &format!("it must end after it was made, and within {life:#}"));
    }
    let Some(now) = now(state, clock) else {
        return refuse(Reason::StaleBeacon, "without a trusted time it counts as ended");
    };
    if *issued > now + MAX_BEACON_AHEAD {
        return refuse(Reason::StaleBeacon, &format!("it is issued at {issued}, which is more than 5 minutes ahead"));
    }
    if *expires <= now {
        return refuse(Reason::StaleBeacon, &format!("it ended at {expires}"));
    }
    Ok(SeenBeacon { seq: *seq, step: *step, issued: *issued, expires: *expires })
}
