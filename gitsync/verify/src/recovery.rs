//! Re-introduction: the only step that is not fast-forward, by accepted's recovery threshold.
//!
//! ```text
//! offered --threshold--> pending --delay, or presence--> begun (new epoch)
//!                           |  another one of that epoch       |
//!                           +-------> Equivocation <-----------+   ended only by a higher epoch
//! ```
//!
//! Who may do it was recorded when the policy was accepted: the commits of the old history need not be there any more.

use crate::equivocation::{Equivocation, Side};
use crate::introduce::commit;
use crate::introduction::Content;
use crate::limits::MAX_PENDING_RECOVERIES;
use crate::objects::{ObjectId, ObjectKind, ObjectSet};
use crate::offer::Offer;
use crate::policy::{Policy, Use};
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use crate::state::{Position, TrustState, next_step, recovery_step};
use crate::statement::{Recovery, SignedStatement, Statement};
use crate::tree::Trees;
use crate::verified::{Commit, Verified};
use jiff::{SignedDuration, Timestamp};
use machined_ids::{CommitId, Digest, Epoch, Fingerprint, PrincipalName, Seq};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Who may begin a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RecoveryKeys {
    threshold: u32,
    delay_seconds: i64,
    keys: BTreeMap<Fingerprint, PrincipalName>,
}

impl RecoveryKeys {
    pub(crate) fn of(policy: &Policy) -> Option<Self> {
        let quorum = policy.recovery()?;
        let of_member = |name: &PrincipalName| {
            let keys = policy.principals().get(name).into_iter().flat_map(|principal| &principal.keys);
            let keys = keys.filter(|(_, uses)| uses.contains(&Use::Recovery));
            keys.map(|(key, _)| (key.clone(), name.clone())).collect::<Vec<_>>()
        };
        Some(RecoveryKeys {
            threshold: quorum.threshold,
            delay_seconds: policy.recovery_delay().as_secs(),
            keys: quorum.members.iter().flat_map(of_member).collect(),
        })
    }

    pub(crate) const fn delay(&self) -> SignedDuration {
        SignedDuration::from_secs(self.delay_seconds)
    }

    fn signers(&self, keys: &BTreeSet<Fingerprint>) -> BTreeSet<PrincipalName> {
        keys.iter().filter_map(|key| self.keys.get(key).cloned()).collect()
    }

    fn suffices(&self, keys: &BTreeSet<Fingerprint>) -> bool {
        self.signers(keys).len() >= self.threshold as usize
    }
}

/// A recovery with enough signatures, which waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PendingRecovery {
    /// The text that was signed.
    pub body: String,
    /// The keys that signed it.
    pub keys: BTreeSet<Fingerprint>,
    /// Since when it waits; `None` until the time is known.
    pub since: Option<Timestamp>,
}

impl PendingRecovery {
    /// SHA-256 of its body: what somebody at a machine confirms.
    #[must_use]
    pub fn digest(&self) -> Digest {
        body_digest(&self.body)
    }

    /// The epoch that it begins.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        read(&self.body).map(|recovery| recovery.new_epoch)
    }

    /// The commit to start from; its objects are needed although no accepted commit leads there.
    #[must_use]
    pub fn commit(&self) -> Option<CommitId> {
        read(&self.body).map(|recovery| recovery.commit)
    }
}

/// SHA-256 of a recovery statement's body.
#[must_use]
pub fn body_digest(body: &str) -> Digest {
    Digest::from_bytes(Sha256::digest(body).into())
}

/// The recovery that this epoch began with, to know another one of the same epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Begun {
    body: String,
    by: RecoveryKeys,
}

/// What the recoveries that are known come to.
pub(crate) struct Recoveries {
    pub(crate) pending: Vec<PendingRecovery>,
    /// Two of one epoch.
    pub(crate) equivocation: Option<Equivocation>,
    /// The one whose time has come.
    pub(crate) due: Option<(Recovery, PendingRecovery)>,
    /// The statements behind those that wait, or that contradict the one that this epoch began with.
    pub(crate) counted: Vec<SignedStatement>,
}

