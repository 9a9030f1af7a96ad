//! Where trust begins, and reading again what was accepted.

use crate::introduction::{Content, Introduction};
use crate::objects::{ObjectId, ObjectKind, ObjectSet};
use crate::policy::Policy;
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use crate::state::{Position, TrustState, next_step, root_step};
use crate::tree::Trees;
use crate::verified::{Commit, Verified};
use machined_ids::{Epoch, Seq};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Starts trust from an introduction: at its anchor when it has one, else at its own commit, which is among the objects.
///
/// What lies below an anchor is not judged again; it need not even be there.
///
/// # Errors
/// `IntroductionConflict` when the commit is not the one that was pinned; whatever is wrong with its form or policy.
pub fn introduce(introduction: &Introduction, objects: &ObjectSet) -> Result<(TrustState, Verified<Commit>), Refusal> {
    let id = introduction.start();
    let bytes = objects.get(&ObjectId::of_commit(id), ObjectKind::Commit)?;
    let raw = RawCommit::parse(bytes, objects.format()).map_err(|r| r.of_commit(id))?;
    let mut trees = Trees::new(objects);
    let content = Content::read(&mut trees, bytes, &raw).map_err(|r| r.of_commit(id))?;
    let (right, epoch, seq, step) = match &introduction.anchor {
        Some(anchor) => (anchor.commit_sha256 == content.sha256, anchor.epoch, anchor.seq, anchor.step),
        None => {
            let pinned = (introduction.commit_sha256, introduction.tree, introduction.policy);
            let right = pinned == (content.sha256, content.tree, content.policy_hash);
            (right, Epoch(0), Seq(0), next_step(&root_step(introduction), &content.tree))
        }
    };
    if !right {
        let message = "the repository's commit is not the one in the introduction; compare both with their author: \
                       cairnctl introduction";
        return Err(Refusal::new(Reason::IntroductionConflict, message).of_commit(id));
    }
    let policy = content.policy(&trees).map_err(|r| r.of_commit(id))?;
    let position = Position {
        seq,
        step,
        commit: id.clone(),
        commit_sha256: content.sha256,
        tree: content.tree,
        policy: content.policy_hash,
        signer: None,
        key: None,
        keys: BTreeSet::new(),
        subject: raw.subject().to_owned(),
    };
    let state = TrustState::begin(introduction.clone(), epoch, position.clone(), &policy);
    let commit = commit(&state, position, raw.tree, Arc::new(policy));
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
    let mut commit = commit(state, base, tree_id, policy);
    commit.break_glass = state.break_glass().filter(|glass| glass.seq == seq).cloned();
    Ok(Verified::new(commit))
}

/// A remembered position, read again from objects.
pub(crate) struct Base;

impl Base {
    pub(crate) fn read(
        trees: &mut Trees<'_>,
        objects: &ObjectSet,
        position: &Position,
    ) -> Result<(Position, Arc<Policy>, ObjectId), Refusal> {
        let bytes = objects.get(&ObjectId::of_commit(&position.commit), ObjectKind::Commit)?;
        let raw = RawCommit::parse(bytes, objects.format())?;
        let content = Content::read(trees, bytes, &raw)?;
        if (content.sha256, content.tree) != (position.commit_sha256, position.tree) {
            let message =
                "the objects under an accepted name are not those that were accepted; the source or disk is lying";
            return Err(Refusal::new(Reason::IdMismatch, message).of_commit(&position.commit));
        }
        Ok((position.clone(), Arc::new(content.policy(trees)?), raw.tree))
    }
}

pub(crate) fn commit(state: &TrustState, position: Position, tree_id: ObjectId, policy: Arc<Policy>) -> Commit {
    Commit {
        cluster: state.introduction().cluster,
        epoch: state.epoch(),
        position,
        tree_id,
        changes: Vec::new(),
        approvals: BTreeSet::new(),
        statements: Vec::new(),
        policy,
        break_glass: None,
        begun: None,
    }
}

/// SHA-256 of a commit's bytes, as introductions and anchors pin it.
#[must_use]
pub fn commit_sha256(bytes: &[u8]) -> machined_ids::Digest {
    machined_ids::Digest::from_bytes(Sha256::digest(bytes).into())
}
