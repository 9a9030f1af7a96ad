//! One step: a commit against the policy in its first parent's tree.

use crate::introduce::commit;
use crate::introduction::Content;
use crate::objects::{ObjectId, ObjectKind, ObjectSet};
use crate::offer::Clock;
use crate::policy::Policy;
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use crate::state::{Position, TrustState, next_step};
use crate::statement::{Intent, SignedStatement};
use crate::tree::Trees;
use crate::verified::Commit;
use crate::votes::{Scales, StepTarget, Votes};
use machined_ids::Fingerprint;
use std::collections::BTreeSet;

/// What the next step is judged against.
pub(crate) struct Parent {
    pub(crate) position: Position,
    pub(crate) policy: Policy,
    pub(crate) tree_id: ObjectId,
}

impl Parent {
    pub(crate) fn of(commit: &Commit) -> Self {
        Parent { position: commit.position.clone(), policy: commit.policy.clone(), tree_id: commit.tree_id }
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
    pub(crate) revoked: BTreeSet<Fingerprint>,
    pub(crate) trees: Trees<'a>,
}

impl Run<'_> {
    /// One step P -> C, by the policy in tree(P).
    pub(crate) fn step(&mut self, parent: &Parent, id: &ObjectId) -> Result<Judged, Refusal> {
        let bytes = self.objects.get(id, ObjectKind::Commit)?;
        let raw = RawCommit::parse(bytes, self.objects.format())?;
        let content = Content::read(&mut self.trees, bytes, &raw)?;
        let (seq, step) = (parent.position.seq.next(), next_step(&parent.position.step, &content.tree));
        let own = Policy::parse(&content.policy_files);
        let scales = Scales { policy: &parent.policy, own: own.as_ref().ok(), revoked: &self.revoked };
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
            subject: raw.subject().to_owned(),
        };
        if let Some(twin) = self.state.history().iter().find(|known| known.seq == seq) {
            let commit = accept_twin(self.state, position, twin, content.tree_id, own?)?;
            return Ok(Judged { commit, late: None });
        }
        self.authorise(parent, position, content.tree_id, own?, &votes)
    }

    fn authorise(
        &mut self,
        parent: &Parent,
        position: Position,
        tree_id: ObjectId,
        own: Policy,
        votes: &Votes,
    ) -> Result<Judged, Refusal> {
        let changes = self.trees.changes(&parent.tree_id, &tree_id)?;
        let approvals = votes.approvals(Intent::Release, None);
        parent.policy.authorise(&changes, &approvals, &own)?;
        let late = if votes.can_expire(Intent::Release) {
            let in_time = votes.approvals(Intent::Release, Some((self.clock, None)));
            parent.policy.authorise(&changes, &in_time, &own).err()
        } else {
            None
        };
        let mut commit = commit(self.state, position, tree_id, own);
        (commit.changes, commit.approvals) = (changes, approvals.principals);
        commit.statements = votes.statements(Intent::Release);
        Ok(Judged { commit, late })
    }
}

/// At or below accepted only the very same step is met again, in another commit: that step has its authority already.
fn accept_twin(
    state: &TrustState,
    mut position: Position,
    twin: &Position,
    tree_id: ObjectId,
    policy: Policy,
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
    (position.signer, position.key) = (twin.signer.clone(), twin.key.clone());
    Ok(commit(state, position, tree_id, policy))
}
