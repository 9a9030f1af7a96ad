//! What a machine remembers about trust between two looks at the repository. Pure values; `gitsync/daemon` writes them down.

mod overrides;
mod position;
mod wanted;

pub use overrides::{Action, MAX_OVERRIDE, Order, Override};
pub use position::{Applied, Position, next_step, recovery_step, root_step};
pub use wanted::Wanted;

use crate::break_glass::InForce;
use crate::chain::Chain;
use crate::equivocation::Equivocation;
use crate::freshness::SeenBeacon;
use crate::introduction::Introduction;
use crate::limits::{MAX_HISTORY, MAX_REVOCATIONS};
use crate::policy::{Floors, Policy, Use};
use crate::recovery::{Begun, PendingRecovery, RecoveryKeys};
use crate::refusal::{Reason, Refusal};
use crate::revocation::Revocation;
use crate::verified::{Commit, Verified};
use jiff::{SignedDuration, Timestamp};
use machined_ids::{Epoch, Fingerprint, Generation, StepId};
use overrides::Log;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the persisted form that this release writes; it reads this one and the one before.
const VERSION: u32 = 2;

/// Everything that is remembered. Serialised as JSON; a power cut leaves the old or the new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrustState {
    version: u32,
    introduction: Introduction,
    epoch: Epoch,
    /// Oldest first; the last one is accepted. Never empty.
    history: Vec<Position>,
    applied: Option<Applied>,
    /// Activations so far: grows with every apply and every revert.
    generation: Generation,
    /// Activations that were healthy.
    #[serde(default)]
    healthy: BTreeMap<Generation, StepId>,
    /// What else was learned.
    #[serde(default)]
    pub(crate) trust: Trust,
}

/// What accepted and signed statements said that outlives the next step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Trust {
    /// The newest beacon of each key.
    pub(crate) beacons: BTreeMap<Fingerprint, SeenBeacon>,
    /// Longest life of a beacon by the accepted policy, in seconds; none: it does not ask for freshness.
    pub(crate) beacon_life: Option<i64>,
    pub(crate) revocations: BTreeMap<Fingerprint, Revocation>,
    pub(crate) floors: Floors,
    /// No trusted time lies below.
    pub(crate) clock_floor: Option<Timestamp>,
    /// A break-glass that is not ratified.
    pub(crate) break_glass: Option<InForce>,
    /// Who may start the history again, by the accepted policy.
    pub(crate) recovery: Option<RecoveryKeys>,
    /// Recoveries that wait for their time.
    pub(crate) pending: Vec<PendingRecovery>,
    /// The one that this epoch began with.
    pub(crate) begun: Option<Begun>,
    /// Two stories, once they were seen.
    pub(crate) equivocation: Option<Equivocation>,
    pub(crate) overrides: Log,
}

impl Trust {
    fn revoke(&mut self, key: &Fingerprint, revocation: Revocation) {
        if let Some(known) = self.revocations.get_mut(key) {
            *known = known.and(revocation);
        } else if self.revocations.len() < MAX_REVOCATIONS {
            self.revocations.insert(key.clone(), revocation);
        }
    }
}

impl TrustState {
    pub(crate) fn begin(introduction: Introduction, epoch: Epoch, first: Position, policy: &Policy) -> Self {
        let mut state = TrustState {
            version: VERSION,
            introduction,
            epoch,
            history: vec![first],
            applied: None,
            generation: Generation(0),
            healthy: BTreeMap::new(),
            trust: Trust::default(),
        };
        state.follow(policy);
        state
    }

    /// Reads the persisted form.
    ///
    /// # Errors
    /// `NewerState` when a later release wrote it, `Parse` when it is damaged.
    pub fn from_json(json: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Peek {
            version: u32,
        }
        const AGAIN: &str = "introduce the machine again: cairnctl enroll";
        let damaged = |error: serde_json::Error| {
            Refusal::new(Reason::Parse, format!("the recorded trust state is damaged ({error}); {AGAIN}"))
        };
        let peek: Peek = serde_json::from_slice(json).map_err(damaged)?;
        if peek.version > VERSION {
            let message = format!(
                "trust state has version {}, this release knows {VERSION}; boot the newer slot: cairnctl rollback",
                peek.version
            );
            return Err(Refusal::new(Reason::NewerState, message));
        }
        let mut state: TrustState = serde_json::from_slice(json).map_err(damaged)?;
        let whole = !state.history.is_empty()
            && state.history.windows(2).all(|pair| pair[1].seq == pair[0].seq.next())
            && state.trust.overrides.is_whole();
        if !whole {
            return Err(Refusal::new(Reason::Parse, format!("the recorded trust state has a gap; {AGAIN}")));
        }
        state.version = VERSION;
        Ok(state)
    }

