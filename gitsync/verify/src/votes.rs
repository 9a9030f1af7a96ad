//! Who approved a step: the commit's own signature and the release statements that name it, weighed by the parent's policy.
//!
//! A signature that does not count is no reason to refuse by itself: others may carry the step. It is kept as the reason to show
//! when approvals are missing.

use crate::armour;
use crate::introduction::Introduction;
use crate::limits::MAX_COMMIT_STATEMENTS;
use crate::policy::{Approvals, Binding, Policy, Use};
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use crate::revocation::Revocation;
use crate::statement::{Intent, RELEASE_TRAILER, Release, SignedStatement, Statement};
use jiff::Timestamp;
use machined_access::verify_signature;
use machined_ids::{Epoch, Fingerprint, PrincipalName, Seq, StepId, TreeHash};
use std::collections::{BTreeMap, BTreeSet};

/// The namespace that git signs commits under.
const NAMESPACE: &str = "git";

/// The trailer that ties a commit to one cluster and one branch.
pub const TARGET_TRAILER: &str = "Cairn-Target";

/// The trailer's value for a cluster, as the hook writes it.
#[must_use]
pub fn target_of(introduction: &Introduction) -> String {
    format!("{} {}", introduction.cluster, introduction.deploy_ref)
}

/// The step that is judged, field by field as a release statement names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepTarget<'a> {
    pub(crate) introduction: &'a Introduction,
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
    pub(crate) parent: StepId,
    pub(crate) step: StepId,
    /// Policy hash of the parent's tree.
    pub(crate) policy: TreeHash,
}

impl StepTarget<'_> {
    /// The first field in which a statement names something else; `None` when it names this step.
    fn wrong_field(&self, release: &Release) -> Option<&'static str> {
        let Release { cluster, deploy_ref, epoch, seq, parent, step, policy, not_after: _, intent: _ } = release;
        let fields = [
            ("cluster", *cluster == self.introduction.cluster),
            ("ref", *deploy_ref == self.introduction.deploy_ref),
            ("epoch", *epoch == self.epoch),
            ("seq", *seq == self.seq),
            ("parent", *parent == self.parent),
            ("step", *step == self.step),
            ("policy", *policy == self.policy),
        ];
        fields.into_iter().find(|(_, right)| !right).map(|(name, _)| name)
    }

    /// Whether a statement that came beside the commits is about this place in history, so that it is worth a word.
    fn concerns(&self, release: &Release) -> bool {
        release.step == self.step || (release.epoch, release.seq) == (self.epoch, self.seq)
    }
}

/// One signature that counts.
#[derive(Debug, Clone)]
struct Vote {
    principal: PrincipalName,
    key: Fingerprint,
    /// Approves as anybody does; a key for recovery alone does not.
    approves: bool,
    recovery: bool,
    not_after: Option<Timestamp>,
    intent: Intent,
    statement: Option<SignedStatement>,
}

/// Everything that was said for a step.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    votes: Vec<Vote>,
    discounted: Vec<Refusal>,
    /// Who signed the commit itself, whether or not it counted.
    signer: Option<(PrincipalName, Fingerprint)>,
    key: Option<Fingerprint>,
}

/// By whom and how a signature is weighed.
pub(crate) struct Scales<'a> {
    /// The parent's policy, which judges.
    pub(crate) policy: &'a Policy,
    /// The policy that the commit brings, when it can be read.
    pub(crate) own: Option<&'a Policy>,
    /// Keys that were revoked otherwise than by that policy; `None` where a proven mark says that the history stands.
    pub(crate) revoked: Option<&'a BTreeMap<Fingerprint, Revocation>>,
}

impl Votes {
    /// Weighs all that was said for a step.
    pub(crate) fn weigh(
        commit: &RawCommit<'_>,
        scales: &Scales<'_>,
        target: &StepTarget<'_>,
        offered: &[SignedStatement],
    ) -> Votes {
        let mut votes = Votes::default();
        if let Err(refusal) = votes.own_signature(commit, scales, target.introduction) {
            votes.discounted.push(refusal);
        }
        for value in commit.trailers(RELEASE_TRAILER).take(MAX_COMMIT_STATEMENTS) {
            match SignedStatement::from_trailer(value) {
                Ok(signed) => votes.release(&signed, scales, target),
                Err(refusal) => votes.discounted.push(refusal),
            }
        }
        for signed in offered {
            match signed.statement() {
                Statement::Release(release) if target.concerns(release) => votes.release(signed, scales, target),
                Statement::Release(_) | Statement::Beacon(_) | Statement::Revoke(_) | Statement::Recovery(_) => {}
            }
        }
        votes
    }