impl Recoveries {
    /// Looks at what was offered and what waits.
    pub(crate) fn of(state: &TrustState, offer: &Offer<'_>, ignored: &mut Vec<Refusal>) -> Recoveries {
        let mut pending = state.trust.pending.clone();
        let offered = offered(state, offer.statements, ignored);
        let contradicts_begun = offered.iter().find(|(body, recovery, keys)| {
            let begun = state.trust.begun.as_ref();
            recovery.new_epoch == state.epoch() && begun.is_some_and(|b| b.body != *body && b.by.suffices(keys))
        });
        let mut equivocation = contradicts_begun.map(|(_, other, _)| {
            let here = Side { step: None, commit: state.history()[0].commit.clone(), machine: None };
            two_stories(state, state.epoch(), here, other)
        });
        let contradicting = contradicts_begun.map(|(body, ..)| body.clone());
        let barred = state.equivocation().map_or(state.epoch(), |known| known.epoch.max(state.epoch()));
        for (body, recovery, keys) in &offered {
            let right = recovery.old_epoch == state.epoch() && recovery.new_epoch > barred;
            let known = pending.iter().any(|waiting| waiting.body == *body);
            let by = state.trust.recovery.as_ref();
            if right && !known && pending.len() < MAX_PENDING_RECOVERIES && by.is_some_and(|by| by.suffices(keys)) {
                pending.push(PendingRecovery { body: body.clone(), keys: keys.clone(), since: None });
            }
        }
        for waiting in &mut pending {
            waiting.since = waiting.since.or(offer.clock.now);
        }
        let read: Vec<(Recovery, PendingRecovery)> = pending
            .iter()
            .filter_map(|waiting| Some((read(&waiting.body)?, waiting.clone())))
            .filter(|(recovery, waiting)| {
                recovery.new_epoch > barred
                    && state.trust.recovery.as_ref().is_some_and(|by| by.suffices(&waiting.keys))
            })
            .collect();
        let highest = read.iter().map(|(recovery, _)| recovery.new_epoch).max();
        let mut highest_ones = read.into_iter().filter(|(recovery, _)| Some(recovery.new_epoch) == highest);
        let (first, second) = (highest_ones.next(), highest_ones.next());
        if let (Some((one, _)), Some((other, _))) = (&first, &second) {
            let side = Side { step: None, commit: one.commit.clone(), machine: None };
            equivocation = Some(two_stories(state, one.new_epoch, side, other));
        }
        let due = first.filter(|(_, waiting)| equivocation.is_none() && is_due(state, waiting, offer));
        let counts = |signed: &&SignedStatement| {
            let Statement::Recovery(recovery) = signed.statement() else { return false };
            let body = signed.statement().body();
            let known = contradicting.as_ref() == Some(&body) || pending.iter().any(|waiting| waiting.body == body);
            known && usable(state, signed, recovery).is_ok()
        };
        let counted = offer.statements.iter().filter(counts).cloned().collect();
        Recoveries { pending, equivocation, due, counted }
    }
}

fn is_due(state: &TrustState, waiting: &PendingRecovery, offer: &Offer<'_>) -> bool {
    let delay = state.trust.recovery.as_ref().map(RecoveryKeys::delay);
    let waited = || offer.clock.now.zip(waiting.since).map(|(now, since)| now.duration_since(since));
    offer.presence.is_for(&waiting.digest()) || waited().zip(delay).is_some_and(|(waited, delay)| waited >= delay)
}

fn two_stories(state: &TrustState, epoch: Epoch, here: Side, other: &Recovery) -> Equivocation {
    let there = Side { step: None, commit: other.commit.clone(), machine: None };
    Equivocation { epoch, parent: recovery_step(state.introduction(), epoch), sides: [here, there] }
}

fn read(body: &str) -> Option<Recovery> {
    match Statement::from_body(body) {
        Ok(Statement::Recovery(recovery)) => Some(recovery),
        Ok(Statement::Release(_) | Statement::Beacon(_) | Statement::Revoke(_)) | Err(_) => None,
    }
}

