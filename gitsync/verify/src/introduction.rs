//! What a machine starts from: the cluster, its one branch, and one commit pinned by our own hashes. Public, read once.

use crate::objects::{ObjectId, ObjectKind, ObjectSet};
use crate::policy::Policy;
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use crate::state::{Position, TrustState};
use crate::tree::Trees;
use machined_ids::{ClusterId, CommitId, Digest, Epoch, Seq, StepId, TreeHash};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The one branch of a cluster whose first-parent chain counts, as a full ref name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeployRef(String);

impl DeployRef {
    /// Reads `refs/heads/<branch>`.
    ///
    /// # Errors
    /// What would have been right, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("refs/heads/").unwrap_or_default();
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        let part = |part: &str| {
            !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".lock") && !part.ends_with('.')
        };
        if name.len() <= 200 && name.bytes().all(plain) && name.split('/').all(part) && !name.contains("..") {
            Ok(DeployRef(text.to_owned()))
        } else {
            Err(format!("{text:?} is not a branch; expected refs/heads/ and letters, digits, - _ . /"))
        }
    }

    /// The full name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeployRef {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        DeployRef::parse(&text)
    }
}

impl From<DeployRef> for String {
    fn from(name: DeployRef) -> String {
        name.0
    }
}

impl fmt::Display for DeployRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An introduction, as `cairnctl init` writes it and a machine records it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Introduction {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its one branch.
    #[serde(rename = "ref")]
    pub deploy_ref: DeployRef,
    /// The commit to start from. It is pinned by what follows, not judged.
    pub commit: CommitId,
    /// SHA-256 of the commit object's bytes.
    pub commit_sha256: Digest,
    /// Hash of its tree.
    pub tree: TreeHash,
    /// Hash of its `trust/`.
    pub policy: TreeHash,
    /// A newer accepted position to start from instead, as image builds, enrolments and joins renew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
}

/// A position that was accepted elsewhere: verification starts there, and what lies below is not judged again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Anchor {
    /// The epoch.
    pub epoch: Epoch,
    /// The step's number.
    pub seq: Seq,
    /// The step.
    pub step: StepId,
    /// The commit that it was seen in.
    pub commit: CommitId,
    /// SHA-256 of that commit's bytes.
    pub commit_sha256: Digest,
}

/// What a commit holds, hashed and read, before anything is said about who may have made it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) sha256: Digest,
    pub(crate) tree_id: ObjectId,
    pub(crate) tree: TreeHash,
    pub(crate) policy_hash: TreeHash,
    /// The object of `trust/`.
    trust: ObjectId,
}

impl Content {
    /// Reads and hashes a commit's whole tree.
    pub(crate) fn read(trees: &mut Trees<'_>, bytes: &[u8], commit: &RawCommit<'_>) -> Result<Self, Refusal> {
        let tree = trees.hash(&commit.tree)?;
        let trust = trees.child(&commit.tree, "trust")?.ok_or_else(|| {
            Refusal::new(Reason::PolicyInvalid, "there is no trust/; nobody could ever change anything again")
                .at_path(crate::policy::ROOT_FILE)
        })?;
        Ok(Content {
            sha256: Digest::from_bytes(Sha256::digest(bytes).into()),
            tree_id: commit.tree,
            tree,
            policy_hash: trees.hash(&trust)?,
            trust,
        })
    }

    /// Reads the policy out of `trust/`.
    pub(crate) fn policy(&self, trees: &Trees<'_>) -> Result<Policy, Refusal> {
        Policy::parse(&trees.files(&self.trust, "trust")?)
    }
}

impl Introduction {
    /// The introduction to a commit that the caller trusts: their own, just made. For `cairnctl init`.
    ///
    /// # Errors
    /// Whatever is wrong with the commit's form, its tree or its policy.
    pub fn of(
        objects: &ObjectSet,
        commit: &CommitId,
        cluster: ClusterId,
        deploy_ref: DeployRef,
    ) -> Result<Self, Refusal> {
        let bytes = objects.get(&ObjectId::of_commit(commit), ObjectKind::Commit)?;
        let raw = RawCommit::parse(bytes, objects.format()).map_err(|r| r.of_commit(commit))?;
        let mut trees = Trees::new(objects);
        let content = Content::read(&mut trees, bytes, &raw).map_err(|r| r.of_commit(commit))?;
        content.policy(&trees).map_err(|r| r.of_commit(commit))?;
        Ok(Introduction {
            cluster,
            deploy_ref,
            commit: commit.clone(),
            commit_sha256: content.sha256,
            tree: content.tree,
            policy: content.policy_hash,
            anchor: None,
        })
    }

    /// The commit that verification starts from: the anchor's, or its own.
    #[must_use]
    pub fn start(&self) -> &CommitId {
        self.anchor.as_ref().map_or(&self.commit, |anchor| &anchor.commit)
    }

    /// Whether both begin at one commit of one cluster; anchors are left out, because they are renewed.
    #[must_use]
    pub fn begins_like(&self, other: &Introduction) -> bool {
        let root = |introduction: &Introduction| Introduction { anchor: None, ..introduction.clone() };
        root(self) == root(other)
    }

    /// The same introduction with a machine's accepted position as its anchor.
    #[must_use]
    pub fn anchored(&self, state: &TrustState) -> Introduction {
        let Position { seq, step, commit, commit_sha256, .. } = state.accepted().clone();
        Introduction { anchor: Some(Anchor { epoch: state.epoch(), seq, step, commit, commit_sha256 }), ..self.clone() }
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// `Parse`, with what the reader found.
    pub fn from_json(json: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(json).map_err(|error| {
            let message = format!("this is not an introduction ({error}); use the file that `cairnctl init` wrote");
            Refusal::new(Reason::Parse, message)
        })
    }

    /// Writes the JSON form: one object, fields in a fixed order, a newline at the end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("because an introduction holds only texts");
        json + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_full_plain_names() {
        for good in ["refs/heads/main", "refs/heads/env/prod-1"] {
            assert!(DeployRef::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "main",
            "refs/heads/",
            "refs/tags/v1",
            "refs/heads/a..b",
            "refs/heads/-x",
            "refs/heads/a b",
            "refs/heads/a.lock",
        ] {
            assert!(DeployRef::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn json_is_read_as_it_is_written_and_nothing_else() {
        let introduction = Introduction {
            cluster: ClusterId::from_bytes([1; 16]),
            deploy_ref: DeployRef::parse("refs/heads/main").expect("because it is a branch"),
            commit: CommitId::parse(&"a".repeat(40)).expect("because it is hex"),
            commit_sha256: Digest::from_bytes([2; 32]),
            tree: TreeHash::from_bytes([3; 32]),
            policy: TreeHash::from_bytes([4; 32]),
            anchor: None,
        };
        let json = introduction.to_json();
        assert_eq!(Introduction::from_json(json.as_bytes()), Ok(introduction));
        for name in ["cluster", "ref", "commit", "commitSha256", "tree", "policy"] {
            assert!(json.contains(&format!("\"{name}\":")), "{name} is missing in {json}");
        }
        let extra = json.replace("\"ref\"", "\"extra\": 1, \"ref\"");
        assert_eq!(Introduction::from_json(extra.as_bytes()).map_err(|r| r.reason), Err(Reason::Parse));
    }
}
