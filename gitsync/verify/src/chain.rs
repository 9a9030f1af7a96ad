//! The rule: from accepted to the tip, by first parents, each step by its parent's policy.

use crate::introduction::{Content, Introduction};
use crate::limits::MAX_CHAIN_COMMITS;
use crate::objects::{ObjectId, ObjectKind, ObjectSet};
use crate::policy::Policy;
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use crate::signature::{Signer, weigh};
use crate::state::{Position, TrustState, next_step, root_step};
use crate::tree::Trees;
use crate::verified::{Commit, Verified};
use machined_ids::{CommitId, Seq};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// What a judgement of a tip came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The steps that passed, oldest first; empty when there was nothing new.
    pub steps: Vec<Verified<Commit>>,
    /// Why the chain ends before the tip, when it does. What passed below stands: it is the longest valid chain.
    pub refused: Option<Refusal>,
}

/// Starts trust from an introduction whose commit is among the objects.
///
/// # Errors
/// `IntroductionConflict` when the commit is not the one that was pinned; whatever is wrong with its form or policy.
pub fn introduce(introduction: &Introduction, objects: &ObjectSet) -> Result<(TrustState, Verified<Commit>), Refusal> {
    let id = ObjectId::of_commit(&introduction.commit);
    let bytes = objects.get(&id, ObjectKind::Commit)?;
    let raw = RawCommit::parse(bytes, objects.format()).map_err(|r| r.of_commit(&introduction.commit))?;
    let content =
        Content::read(&mut Trees::new(objects), bytes, &raw).map_err(|r| r.of_commit(&introduction.commit))?;
    let pinned = (introduction.commit_sha256, introduction.tree, introduction.policy);
    if pinned != (content.sha256, content.tree, content.policy_hash) {
        let message = "the repository's commit is not the one in the introduction; compare both with their author";
        return Err(Refusal::new(Reason::IntroductionConflict, message).of_commit(&introduction.commit));
    }
    let policy = Policy::parse(&content.policy_files).map_err(|r| r.of_commit(&introduction.commit))?;
    let position = Position {
        seq: Seq(0),
        step: next_step(&root_step(introduction), &content.tree),
        commit: introduction.commit.clone(),
        commit_sha256: content.sha256,
        tree: content.tree,
        policy: content.policy_hash,
        signer: None,
        key: None,
        subject: raw.subject().to_owned(),
    };
    let state = TrustState::begin(introduction.clone(), position.clone());
    let commit = commit(&state, position, raw.tree, policy);
    Ok((state, Verified::new(commit)))
}

/// Reads a position of the history again, to render it or to serve it: accepted once, checked against what was recorded.
///
/// # Errors
/// `MissingObject`; `IdMismatch` when the objects are not what was accepted.
pub fn recall(state: &TrustState, objects: &ObjectSet, seq: Seq) -> Result<Verified<Commit>, Refusal> {
    let known = state.history().iter().find(|known| known.seq == seq);
    let position = known.ok_or_else(|| {
        Refusal::new(
            Reason::MissingObject,
            format!("step {seq} is no longer remembered; push it again as a new commit"),
        )
    })?;
    let (base, policy, tree_id) = Base::read(&mut Trees::new(objects), objects, position)?;
    Ok(Verified::new(commit(state, base, tree_id, policy)))
}

/// Judges everything from accepted to `tip`.
///
/// # Errors
/// [`Refusal`] when not even the first step could be looked at: the tip does not continue the chain, or is not all there.
pub fn verify(state: &TrustState, objects: &ObjectSet, tip: &CommitId) -> Result<Chain, Refusal> {
    let (known, path) = walk(state, objects, tip).map_err(|refusal| refusal.of_commit(tip))?;
    let mut trees = Trees::new(objects);
    let (mut position, mut policy, mut tree_id) = Base::read(&mut trees, objects, &state.history()[known])?;
    let mut chain = Chain { steps: Vec::new(), refused: None };
    for id in &path {
        match step(state, objects, &mut trees, (&position, &policy, &tree_id), id) {
            Ok(commit) => {
                (position, policy, tree_id) = (commit.position.clone(), commit.policy.clone(), commit.tree_id);
                chain.steps.push(Verified::new(commit));
            }
            Err(refusal) => {
                chain.refused = Some(refusal.of_commit(&id.to_commit_id()));
                break;
            }
        }
    }
    if chain.refused.is_none() && position.seq < state.accepted().seq {
        return Err(older(state, tip));
    }
    // Twins that end early move nothing: accepted stays where it is.
    if position.seq < state.accepted().seq {
        chain.steps.clear();
    }
    Ok(chain)
}

