//! The cluster's machines and their marks: what a majority proves, and when two of them prove that there are two stories.

use crate::limits::MAX_MARKS;
use crate::mark::{Mark, SignedMark};
use crate::objects::ObjectId;
use crate::refusal::{Reason, Refusal};
use crate::state::TrustState;
use crate::tree::Trees;
use machined_config::{MachineDocument, Role};
use machined_ids::{CommitId, Epoch, Fingerprint, Seq, StepId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Two different steps after one parent, each accepted by a machine of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Equivocation {
    /// The epoch.
    pub epoch: Epoch,
    /// The step that both follow.
    pub parent: StepId,
    /// The two stories.
    pub sides: [Side; 2],
}

/// What one machine accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Side {
    /// The step; unknown for a re-introduction that was not begun here.
    pub step: Option<StepId>,
    /// In which commit.
    pub commit: CommitId,
    /// By which other machine; `None` is this one, or what it was offered.
    pub machine: Option<Fingerprint>,
}

impl Equivocation {
    /// Why nothing moves.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let side = |side: &Side| {
            let machine = side.machine.as_ref().map_or("here", Fingerprint::as_str);
            format!("commit {} ({machine})", side.commit.short())
        };
        let [one, other] = [side(&self.sides[0]), side(&self.sides[1])];
        let message = format!(
            "after step {} the cluster was told two stories: {one}, and {other}; find out who signed both, then begin again: \
             cairnctl recover",
            self.parent
        );
        Refusal::new(Reason::Equivocation, message)
    }
}

/// The machines of an accepted tree, by the fingerprint of their identity: two documents with one fingerprint are one machine.
#[derive(Debug, Default)]
pub(crate) struct Machines(BTreeMap<Fingerprint, Role>);

impl Machines {
    /// Reads `machines/`. A document that cannot be read names nobody, and neither does one of classes: who a machine is stands in its
    /// own document.
    pub(crate) fn read(trees: &Trees<'_>, tree: &ObjectId) -> Result<Self, Refusal> {
        let Some(folder) = trees.child(tree, "machines")? else { return Ok(Machines::default()) };
        let mut machines = BTreeMap::new();
        for (path, bytes) in trees.files(&folder, "machines")?.0 {
            let text = std::str::from_utf8(&bytes).ok();
            let Some(document) = text.and_then(|text| MachineDocument::parse(&path, text).ok()) else { continue };
            let known = machines.entry(document.identity).or_insert(document.role);
            *known = (*known).max(document.role);
        }
        Ok(Machines(machines))
    }

    /// The marks of this cluster's machines, each machine's newest one.
    pub(crate) fn newest<'a>(&self, state: &TrustState, marks: &'a [SignedMark]) -> Vec<&'a Mark> {
        let mut newest = BTreeMap::<&Fingerprint, &Mark>::new();
        for mark in self.own(state, marks) {
            let known = newest.entry(&mark.machine).or_insert(mark);
            if mark.place() > known.place() {
                *known = mark;
            }
        }
        newest.into_values().collect()
    }

    fn own<'a>(&self, state: &TrustState, marks: &'a [SignedMark]) -> impl Iterator<Item = &'a Mark> {
        let introduction = state.introduction();
        let here = move |mark: &&Mark| {
            mark.cluster == introduction.cluster
                && mark.deploy_ref == introduction.deploy_ref
                && self.0.contains_key(&mark.machine)
        };
        marks.iter().take(MAX_MARKS).map(SignedMark::mark).filter(here)
    }

    /// The highest position that a majority of the control plane marked, of those that `on_chain` knows. The machine that asks does
    /// not count: its own word proves nothing to itself.
    pub(crate) fn majority(
        &self,
        newest: &[&Mark],
        epoch: Epoch,
        asking: Option<&Fingerprint>,
        on_chain: impl Fn(Seq, &StepId) -> bool,
    ) -> Option<Seq> {
        let control_plane = self.0.values().filter(|role| **role == Role::ControlPlane).count();
        let voters = newest.iter().filter(|mark| {
            self.0.get(&mark.machine) == Some(&Role::ControlPlane)
                && asking != Some(&mark.machine)
                && mark.epoch == epoch
                && on_chain(mark.seq, &mark.step)
        });
        let mut marked: Vec<Seq> = voters.map(|mark| mark.seq).collect();
        marked.sort_unstable_by(|one, other| other.cmp(one));
        // The last one that is needed for a majority says how far all of it goes.
        marked.get(control_plane / 2).copied()
    }

    /// Two stories, when marks (or a mark and this machine's own history) tell them.
    pub(crate) fn equivocation(&self, state: &TrustState, marks: &[SignedMark]) -> Option<Equivocation> {
        let side = |mark: &Mark| Side {
            step: Some(mark.step),
            commit: mark.commit.clone(),
            machine: Some(mark.machine.clone()),
        };
        let marks: Vec<&Mark> = self.own(state, marks).filter(|mark| mark.epoch == state.epoch()).collect();
        for (number, mark) in marks.iter().enumerate() {
            let own = state.history().windows(2).find(|pair| pair[0].step == mark.parent && pair[1].step != mark.step);
            let here = own.map(|pair| Side { step: Some(pair[1].step), commit: pair[1].commit.clone(), machine: None });
            let there = || marks[..number].iter().find(|other| mark.contradicts(other)).map(|other| side(other));
            if let Some(other) = here.or_else(there) {
                return Some(Equivocation { epoch: mark.epoch, parent: mark.parent, sides: [other, side(mark)] });
            }
        }
        None
    }
}