/// Recoveries for this cluster, each with the usable keys that signed it.
fn offered(
    state: &TrustState,
    statements: &[SignedStatement],
    ignored: &mut Vec<Refusal>,
) -> Vec<(String, Recovery, BTreeSet<Fingerprint>)> {
    let mut found: BTreeMap<&Recovery, BTreeSet<Fingerprint>> = BTreeMap::new();
    for signed in statements {
        let Statement::Recovery(recovery) = signed.statement() else { continue };
        match usable(state, signed, recovery) {
            Ok(()) => _ = found.entry(recovery).or_default().insert(signed.key().clone()),
            Err(refusal) => ignored.push(refusal),
        }
    }
    let own = |(recovery, keys): (&Recovery, _)| (Statement::Recovery(recovery.clone()).body(), recovery.clone(), keys);
    found.into_iter().map(own).collect()
}

fn usable(state: &TrustState, signed: &SignedStatement, recovery: &Recovery) -> Result<(), Refusal> {
    let key = signed.key();
    let refuse = |reason, what: &str| {
        let message =
            format!("a recovery to commit {}: {what}; sign another: cairnctl recover", recovery.commit.short());
        Err(Refusal::new(reason, message))
    };
    let introduction = state.introduction();
    if (recovery.cluster, &recovery.deploy_ref) != (introduction.cluster, &introduction.deploy_ref) {
        return refuse(Reason::WrongTarget, "it is for another cluster or branch");
    }
    // One that led here, offered again, says nothing new.
    if recovery.old_epoch < state.epoch() && recovery.new_epoch < state.epoch() {
        return refuse(Reason::WrongTarget, "it is for an epoch that is over");
    }
    let by = [state.trust.recovery.as_ref(), state.trust.begun.as_ref().map(|begun| &begun.by)];
    if !by.into_iter().flatten().any(|by| by.keys.contains_key(key)) {
        return refuse(Reason::UnknownKey, &format!("key {key} is not one of recovery's"));
    }
    if signed.touched() == Some(false) {
        return refuse(Reason::NoTouch, "it was signed without a touch");
    }
    if state.revocations().get(key).is_some_and(|revoked| revoked.by_key) {
        return refuse(Reason::Revoked, &format!("key {key} revoked itself"));
    }
    Ok(())
}

/// The first commit of a new epoch: pinned by the statement, judged only for its form, its policy and the floors.
pub(crate) fn begin(
    state: &TrustState,
    objects: &ObjectSet,
    (recovery, waiting): &(Recovery, PendingRecovery),
) -> Result<(TrustState, Verified<Commit>), Refusal> {
    let id = ObjectId::of_commit(&recovery.commit);
    let bytes = objects.get(&id, ObjectKind::Commit)?;
    let raw = RawCommit::parse(bytes, objects.format())?;
    let mut trees = Trees::new(objects);
    let content = Content::read(&mut trees, bytes, &raw)?;
    if (recovery.commit_sha256, recovery.policy) != (content.sha256, content.policy_hash) {
        let message = "the repository's commit is not the one that recovery signed; compare both with who signed: \
                       cairnctl recover";
        return Err(Refusal::new(Reason::IdMismatch, message));
    }
    let policy = content.policy(&trees)?;
    let floor = state.floors().image;
    if policy.floors().image < floor {
        let message = format!("floors survive a recovery: say `floor image={floor}` in trust/root.kdl, and sign again");
        return Err(Refusal::new(Reason::BelowFloor, message).at_path(crate::policy::ROOT_FILE));
    }
    let by = state.trust.recovery.clone().expect("because a recovery is due only by those who may");
    let approvals = by.signers(&waiting.keys);
    let position = Position {
        seq: Seq(0),
        step: next_step(&recovery_step(state.introduction(), recovery.new_epoch), &content.tree),
        commit: recovery.commit.clone(),
        commit_sha256: content.sha256,
        tree: content.tree,
        policy: content.policy_hash,
        signer: approvals.first().cloned(),
        key: waiting.keys.first().cloned(),
        keys: waiting.keys.clone(),
        subject: raw.subject().to_owned(),
    };
    let mut first = commit(state, position, content.tree_id, Arc::new(policy));
    (first.epoch, first.approvals) = (recovery.new_epoch, approvals);
    first.begun = Some(Begun { body: waiting.body.clone(), by });
    let (mut begun, first) = (state.clone(), Verified::new(first));
    begun.accept(&first);
    Ok((begun, first))
}
