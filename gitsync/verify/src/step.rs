//! One step: a commit against the policy in its first parent's tree.

use crate::break_glass::{Attempt, InForce, net_changes};
use crate::freshness;
use crate::introduce::commit;
use crate::introduction::Content;
use crate::objects::{ObjectId, ObjectKind, ObjectSet};
use crate::offer::Clock;
use crate::policy::Policy;
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use crate::revocation::Revocation;
use crate::state::{Position, TrustState, next_step};
use crate::statement::{Intent, SignedStatement};
use crate::tree::{Change, Trees};
use crate::verified::Commit;
use crate::votes::{Scales, StepTarget, Votes};
use machined_ids::{Fingerprint, Seq, TreeHash};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What the next step is judged against.
pub(crate) struct Parent {
    pub(crate) position: Position,
    pub(crate) policy: Arc<Policy>,
    pub(crate) tree_id: ObjectId,
}

impl Parent {
    pub(crate) fn of(commit: &Commit) -> Self {
        Parent { position: commit.position.clone(), policy: Arc::clone(&commit.policy), tree_id: commit.tree_id }
    }
}

/// A step that has its authority.
pub(crate) struct Judged {
    pub(crate) commit: Commit,
    /// Why it may not become accepted now: an approval that it needs has ended. History below a good tip does not ask.
    pub(crate) late: Option<Refusal>,
}

/// One judgement of a chain.
pub(crate) struct Run<'a> {
    pub(crate) state: &'a TrustState,
    pub(crate) objects: &'a ObjectSet,
    pub(crate) statements: &'a [SignedStatement],
    pub(crate) clock: Clock,
    /// Keys that were revoked, by what was recorded and by what came now.
    pub(crate) revoked: BTreeMap<Fingerprint, Revocation>,
    /// The last step that a majority of the control plane marked: no revocation breaks history up to there.
    pub(crate) proven_to: Option<Seq>,
    /// The break-glass that waits for its ratification.
    pub(crate) break_glass: Option<InForce>,
    pub(crate) trees: Trees<'a>,
    /// Policies by their hash: most steps leave theirs alone, and reading one takes longer than all else.
    pub(crate) policies: HashMap<TreeHash, Arc<Policy>>,
}