fn older(state: &TrustState, tip: &CommitId) -> Refusal {
    let accepted = &state.accepted().commit;
    let message = format!(
        "the source offers an older commit than the accepted {}; push the branch forward again, a revert is a new commit",
        accepted.short()
    );
    Refusal::new(Reason::NotDescendant, message).of_commit(tip)
}

/// From the tip back to a remembered commit: its place in the history, and the commits above it, oldest first.
fn walk(state: &TrustState, objects: &ObjectSet, tip: &CommitId) -> Result<(usize, Vec<ObjectId>), Refusal> {
    let (mut path, mut at) = (Vec::new(), ObjectId::of_commit(tip));
    loop {
        let id = at.to_commit_id();
        if let Some(known) = state.history().iter().rposition(|position| position.commit == id) {
            if path.is_empty() && known + 1 != state.history().len() {
                return Err(older(state, tip));
            }
            path.reverse();
            return Ok((known, path));
        }
        if path.len() >= MAX_CHAIN_COMMITS {
            let message =
                format!("more than {MAX_CHAIN_COMMITS} commits since the accepted one, or a rewritten branch");
            return Err(Refusal::new(Reason::Limit, message));
        }
        let commit = RawCommit::parse(objects.get(&at, ObjectKind::Commit)?, objects.format())?;
        path.push(at);
        at = *commit.parents.first().ok_or_else(|| {
            let message = format!(
                "the accepted commit {} is not among its first parents; rebase onto it, or merge with it as first parent",
                state.accepted().commit.short()
            );
            Refusal::new(Reason::NotDescendant, message)
        })?;
    }
}

/// A remembered position, read again from objects.
struct Base;

impl Base {
    fn read(
        trees: &mut Trees<'_>,
        objects: &ObjectSet,
        position: &Position,
    ) -> Result<(Position, Policy, ObjectId), Refusal> {
        let bytes = objects.get(&ObjectId::of_commit(&position.commit), ObjectKind::Commit)?;
        let raw = RawCommit::parse(bytes, objects.format())?;
        let content = Content::read(trees, bytes, &raw)?;
        if (content.sha256, content.tree) != (position.commit_sha256, position.tree) {
            let message =
                "the objects under an accepted name are not those that were accepted; the source or disk is lying";
            return Err(Refusal::new(Reason::IdMismatch, message).of_commit(&position.commit));
        }
        Ok((position.clone(), Policy::parse(&content.policy_files)?, raw.tree))
    }
}

fn commit(state: &TrustState, position: Position, tree_id: ObjectId, policy: Policy) -> Commit {
    Commit {
        cluster: state.introduction().cluster,
        epoch: state.epoch(),
        position,
        tree_id,
        changes: Vec::new(),
        approvals: BTreeSet::new(),
        policy,
    }
}

/// One step P -> C, by the policy in tree(P).
fn step(
    state: &TrustState,
    objects: &ObjectSet,
    trees: &mut Trees<'_>,
    (parent, policy, parent_tree): (&Position, &Policy, &ObjectId),
    id: &ObjectId,
) -> Result<Commit, Refusal> {
    let bytes = objects.get(id, ObjectKind::Commit)?;
    let raw = RawCommit::parse(bytes, objects.format())?;
    let content = Content::read(trees, bytes, &raw)?;
    let (seq, step) = (parent.seq.next(), next_step(&parent.step, &content.tree));
    let own = Policy::parse(&content.policy_files);
    let (approvals, Signer { principal, key }) = weigh(&raw, policy, own.as_ref().ok(), state.introduction());
    let position = Position {
        seq,
        step,
        commit: id.to_commit_id(),
        commit_sha256: content.sha256,
        tree: content.tree,
        policy: content.policy_hash,
        signer: principal,
        key,
        subject: raw.subject().to_owned(),
    };
    if let Some(twin) = state.history().iter().find(|known| known.seq == seq) {
        return accept_twin(state, position, twin, content.tree_id, own?);
    }
    let own = own?;
    let changes = trees.changes(parent_tree, &content.tree_id)?;
    policy.authorise(&changes, &approvals, &own)?;
    let mut commit = commit(state, position, content.tree_id, own);
    (commit.changes, commit.approvals) = (changes, approvals.principals);
    Ok(commit)
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

/// SHA-256 of a commit's bytes, as introductions and anchors pin it.
#[must_use]
pub fn commit_sha256(bytes: &[u8]) -> machined_ids::Digest {
    machined_ids::Digest::from_bytes(Sha256::digest(bytes).into())
}
