//! The four kinds of statements, field by field in the order of their lines.

use super::text::{Lines, time};
use crate::introduction::DeployRef;
use jiff::Timestamp;
use machined_ids::{ClusterId, CommitId, Digest, Epoch, Fingerprint, Seq, StepId, TreeHash};
use std::fmt;
use std::str::FromStr;

/// What an approval is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Intent {
    /// An ordinary release.
    Release,
    /// New content in an emergency, before its approvers are there.
    Breakglass,
}

impl FromStr for Intent {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "release" => Ok(Intent::Release),
            "breakglass" => Ok(Intent::Breakglass),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Intent::Release => "release",
            Intent::Breakglass => "breakglass",
        })
    }
}

/// Approves one step, whichever commit brings it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its branch.
    pub deploy_ref: DeployRef,
    /// The introduction's epoch.
    pub epoch: Epoch,
    /// The step's number.
    pub seq: Seq,
    /// The step before.
    pub parent: StepId,
    /// The step.
    pub step: StepId,
    /// Policy hash of the parent's tree, which judges.
    pub policy: TreeHash,
    /// From when on it approves nothing new; `None` is never.
    pub not_after: Option<Timestamp>,
    /// What it is for.
    pub intent: Intent,
}

impl Release {
    pub(super) fn read(lines: &mut Lines<'_>) -> Option<Self> {
        Some(Release {
            cluster: lines.read("cluster")?,
            deploy_ref: deploy_ref(lines)?,
            epoch: Epoch(lines.read("epoch")?),
            seq: Seq(lines.read("seq")?),
            parent: lines.read("parent")?,
            step: lines.read("step")?,
            policy: lines.read("policy")?,
            not_after: match lines.value("not-after")? {
                "never" => None,
                at => Some(time(at)?),
            },
            intent: lines.read("intent")?,
        })
    }

    pub(super) fn write(&self) -> String {
        let Release { cluster, deploy_ref, epoch, seq, parent, step, policy, not_after, intent } = self;
        let not_after = not_after.map_or_else(|| "never".to_owned(), |at| at.to_string());
        format!(
            "cluster {cluster}\nref {deploy_ref}\nepoch {epoch}\nseq {seq}\nparent {parent}\nstep {step}\n\
             policy {policy}\nnot-after {not_after}\nintent {intent}\n"
        )
    }
}

/// Says which step is the newest, and until when to believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its branch.
    pub deploy_ref: DeployRef,
    /// The introduction's epoch.
    pub epoch: Epoch,
    /// The newest step's number.
    pub seq: Seq,
    /// The newest step.
    pub step: StepId,
    /// When it was made.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

impl Beacon {
    pub(super) fn read(lines: &mut Lines<'_>) -> Option<Self> {
        Some(Beacon {
            cluster: lines.read("cluster")?,
            deploy_ref: deploy_ref(lines)?,
            epoch: Epoch(lines.read("epoch")?),
            seq: Seq(lines.read("seq")?),
            step: lines.read("step")?,
            issued: lines.time("issued")?,
            expires: lines.time("expires")?,
        })
    }

    pub(super) fn write(&self) -> String {
        let Beacon { cluster, deploy_ref, epoch, seq, step, issued, expires } = self;
        format!(
            "cluster {cluster}\nref {deploy_ref}\nepoch {epoch}\nseq {seq}\nstep {step}\nissued {issued}\n\
             expires {expires}\n"
        )
    }
}

/// Stops a key at every step that is not accepted yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revoke {
    /// The cluster.
    pub cluster: ClusterId,
    /// The introduction's epoch.
    pub epoch: Epoch,
    /// The key.
    pub key: Fingerprint,
    /// The last step whose signature by this key is still believed to be its owner's.
    pub last_good: Seq,
    /// When it was made.
    pub issued: Timestamp,
}

impl Revoke {
    pub(super) fn read(lines: &mut Lines<'_>) -> Option<Self> {
        Some(Revoke {
            cluster: lines.read("cluster")?,
            epoch: Epoch(lines.read("epoch")?),
            key: lines.read("key")?,
            last_good: Seq(lines.read("last-good")?),
            issued: lines.time("issued")?,
        })
    }

    pub(super) fn write(&self) -> String {
        let Revoke { cluster, epoch, key, last_good, issued } = self;
        format!("cluster {cluster}\nepoch {epoch}\nkey {key}\nlast-good {last_good}\nissued {issued}\n")
    }
}

/// Starts the history again at a commit, when no ordinary step can.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recovery {
    /// The cluster.
    pub cluster: ClusterId,
    /// The epoch that ends.
    pub old_epoch: Epoch,
    /// The epoch that begins.
    pub new_epoch: Epoch,
    /// The commit to start from.
    pub commit: CommitId,
    /// SHA-256 of the commit object's bytes.
    pub commit_sha256: Digest,
    /// The cluster's branch.
    pub deploy_ref: DeployRef,
    /// Policy hash of the commit's own tree.
    pub policy: TreeHash,
}

impl Recovery {
    pub(super) fn read(lines: &mut Lines<'_>) -> Option<Self> {
        Some(Recovery {
            cluster: lines.read("cluster")?,
            old_epoch: Epoch(lines.read("old-epoch")?),
            new_epoch: Epoch(lines.read("new-epoch")?),
            commit: lines.read("commit")?,
            commit_sha256: lines.read("commit-sha256")?,
            deploy_ref: deploy_ref(lines)?,
            policy: lines.read("policy")?,
        })
    }

    pub(super) fn write(&self) -> String {
        let Recovery { cluster, old_epoch, new_epoch, commit, commit_sha256, deploy_ref, policy } = self;
        format!(
            "cluster {cluster}\nold-epoch {old_epoch}\nnew-epoch {new_epoch}\ncommit {commit}\n\
             commit-sha256 {commit_sha256}\nref {deploy_ref}\npolicy {policy}\n"
        )
    }
}

fn deploy_ref(lines: &mut Lines<'_>) -> Option<DeployRef> {
    DeployRef::parse(lines.value("ref")?).ok()
}