    fn own_signature(
        &mut self,
        commit: &RawCommit<'_>,
        scales: &Scales<'_>,
        introduction: &Introduction,
    ) -> Result<(), Refusal> {
        let Some(armour) = &commit.signature else { return Ok(()) };
        armour::check(armour)?;
        let signed = verify_signature(NAMESPACE, &commit.signed, armour)
            .map_err(|error| armour::refuse(&error, "sign the commit again: git commit --amend -S"))?;
        self.key = Some(signed.key.clone());
        let (principal, uses) = scales.known(&signed.key)?;
        self.signer = Some((principal.clone(), signed.key.clone()));
        let approves = scales.usable(principal, &signed.key, uses, Use::Commit, signed.touched)?;
        if scales.policy.binding() == Binding::Trailer {
            check_target(commit, introduction)?;
        }
        self.votes.push(Vote {
            principal: principal.clone(),
            key: signed.key,
            approves,
            recovery: uses.contains(&Use::Recovery),
            not_after: None,
            intent: Intent::Release,
            statement: None,
        });
        Ok(())
    }

    fn release(&mut self, signed: &SignedStatement, scales: &Scales<'_>, target: &StepTarget<'_>) {
        match weigh_release(signed, scales, target) {
            Ok(vote) => self.votes.push(vote),
            Err(refusal) => self.discounted.push(refusal),
        }
    }

    /// Who approved, of one intent. With a time, what has ended by then is left out.
    pub(crate) fn approvals(&self, intent: Intent, at: Option<Timestamp>) -> Approvals {
        let mut approvals = Approvals { discounted: self.discounted.clone(), ..Approvals::default() };
        for vote in self.votes.iter().filter(|vote| vote.intent == intent) {
            if let (Some(end), Some(now)) = (vote.not_after, at)
                && end < now
            {
                let message =
                    format!("{}'s approval ended at {end}; ask for another: cairnctl approve", vote.principal);
                approvals.discounted.insert(0, Refusal::new(Reason::Expired, message));
                continue;
            }
            if vote.approves {
                approvals.principals.insert(vote.principal.clone());
            }
            if vote.recovery {
                approvals.recovery.insert(vote.principal.clone());
            }
        }
        approvals
    }

    /// Whether any approval of an intent has an end.
    pub(crate) fn can_expire(&self, intent: Intent) -> bool {
        self.votes.iter().any(|vote| vote.intent == intent && vote.not_after.is_some())
    }

    /// Until when each of these members approves by break-glass. An approval without an end is none, and nobody else's matters: no
    /// statement of theirs can take an emergency's approval away.
    pub(crate) fn emergency_ends(&self, members: &BTreeSet<PrincipalName>) -> BTreeMap<PrincipalName, Timestamp> {
        let mut ends = BTreeMap::<PrincipalName, Timestamp>::new();
        for vote in self.votes.iter().filter(|vote| vote.intent == Intent::Breakglass && vote.approves) {
            let Some(end) = vote.not_after.filter(|_| members.contains(&vote.principal)) else { continue };
            let latest = ends.entry(vote.principal.clone()).or_insert(end);
            *latest = end.max(*latest);
        }
        ends
    }

    /// The keys that counted for an intent.
    pub(crate) fn keys(&self, intent: Intent) -> BTreeSet<Fingerprint> {
        self.votes.iter().filter(|vote| vote.intent == intent).map(|vote| vote.key.clone()).collect()
    }

    /// The statements that counted for an intent.
    pub(crate) fn statements(&self, intent: Intent) -> Vec<SignedStatement> {
        let votes = self.votes.iter().filter(|vote| vote.intent == intent);
        votes.filter_map(|vote| vote.statement.clone()).collect()
    }

    /// Whom to name as the one behind the step: who signed the commit, when the policy knows them, or else the first who approved.
    pub(crate) fn signer(&self) -> (Option<PrincipalName>, Option<Fingerprint>) {
        let approver = || self.votes.first().map(|vote| (vote.principal.clone(), vote.key.clone()));
        match self.signer.clone().or_else(approver) {
            Some((principal, key)) => (Some(principal), Some(key)),
            None => (None, self.key.clone()),
        }
    }
}

