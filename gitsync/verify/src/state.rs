//! What a machine remembers about trust between two looks at the repository. Pure values; `gitsync/daemon` writes them down.

use crate::introduction::Introduction;
use crate::refusal::{Reason, Refusal};
use crate::verified::{Commit, Verified};
use machined_ids::{CommitId, Digest, Epoch, Fingerprint, Generation, PrincipalName, Seq, StepId, TreeHash};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The version of the persisted form that this release writes and reads.
const VERSION: u32 = 1;

/// One step of the release chain and the commit that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Position {
    /// Steps since the introduction.
    pub seq: Seq,
    /// The step.
    pub step: StepId,
    /// The commit that it was seen in; a twin may take its place.
    pub commit: CommitId,
    /// SHA-256 of that commit's bytes.
    pub commit_sha256: Digest,
    /// Hash of the tree.
    pub tree: TreeHash,
    /// Hash of `trust/`.
    pub policy: TreeHash,
    /// Who signed the commit; nobody, for the introduction.
    pub signer: Option<PrincipalName>,
    /// With which key.
    pub key: Option<Fingerprint>,
    /// First line of the commit message.
    pub subject: String,
}

/// What runs, which may be older than what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Applied {
    /// Its position in the chain.
    pub seq: Seq,
    /// The step.
    pub step: StepId,
    /// The commit that it was read from.
    pub commit: CommitId,
}

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
}

/// The step before the introduction's: binds every step to its cluster and branch, so that no step of one is one of another.
///
/// Byte form: `SHA-256("cairn.root.v1\n" | cluster id (32 hex digits) | "\n" | deploy ref)`.
#[must_use]
pub fn root_step(introduction: &Introduction) -> StepId {
    let cluster = introduction.cluster.to_string();
    let hasher = Sha256::new_with_prefix(b"cairn.root.v1\n");
    let hash = hasher.chain_update(cluster).chain_update(b"\n").chain_update(introduction.deploy_ref.as_str());
    StepId::from_bytes(hash.finalize().into())
}

/// The step to a tree. Commits that differ only in message, dates or signatures are one step.
///
/// Byte form: `SHA-256("cairn.step.v1\n" | parent's step (32 bytes) | tree hash (32 bytes))`.
#[must_use]
pub fn next_step(parent: &StepId, tree: &TreeHash) -> StepId {
    let hasher = Sha256::new_with_prefix(b"cairn.step.v1\n").chain_update(parent.as_bytes());
    StepId::from_bytes(hasher.chain_update(tree.as_bytes()).finalize().into())
}

impl TrustState {
    pub(crate) fn begin(introduction: Introduction, first: Position) -> Self {
        TrustState {
            version: VERSION,
            introduction,
            epoch: Epoch(0),
            history: vec![first],
            applied: None,
            generation: Generation(0),
        }
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
        let damaged = |error: serde_json::Error| {
            Refusal::new(
                Reason::Parse,
                format!("the recorded trust state is damaged ({error}); introduce the machine again"),
            )
        };
        let peek: Peek = serde_json::from_slice(json).map_err(damaged)?;
        if peek.version > VERSION {
            let message =
                format!("trust state has version {}, this release knows {VERSION}; boot the newer slot", peek.version);
            return Err(Refusal::new(Reason::NewerState, message));
        }
        let state: TrustState = serde_json::from_slice(json).map_err(damaged)?;
        if state.history.is_empty() || state.history.windows(2).any(|pair| pair[1].seq != pair[0].seq.next()) {
            return Err(Refusal::new(Reason::Parse, "the recorded trust state has a gap; introduce the machine again"));
        }
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

    /// Moves accepted to a verified commit: the next step, or a twin of a remembered one. Anything else changes nothing.
    pub fn accept(&mut self, commit: &Verified<Commit>) {
        let position = commit.position();
        let next = self.accepted().seq.next();
        match self.history.iter_mut().find(|known| known.seq == position.seq) {
            Some(known) if known.step == position.step => *known = position.clone(),
            Some(_) => {}
            None if position.seq == next => self.history.push(position.clone()),
            None => {}
        }
        if self.history.len() > crate::limits::MAX_HISTORY {
            self.history.remove(0);
        }
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
}
