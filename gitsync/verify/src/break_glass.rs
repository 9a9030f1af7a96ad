//! Break-glass: new content in an emergency, by a role made for it, until the next ordinary step ratifies it.
//!
//! ```text
//! P (ordinary) --breakglass--> B --ordinary, judged on P..C--> C      meeting C's thresholds is the ratification
//!                              |
//!                              +-- time is up: P is applied again, B stays accepted
//! ```
//!
//! What B changed is remembered by content, so that P..C can be told when P's objects are gone.

use crate::limits::MAX_BREAK_GLASS_FILES;
use crate::objects::ObjectId;
use crate::policy::{BreakGlass, Policy};
use crate::refusal::{Reason, Refusal};
use crate::state::Position;
use crate::tree::{Change, ChangeKind, Trees};
use crate::votes::Votes;
use jiff::Timestamp;
use machined_ids::{Digest, PrincipalName, Seq, StepId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Files that no break-glass touches, whatever its rule says.
const NEVER: [&str; 3] = ["trust", "machines", "cluster.kdl"];

/// A break-glass that no ordinary step has ratified yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InForce {
    /// The last ordinary step: what is applied again when nobody ratifies in time.
    pub base: Position,
    /// The step's number.
    pub seq: Seq,
    /// The step.
    pub step: StepId,
    /// Until when it must have been ratified.
    pub until: Timestamp,
    /// The files that it changed, as they were before; `None` for one that was not there.
    pub before: BTreeMap<String, Option<FileState>>,
}

/// A file's mode and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FileState {
    /// Whether it has the execute bit.
    pub executable: bool,
    /// SHA-256 of its content.
    pub sha256: Digest,
}

/// The net difference from the last ordinary step to a tree whose difference to its parent is `changes`.
pub(crate) fn net_changes(
    glass: &InForce,
    trees: &Trees<'_>,
    tree: &ObjectId,
    mut changes: Vec<Change>,
) -> Result<Vec<Change>, Refusal> {
    changes.retain(|change| !glass.before.contains_key(&change.path));
    for (path, before) in &glass.before {
        let kind = match (before, trees.file_state(tree, path)?) {
            (None, None) => continue,
            (Some(before), Some(after)) if *before == after => continue,
            (Some(_), Some(_)) => ChangeKind::Modified,
            (Some(_), None) => ChangeKind::Deleted,
            (None, Some(_)) => ChangeKind::Added,
        };
        changes.push(Change { path: path.clone(), kind });
    }
    changes.sort();
    Ok(changes)
}

/// What a break-glass step is judged with.
pub(crate) struct Attempt<'a> {
    pub(crate) base: &'a Position,
    pub(crate) policy: &'a Policy,
    pub(crate) rule: &'a BreakGlass,
    pub(crate) base_tree: &'a ObjectId,
    pub(crate) changes: &'a [Change],
    pub(crate) votes: &'a Votes,
    /// Now, when it is known and not below the floor.
    pub(crate) now: Option<Timestamp>,
}

impl Attempt<'_> {
    /// Judges the step; gives what is in force then, who approved, and why it may not become accepted now, if it may not.
    ///
    /// # Errors
    /// `UnderThreshold` or `OutOfReach`, with what was missing.
    pub(crate) fn judge(
        &self,
        position: &Position,
        trees: &Trees<'_>,
    ) -> Result<(InForce, BTreeSet<PrincipalName>, Option<Refusal>), Refusal> {
        let refuse = |reason, what: String| Err(Refusal::new(reason, format!("break-glass: {what}")));
        let rule = self.rule;
        if self.changes.len() > MAX_BREAK_GLASS_FILES {
            return refuse(Reason::Limit, format!("more than {MAX_BREAK_GLASS_FILES} files; make it smaller"));
        }
        let never = |path: &str| NEVER.contains(&path.split('/').next().unwrap_or_default());
        let outside = self.changes.iter().map(|change| change.path.as_str()).find(|path| {
            never(path) || !rule.owns.iter().any(|glob| glob.matches(path)) || self.policy.owners(path).next().is_none()
        });
        if let Some(path) = outside {
            let refusal = refuse(Reason::OutOfReach, "it may not touch this file; leave it to an ordinary step".into());
            return refusal.map_err(|refusal: Refusal| refusal.at_path(path));
        }
        let none = BTreeSet::new();
        let members = self.policy.roles().get(&rule.role).map_or(&none, |role| &role.members);
        let ends = self.votes.emergency_ends(members);
        // It holds for as long as enough of them approve.
        let mut latest_first: Vec<Timestamp> = ends.values().copied().collect();
        latest_first.sort_unstable_by(|one, other| other.cmp(one));
        let Some(until) = latest_first.get(rule.threshold as usize - 1).copied() else {
            let (count, need, role) = (ends.len(), rule.threshold, &rule.role);
            let what = format!(
                "{count} of {need} approvals by role {role} that have an end; have a member sign: \
                 cairnctl approve --intent breakglass --not-after TIME"
            );
            return refuse(Reason::UnderThreshold, what);
        };
        let approvals: BTreeSet<PrincipalName> = ends.into_keys().collect();
        let late = match self.now {
            Some(now) if now < until && until.duration_since(now) <= rule.life => None,
            Some(_) => Some(format!("it ends at {until}, which is over or beyond the policy's {:#}", rule.life)),
            None => Some("without a trusted time it counts as ended".to_owned()),
        };
        let late = late.map(|what| {
            Refusal::new(
                Reason::Expired,
                format!("break-glass: {what}; sign another: cairnctl approve --intent breakglass"),
            )
        });
        let state = |change: &Change| Ok((change.path.clone(), trees.file_state(self.base_tree, &change.path)?));
        let before = self.changes.iter().map(state).collect::<Result<_, Refusal>>()?;
        let glass = InForce { base: self.base.clone(), seq: position.seq, step: position.step, until, before };
        Ok((glass, approvals, late))
    }
}