impl Run<'_> {
    /// One step P -> C, by the policy in tree(P).
    pub(crate) fn step(&mut self, parent: &Parent, id: &ObjectId) -> Result<Judged, Refusal> {
        let bytes = self.objects.get(id, ObjectKind::Commit)?;
        let raw = RawCommit::parse(bytes, self.objects.format())?;
        let content = Content::read(&mut self.trees, bytes, &raw)?;
        let (seq, step) = (parent.position.seq.next(), next_step(&parent.position.step, &content.tree));
        let own = self.policy(&content);
        let revoked = self.proven_to.is_none_or(|proven| seq > proven).then_some(&self.revoked);
        let scales = Scales { policy: &parent.policy, own: own.as_deref().ok(), revoked };
        let target = StepTarget {
            introduction: self.state.introduction(),
            epoch: self.state.epoch(),
            seq,
            parent: parent.position.step,
            step,
            policy: parent.position.policy,
        };
        let votes = Votes::weigh(&raw, &scales, &target, self.statements);
        let (signer, key) = votes.signer();
        let position = Position {
            seq,
            step,
            commit: id.to_commit_id(),
            commit_sha256: content.sha256,
            tree: content.tree,
            policy: content.policy_hash,
            signer,
            key,
            keys: votes.keys(Intent::Release),
            subject: raw.subject().to_owned(),
        };
        if let Some(twin) = self.state.history().iter().find(|known| known.seq == seq) {
            let commit = accept_twin(self.state, position, twin, content.tree_id, own?)?;
            return Ok(Judged { commit, late: None });
        }
        self.authorise(parent, position, content.tree_id, own?, &votes)
    }

    /// Takes over the keys that a step's policy revokes: for ever, also when a later step of the same judgement no longer says so.
    pub(crate) fn follow(&mut self, policy: &Policy) {
        for (key, last_good) in policy.revoked() {
            let (epoch, last_good) = (self.state.epoch(), *last_good);
            let revocation = Revocation { epoch, last_good, by_root: true, by_key: false };
            self.revoked.entry(key.clone()).or_insert(revocation);
        }
    }

    fn policy(&mut self, content: &Content) -> Result<Arc<Policy>, Refusal> {
        if let Some(known) = self.policies.get(&content.policy_hash) {
            return Ok(Arc::clone(known));
        }
        let read = Arc::new(content.policy(&self.trees)?);
        self.policies.insert(content.policy_hash, Arc::clone(&read));
        Ok(read)
    }

    fn authorise(
        &mut self,
        parent: &Parent,
        position: Position,
        tree_id: ObjectId,
        own: Arc<Policy>,
        votes: &Votes,
    ) -> Result<Judged, Refusal> {
        check_floors(self.state, &parent.policy, &own)?;
        let changes = self.trees.changes(&parent.tree_id, &tree_id)?;
        let net = match &self.break_glass {
            Some(glass) => net_changes(glass, &self.trees, &tree_id, changes.clone())?,
            None => changes.clone(),
        };
        let approvals = votes.approvals(Intent::Release, None);
        if let Err(refusal) = parent.policy.authorise(&net, &approvals, &own) {
            return self.in_emergency(parent, position, (tree_id, changes, own), votes, refusal);
        }
        let late = if votes.can_expire(Intent::Release) {
            let now = self.clock.earliest(self.state.clock_floor());
            parent.policy.authorise(&net, &votes.approvals(Intent::Release, now), &own).err()
        } else {
            None
        };
        let mut commit = commit(self.state, position, tree_id, own);
        (commit.changes, commit.approvals) = (changes, approvals.principals);
        commit.statements = votes.statements(Intent::Release);
        self.break_glass = None;
        Ok(Judged { commit, late })
    }

    /// A step without its ordinary authority: by break-glass, when somebody signed one and none waits already.
    fn in_emergency(
        &mut self,
        parent: &Parent,
        mut position: Position,
        (tree_id, changes, own): (ObjectId, Vec<Change>, Arc<Policy>),
        votes: &Votes,
        mut ordinary: Refusal,
    ) -> Result<Judged, Refusal> {
        if let Some(glass) = &self.break_glass {
            let step = glass.seq;
            ordinary.message += &format!(
                "; step {step} came by break-glass, and until it is ratified the difference since then counts"
            );
            return Err(ordinary);
        }
        if votes.statements(Intent::Breakglass).is_empty() {
            return Err(ordinary);
        }
        let Some(rule) = parent.policy.break_glass() else {
            ordinary.message += "; the policy has no break-glass, so no statement for one counts";
            return Err(ordinary);
        };
        let attempt = Attempt {
            base: &parent.position,
            policy: &parent.policy,
            rule,
            base_tree: &parent.tree_id,
            changes: &changes,
            votes,
            now: freshness::now(self.state, self.clock),
        };
        let (glass, approvals, late) = attempt.judge(&position, &self.trees)?;
        position.keys = votes.keys(Intent::Breakglass);
        let mut commit = commit(self.state, position, tree_id, own);
        (commit.changes, commit.approvals) = (changes, approvals);
        commit.statements = votes.statements(Intent::Breakglass);
        commit.break_glass = Some(glass.clone());
        self.break_glass = Some(glass);
        Ok(Judged { commit, late })
    }
}

/// Floors only rise.
fn check_floors(state: &TrustState, parent: &Policy, own: &Policy) -> Result<(), Refusal> {
    let (floor, own) = (state.floors().raised_to(parent.floors()), own.floors());
    if own.raised_to(floor) == own {
        return Ok(());
    }
    let message = format!(
        "a floor only rises, and it is image={} seq={}; write it as it was: git checkout HEAD~1 -- {}",
        floor.image,
        floor.seq,
        crate::policy::ROOT_FILE
    );
    Err(Refusal::new(Reason::BelowFloor, message).at_path(crate::policy::ROOT_FILE))
}

/// At or below accepted only the very same step is met again, in another commit: that step has its authority already.
fn accept_twin(
    state: &TrustState,
    mut position: Position,
    twin: &Position,
    tree_id: ObjectId,
    policy: Arc<Policy>,
) -> Result<Commit, Refusal> {
    if position.step != twin.step {
        let message = format!(
            "the branch was rewritten: step {} is accepted as commit {}; push on top of that one",
            twin.seq,
            twin.commit.short()
        );
        return Err(Refusal::new(Reason::NotDescendant, message));
    }
    // Whoever made the twin gains nothing by it: the step stays with who was first seen to sign it.
    (position.signer, position.key, position.keys) = (twin.signer.clone(), twin.key.clone(), twin.keys.clone());
    Ok(commit(state, position, tree_id, policy))
}