impl<'a> Scales<'a> {
    fn known(&self, key: &Fingerprint) -> Result<(&'a PrincipalName, &'a BTreeSet<Use>), Refusal> {
        if let Some(found) = self.policy.key(key) {
            return Ok(found);
        }
        if self.own.is_some_and(|own| own.key(key).is_some()) {
            let message =
                format!("key {key} is known only by the policy that this commit brings; have somebody else sign");
            return Err(Refusal::new(Reason::SelfAuthorised, message));
        }
        let message = format!("key {key} belongs to nobody in trust/; let root add it, or sign with a known one");
        Err(Refusal::new(Reason::UnknownKey, message))
    }

    /// Whether a key may be used so: it is there for that use (or for recovery alone), it was touched, and nobody revoked it.
    /// Gives whether it approves as anybody does. Root cannot stop a recovery key's use for recovery.
    fn usable(
        &self,
        principal: &PrincipalName,
        key: &Fingerprint,
        uses: &BTreeSet<Use>,
        wanted: Use,
        touched: Option<bool>,
    ) -> Result<bool, Refusal> {
        if !uses.contains(&wanted) && !uses.contains(&Use::Recovery) {
            let words: Vec<_> = uses.iter().map(|u| u.as_str()).collect();
            let (words, wanted) = (words.join(", "), wanted.as_str());
            let message = format!("{principal}'s key {key} is for {words} and not for {wanted}; sign with another key");
            return Err(Refusal::new(Reason::WrongUse, message));
        }
        if touched == Some(false) {
            let message = format!("{principal}'s hardware key signed without being touched; sign again and touch it");
            return Err(Refusal::new(Reason::NoTouch, message));
        }
        let own_end = self.revoked.and_then(|revoked| revoked.get(key)).is_some_and(|revoked| revoked.by_key);
        let stopped =
            self.revoked.is_some_and(|revoked| revoked.contains_key(key) || self.policy.revoked().contains_key(key));
        if own_end || stopped && !uses.contains(&Use::Recovery) {
            let message =
                format!("{principal}'s key {key} was revoked; sign with another key, and let root remove this one");
            return Err(Refusal::new(Reason::Revoked, message));
        }
        Ok(uses.contains(&wanted) && !stopped)
    }
}

fn weigh_release(signed: &SignedStatement, scales: &Scales<'_>, target: &StepTarget<'_>) -> Result<Vote, Refusal> {
    let Statement::Release(release) = signed.statement() else {
        let message = format!("a {RELEASE_TRAILER} trailer holds a statement of {}; remove it", signed.namespace());
        return Err(Refusal::new(Reason::WrongNamespace, message));
    };
    let (principal, uses) = scales.known(signed.key())?;
    let approves = scales.usable(principal, signed.key(), uses, Use::Statement, signed.touched())?;
    if let Some(field) = target.wrong_field(release) {
        let message = format!(
            "{principal}'s approval names another {field} than step {} has; ask for another: cairnctl approve",
            target.seq
        );
        return Err(Refusal::new(Reason::WrongTarget, message));
    }
    Ok(Vote {
        principal: principal.clone(),
        key: signed.key().clone(),
        approves,
        recovery: uses.contains(&Use::Recovery),
        not_after: release.not_after,
        intent: release.intent,
        statement: Some(signed.clone()),
    })
}

fn check_target(commit: &RawCommit<'_>, introduction: &Introduction) -> Result<(), Refusal> {
    let wanted = target_of(introduction);
    let found: Vec<_> = commit.trailers(TARGET_TRAILER).collect();
    let message = match found.as_slice() {
        [one] if *one == wanted => return Ok(()),
        [] => format!(
            "the message lacks the trailer \"{TARGET_TRAILER}: {wanted}\"; `cairnctl clone` installs the hook that adds it"
        ),
        [one] => format!(
            "the commit was signed for {one:?}, and this is {wanted:?}; sign it again here: git commit --amend -S"
        ),
        _ => format!("the message has {} {TARGET_TRAILER} trailers; leave one: git commit --amend -S", found.len()),
    };
    Err(Refusal::new(Reason::WrongTarget, message))
}
