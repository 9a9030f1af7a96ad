//! The rule: from accepted to the tip, by first parents, each step by its parent's policy.

use crate::introduce::Base;
use crate::limits::{MAX_CHAIN_COMMITS, MAX_STATEMENTS};
use crate::objects::{ObjectId, ObjectKind};
use crate::offer::Offer;
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use crate::state::TrustState;
use crate::step::{Judged, Parent, Run};
use crate::tree::Trees;
use crate::verified::{Commit, Verified};
use std::collections::BTreeSet;

/// What a judgement of a tip came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The steps that passed, oldest first; empty when there was nothing new.
    pub steps: Vec<Verified<Commit>>,
    /// Why the chain ends before the tip, when it does. What passed below stands: it is the longest valid chain.
    pub refused: Option<Refusal>,
}

/// Judges everything from accepted to the offered tip.
///
/// # Errors
/// [`Refusal`] when not even the first step could be looked at: the tip does not continue the chain, or is not all there.
pub fn verify(state: &TrustState, offer: &Offer<'_>) -> Result<Chain, Refusal> {
    let (known, path) = walk(state, offer).map_err(|refusal| refusal.of_commit(offer.tip))?;
    let mut trees = Trees::new(offer.objects);
    let (position, policy, tree_id) = Base::read(&mut trees, offer.objects, &state.history()[known])?;
    let mut run = Run {
        state,
        objects: offer.objects,
        statements: offer.statements.get(..MAX_STATEMENTS).unwrap_or(offer.statements),
        clock: offer.clock,
        revoked: BTreeSet::new(),
        trees,
    };
    let mut parent = Parent { position, policy, tree_id };
    let (mut judged, mut refused) = (Vec::<Judged>::new(), None);
    for id in &path {
        match run.step(&parent, id) {
            Ok(step) => {
                parent = Parent::of(&step.commit);
                judged.push(step);
            }
            Err(refusal) => {
                refused = Some(refusal.of_commit(&id.to_commit_id()));
                break;
            }
        }
    }
    // What would become accepted is the target of the fetch: its approvals must not have ended. Below it they may have.
    while let Some(late) = judged.last().and_then(|last| last.late.clone()) {
        let last = judged.pop().expect("because it was just looked at");
        refused = Some(late.of_commit(&last.commit.position().commit));
    }
    let reached = judged.last().map_or(state.history()[known].seq, |last| last.commit.position().seq);
    if refused.is_none() && reached < state.accepted().seq {
        return Err(older(state, offer));
    }
    // Twins that end early move nothing: accepted stays where it is.
    if reached < state.accepted().seq {
        judged.clear();
    }
    Ok(Chain { steps: judged.into_iter().map(|step| Verified::new(step.commit)).collect(), refused })
}

fn older(state: &TrustState, offer: &Offer<'_>) -> Refusal {
    let accepted = &state.accepted().commit;
    let message = format!(
        "the source offers an older commit than the accepted {}; push the branch forward again, a revert is a new commit: \
         git revert",
        accepted.short()
    );
    Refusal::new(Reason::NotDescendant, message).of_commit(offer.tip)
}

/// From the tip back to a remembered commit: its place in the history, and the commits above it, oldest first.
fn walk(state: &TrustState, offer: &Offer<'_>) -> Result<(usize, Vec<ObjectId>), Refusal> {
    let (mut path, mut at) = (Vec::new(), ObjectId::of_commit(offer.tip));
    loop {
        let id = at.to_commit_id();
        if let Some(known) = state.history().iter().rposition(|position| position.commit == id) {
            if path.is_empty() && known + 1 != state.history().len() {
                return Err(older(state, offer));
            }
            path.reverse();
            return Ok((known, path));
        }
        if path.len() >= MAX_CHAIN_COMMITS {
            let message = format!(
                "more than {MAX_CHAIN_COMMITS} commits since the accepted one, or a rewritten branch; introduce the machine \
                 to a newer one: cairnctl introduction"
            );
            return Err(Refusal::new(Reason::Limit, message));
        }
        let commit = RawCommit::parse(offer.objects.get(&at, ObjectKind::Commit)?, offer.objects.format())?;
        path.push(at);
        at = *commit.parents.first().ok_or_else(|| {
            let message = format!(
                "the accepted commit {} is not among its first parents; rebase onto it, or merge with it as first parent: \
                 cairnctl repair",
                state.accepted().commit.short()
            );
            Refusal::new(Reason::NotDescendant, message)
        })?;
    }
}
