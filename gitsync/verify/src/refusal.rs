//! Why a commit is not taken: a stable reason, the place, and words for people.
//!
//! Reasons are part of the contract with operators and dashboards (`docs`, `cairnctl commits`, `commits.cairn.dev`):
//! a name never changes its meaning, and nobody parses the message.

use machined_ids::CommitId;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Why something was refused, in one stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $name,)+ }

        impl Reason {
            /// Every reason, in the order of the specification.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }
        }
    };
}

reasons! {
    /// The offered tip does not continue the accepted chain by first parents.
    NotDescendant,
    /// Fewer approvals than a rule asks for.
    UnderThreshold,
    /// A changed path that no rule owns.
    NoRule,
    /// Signed for another cluster, ref, epoch, seq, parent, step or policy, or for none.
    WrongTarget,
    /// The commit would be allowed only by the policy that it brings itself.
    SelfAuthorised,
    /// A change to trust that lacks root's (or recovery's) threshold.
    RootThreshold,
    /// A policy that is missing, unsatisfiable or not understood.
    PolicyInvalid,
    /// Signed by a key that the policy does not know.
    UnknownKey,
    /// The key is not there for this use.
    WrongUse,
    /// A signature made for another purpose.
    WrongNamespace,
    /// The key was revoked.
    Revoked,
    /// A hardware key signed without being touched.
    NoTouch,
    /// A signature that is malformed or does not match.
    BadSignature,
    /// A commit header that is unknown, repeated, or that could hide a second signature.
    BadHeader,
    /// Another way to write what has one way to be written.
    NonCanonical,
    /// An object that looks like a SHA-1 collision.
    HashCollision,
    /// Bytes that do not have the name they came under.
    IdMismatch,
    /// An object that the chain needs did not come.
    MissingObject,
    /// A tree entry that Cairn does not take: submodule, symlink, LFS pointer, a dangerous name.
    BadEntry,
    /// More or larger than the written limits.
    Limit,
    /// A file that cannot be read as what it should be.
    Parse,
    /// A statement past its end.
    Expired,
    /// A beacon past its end.
    StaleBeacon,
    /// No fresh news from the source.
    SourceStale,
    /// The source keeps back a step that exists.
    SourceWithheld,
    /// Freshness cannot be shown.
    FreshnessUnproven,
    /// Two steps after one parent were accepted.
    Equivocation,
    /// An object outside what its file's rule may reach.
    OutOfReach,
    /// A unit reads a file that its rule does not name.
    ReadsUndeclared,
    /// More deletions than the rule's budget, or a protected kind.
    Budget,
    /// Below a floor.
    BelowFloor,
    /// Another introduction than the recorded one.
    IntroductionConflict,
    /// State or policy written by a newer release.
    NewerState,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: what, where, and what to do next. Nothing that runs is touched by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Refusal {
    /// The stable word.
    pub reason: Reason,
    /// The commit that was judged, when it is about one.
    pub commit: Option<CommitId>,
    /// The file, when it is about one.
    pub path: Option<String>,
    /// The policy rule, when it is about one.
    pub rule: Option<String>,
    /// What happened and what to do next, for people.
    pub message: String,
    /// For files that cannot be read: every mistake in them.
    #[serde(default, skip_serializing_if = "<[Mistake]>::is_empty")]
    pub mistakes: Box<[Mistake]>,
}

impl Refusal {
    /// A refusal that is about nothing more than its words yet.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Refusal { reason, commit: None, path: None, rule: None, message: message.into(), mistakes: Box::default() }
    }

    /// Names the commit, unless a closer place already did.
    #[must_use]
    pub fn of_commit(mut self, commit: &CommitId) -> Self {
        self.commit.get_or_insert_with(|| commit.clone());
        self
    }

    /// Names the file, unless a closer place already did.
    #[must_use]
    pub fn at_path(mut self, path: impl Into<String>) -> Self {
        self.path.get_or_insert_with(|| path.into());
        self
    }

    /// Names the rule.
    #[must_use]
    pub fn by_rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// A refusal for files with mistakes in them; the first one gives the path and every one is in the message.
    #[must_use]
    pub fn of_mistakes(reason: Reason, mistakes: Vec<Mistake>) -> Self {
        let count = mistakes.len();
        let list: Vec<_> = mistakes.iter().map(Mistake::to_string).collect();
        let path = mistakes.first().map(|m| m.path.clone());
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        let message = format!("{count} {noun}; correct and push again:\n{}", list.join("\n"));
        Refusal { reason, commit: None, path, rule: None, message, mistakes: mistakes.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.as_str())?;
        if let Some(commit) = &self.commit {
            write!(f, " commit {}", commit.short())?;
        }
        if let Some(path) = &self.path {
            write!(f, " in {path}")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, " (rule {rule:?})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// One mistake in a file, with its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mistake {
    /// Path in the repository.
    pub path: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What would have been right; empty when the message says it.
    pub expected: String,
}

impl Mistake {
    /// A mistake at a line and column, both from 1.
    #[must_use]
    pub fn at(path: &str, line: usize, column: usize, message: impl Into<String>) -> Self {
        let number = |n: usize| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        Mistake {
            path: path.to_owned(),
            line: number(line),
            column: number(column),
            message: message.into(),
            expected: String::new(),
        }
    }
}

impl From<machined_config::Problem> for Mistake {
    fn from(problem: machined_config::Problem) -> Self {
        Mistake::at(&problem.path, problem.line, problem.column, problem.message)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path, self.line, self.column, self.message)?;
        if !self.expected.is_empty() {
            write!(f, " (expected {})", self.expected)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_its_own_name() {
        assert_eq!(Reason::NotDescendant.as_str(), "NotDescendant");
        assert_eq!(serde_json::to_string(&Reason::NoTouch).expect("because words serialise"), "\"NoTouch\"");
        assert_eq!(Reason::ALL.len(), 33);
    }

    #[test]
    fn the_closest_place_wins() {
        let refusal = Refusal::new(Reason::BadEntry, "x").at_path("inner").at_path("outer");
        assert_eq!(refusal.path.as_deref(), Some("inner"));
    }
}
