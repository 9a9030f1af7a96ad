//! A place in the release chain, and how steps are counted.

use crate::introduction::Introduction;
use machined_ids::{CommitId, Digest, Epoch, Fingerprint, PrincipalName, Seq, StepId, TreeHash};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

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
    /// Every key that counted for it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<Fingerprint>,
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

/// The step before a re-introduction's: as [`root_step`], for an epoch above zero.
///
/// Byte form: `SHA-256("cairn.root.v1\n" | cluster id (32 hex digits) | "\n" | deploy ref | "\n" | epoch (decimal))`.
#[must_use]
pub fn recovery_step(introduction: &Introduction, epoch: Epoch) -> StepId {
    let Introduction { cluster, deploy_ref, .. } = introduction;
    let hasher = Sha256::new_with_prefix(b"cairn.root.v1\n");
    StepId::from_bytes(hasher.chain_update(format!("{cluster}\n{deploy_ref}\n{epoch}")).finalize().into())
}

/// The step to a tree. Commits that differ only in message, dates or signatures are one step.
///
/// Byte form: `SHA-256("cairn.step.v1\n" | parent's step (32 bytes) | tree hash (32 bytes))`.
#[must_use]
pub fn next_step(parent: &StepId, tree: &TreeHash) -> StepId {
    let hasher = Sha256::new_with_prefix(b"cairn.step.v1\n").chain_update(parent.as_bytes());
    StepId::from_bytes(hasher.chain_update(tree.as_bytes()).finalize().into())
}