    /// Writes the persisted form.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("because the state holds only texts and numbers")
    }

    /// What the machine was introduced to.
    #[must_use]
    pub const fn introduction(&self) -> &Introduction {
        &self.introduction
    }

    /// Whether another introduction is the recorded one; a newer anchor of the same one changes nothing.
    ///
    /// # Errors
    /// `IntroductionConflict`.
    pub fn check_introduction(&self, other: &Introduction) -> Result<(), Refusal> {
        if self.introduction.begins_like(other) {
            return Ok(());
        }
        let message = format!(
            "the machine is introduced to commit {} of cluster {}, and this is another introduction; to introduce it \
             anew, write an image with that one to its disk: cairnctl seed",
            self.introduction.commit.short(),
            self.introduction.cluster
        );
        Err(Refusal::new(Reason::IntroductionConflict, message))
    }

    /// Which introduction of this cluster it is.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest step that passed.
    #[must_use]
    pub fn accepted(&self) -> &Position {
        self.history.last().expect("because the history is never empty")
    }

    /// Recent positions, oldest first; the last one is accepted.
    #[must_use]
    pub fn history(&self) -> &[Position] {
        &self.history
    }

    /// What runs.
    #[must_use]
    pub const fn applied(&self) -> Option<&Applied> {
        self.applied.as_ref()
    }

    /// Activations so far.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// What must not be gone below.
    #[must_use]
    pub const fn floors(&self) -> Floors {
        self.trust.floors
    }

    /// No trusted time lies below this one.
    #[must_use]
    pub const fn clock_floor(&self) -> Option<Timestamp> {
        self.trust.clock_floor
    }

    /// Keys that were revoked.
    #[must_use]
    pub const fn revocations(&self) -> &BTreeMap<Fingerprint, Revocation> {
        &self.trust.revocations
    }

    /// A break-glass that is not ratified.
    #[must_use]
    pub const fn break_glass(&self) -> Option<&InForce> {
        self.trust.break_glass.as_ref()
    }

    /// Recoveries that wait for their time.
    #[must_use]
    pub fn pending_recoveries(&self) -> &[PendingRecovery] {
        &self.trust.pending
    }

    /// When a recovery that waits takes effect; `None` while no trusted time says since when it waits.
    #[must_use]
    pub fn takes_effect(&self, waiting: &PendingRecovery) -> Option<Timestamp> {
        let delay = self.trust.recovery.as_ref().map(RecoveryKeys::delay)?;
        waiting.since.and_then(|since| since.checked_add(delay).ok())
    }

    /// Two stories that this cluster was told; nothing moves until a re-introduction.
    #[must_use]
    pub const fn equivocation(&self) -> Option<&Equivocation> {
        self.trust.equivocation.as_ref()
    }

    /// The longest life of a beacon that the accepted policy allows, when it asks for freshness.
    #[must_use]
    pub fn beacon_life(&self) -> Option<SignedDuration> {
        self.trust.beacon_life.map(SignedDuration::from_secs)
    }

    /// When the newest beacon that counted was issued, and when it ends.
    #[must_use]
    pub fn newest_beacon(&self) -> Option<(Timestamp, Timestamp)> {
        let newest = self.trust.beacons.values().max_by_key(|seen| seen.issued);
        newest.map(|seen| (seen.issued, seen.expires))
    }

    /// Raises the clock floor to the time at which the running image was built: signed like the image itself.
    pub fn image_was_built(&mut self, at: Timestamp) {
        self.trust.clock_floor = self.trust.clock_floor.max(Some(at));
    }

    /// Moves accepted to a verified commit: the next step, a twin of a remembered one, or the first of a new epoch. Anything else
    /// changes nothing. [`TrustState::learn`] does it for a whole chain.
    pub fn accept(&mut self, commit: &Verified<Commit>) {
        let position = commit.position();
        if commit.is_recovery() && commit.epoch() > self.epoch {
            return self.begin_again(commit);
        }
        if commit.epoch() != self.epoch {
            return;
        }
        let next = self.accepted().seq.next();
        match self.history.iter_mut().find(|known| known.seq == position.seq) {
            Some(known) if known.step == position.step => *known = position.clone(),
            Some(_) => {}
            None if position.seq == next => {
                self.history.push(position.clone());
                self.trust.break_glass = commit.break_glass().cloned();
                self.follow(commit.policy());
            }
            None => {}
        }
        if self.history.len() > MAX_HISTORY {
            self.history.remove(0);
        }
    }

    /// Floors and revocations survive a re-introduction; everything that names steps of the old epoch does not.
    fn begin_again(&mut self, commit: &Verified<Commit>) {
        self.epoch = commit.epoch();
        self.history = vec![commit.position().clone()];
        let Trust { floors, revocations, clock_floor, overrides, .. } = std::mem::take(&mut self.trust);
        self.trust = Trust { floors: Floors { image: floors.image, ..Floors::default() }, ..Trust::default() };
        (self.trust.revocations, self.trust.clock_floor, self.trust.overrides) = (revocations, clock_floor, overrides);
        self.trust.begun.clone_from(&commit.begun);
        self.healthy.clear();
        self.follow(commit.policy());
    }

    /// Takes over what an accepted policy says.
    fn follow(&mut self, policy: &Policy) {
        let trust = &mut self.trust;
        trust.floors = trust.floors.raised_to(policy.floors());
        trust.beacon_life = policy.freshness().map(|life| life.as_secs());
        trust.recovery = RecoveryKeys::of(policy);
        for (key, last_good) in policy.revoked() {
            trust.revoke(key, Revocation { epoch: self.epoch, last_good: *last_good, by_root: true, by_key: false });
        }
        let fresh = |key: &Fingerprint| policy.key(key).is_some_and(|(_, uses)| uses.contains(&Use::Fresh));
        let revoked: BTreeSet<_> = trust.revocations.keys().collect();
        trust.beacons.retain(|key, _| fresh(key) && !revoked.contains(key));
    }

    /// Takes over everything that a judgement came to: its steps, and what else was learned. Gives whether anything changed, so
    /// that it must be written down before anything acts on it.
    pub fn learn(&mut self, chain: &Chain) -> bool {
        let before = self.clone();
        chain.steps.iter().for_each(|step| {
            self.accept(step);
            self.trust.overrides.accepted(step, chain.learned.at);
        });
        let learned = &chain.learned;
        for (key, revocation) in &learned.revocations {
            self.trust.revoke(key, *revocation);
            self.trust.beacons.remove(key);
        }
        self.trust.beacons.extend(learned.beacons.iter().map(|(key, seen)| (key.clone(), seen.clone())));
        self.trust.clock_floor = self.trust.clock_floor.max(learned.clock_floor);
        if let Some(pending) = &learned.pending {
            self.trust.pending.clone_from(pending);
        }
        if self.trust.equivocation.is_none() {
            self.trust.equivocation.clone_from(&learned.equivocation);
        }
        *self != before
    }

    /// Begins a new activation of what is applied already (who may reach the APIs changed, or the receiver knows a newer
    /// generation than `at_least`), and returns its generation.
    pub fn reactivate(&mut self, at_least: Generation) -> Generation {
        self.generation = self.generation.max(at_least).next();
        self.generation
    }

    /// Records the activation of a remembered step; `None` when the step is not one of the history.
    pub fn activate(&mut self, step: &StepId) -> Option<Generation> {
        let Position { seq, step, commit, .. } = self.history.iter().find(|known| known.step == *step)?.clone();
        self.applied = Some(Applied { seq, step, commit });
        self.generation = self.generation.next();
        Some(self.generation)
    }

    /// Records that what is applied is healthy; gives whether that was news.
    pub fn healthy(&mut self) -> bool {
        let Some(applied) = &self.applied else { return false };
        let news = self.healthy.insert(self.generation, applied.step).is_none();
        while self.healthy.len() > MAX_HISTORY {
            self.healthy.pop_first();
        }
        news
    }

    pub(crate) fn was_healthy(&self, step: &StepId) -> bool {
        self.healthy.values().any(|healthy| healthy == step)
    }
}
