//! The right to become desired state. Only this crate can make one.

use crate::break_glass::InForce;
use crate::objects::{ObjectId, ObjectSet};
use crate::policy::Policy;
use crate::recovery::Begun;
use crate::refusal::Refusal;
use crate::state::Position;
use crate::statement::SignedStatement;
use crate::tree::{Change, Files, Trees};
use machined_ids::{ClusterId, Epoch, PrincipalName};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

/// A value that was judged and passed. There is no other way to get one than [`crate::verify`] and its kin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) const fn new(value: T) -> Self {
        Verified(value)
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A commit of the release chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub(crate) cluster: ClusterId,
    pub(crate) epoch: Epoch,
    pub(crate) position: Position,
    pub(crate) tree_id: ObjectId,
    pub(crate) changes: Vec<Change>,
    pub(crate) approvals: BTreeSet<PrincipalName>,
    pub(crate) statements: Vec<SignedStatement>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) break_glass: Option<InForce>,
    pub(crate) begun: Option<Begun>,
}

impl Commit {
    /// The cluster that it belongs to.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The introduction's epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its place in the chain.
    #[must_use]
    pub const fn position(&self) -> &Position {
        &self.position
    }

    /// What it changed against its parent, by path; empty for one that was recalled.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Who approved it.
    #[must_use]
    pub const fn approvals(&self) -> &BTreeSet<PrincipalName> {
        &self.approvals
    }

    /// The release statements that counted for it; machines keep them and serve them to their peers.
    #[must_use]
    pub fn statements(&self) -> &[SignedStatement] {
        &self.statements
    }

    /// The break-glass that is in force after it: its own, when it is the step that brought it. Such a step brings neither Secrets
    /// nor protected kinds in the files that it changed; who reads the content looks.
    #[must_use]
    pub const fn break_glass(&self) -> Option<&InForce> {
        self.break_glass.as_ref()
    }

    /// Whether it begins a new epoch: the only step that is not fast-forward.
    #[must_use]
    pub const fn is_recovery(&self) -> bool {
        self.begun.is_some()
    }

    /// Its own policy, which judges the next step.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// All files of its tree.
    ///
    /// # Errors
    /// `MissingObject` when the set is not the one that it was verified with.
    pub fn files(&self, objects: &ObjectSet) -> Result<Files, Refusal> {
        let mut trees = Trees::new(objects);
        trees.hash(&self.tree_id)?;
        trees.files(&self.tree_id, "")
    }
}
