//! Every call takes effect at one moment between its sending and its answer (Herlihy and Wing 1990; etcd's promise for its keys).
//!
//! Finding an order is easy here, because answers carry revisions: writes take effect in the order of their revisions, and a read that
//! saw revision r takes effect after write r and before write r + 1, reads of one revision in the order in which they were sent. That
//! order is a linearization exactly when each answer is what the order gives, and no call stands before one that was answered before
//! it was sent. Revisions that no answered call explains must come from calls of which nobody knows the outcome, one each.

use super::model::Model;
use crate::history::{Call, History, Moment, Outcome, Request};
use controlplane_replica::MemberId;
use controlplane_store::EventBatch;
use machined_ids::Revision;
use std::collections::{BTreeMap, BTreeSet};

/// A call with an answer: when, and at which revision it took effect.
struct Effect {
    member: MemberId,
    sent: Moment,
    answered: Moment,
    revision: Revision,
    writes: bool,
}

pub(super) fn check(history: &History) -> Result<(), String> {
    let model = Model::replay(history)?;
    let changes = history.changes();
    let mut effects = Vec::new();
    let mut explained = BTreeMap::new();
    for call in &history.calls {
        if let Some(effect) = judge(call, &model, &changes)? {
            if effect.writes && explained.insert(effect.revision, effect.sent).is_some() {
                return Err(format!("revision {} was answered to two calls", effect.revision));
            }
            effects.push(effect);
        }
    }
    explain_rest(history, &model, &changes, &mut explained)?;
    respects_time(&effects)?;
    nothing_from_the_future(&effects, &explained)
}

/// Checks an answer against the model; `None` for calls that tell nothing.
fn judge(call: &Call, model: &Model, changes: &BTreeMap<Revision, EventBatch>) -> Result<Option<Effect>, String> {
    let effect =
        |answered, revision, writes| Some(Effect { member: call.member, sent: call.sent, answered, revision, writes });
    match (&call.request, &call.outcome) {
        (Request::Txn(txn), Outcome::Answered(answer, answered)) => {
            // It made the change that stands at its revision, or it changed nothing there.
            let before = model.run(txn, Revision(answer.revision.0 - 1));
            let wrote = before.is_some_and(|(expected, events)| {
                expected == *answer && events.is_some() && events.as_ref() == changes.get(&answer.revision)
            });
            let read = model.run(txn, answer.revision);
            if !wrote && !read.as_ref().is_some_and(|(expected, events)| expected == answer && events.is_none()) {
                return Err(format!("{call:?} should have been answered with {read:?}, or have written there"));
            }
            Ok(effect(*answered, answer.revision, wrote))
        }
        (Request::Read(range) | Request::LocalRead(range), Outcome::Read(answer, answered)) => {
            let expected = model.range_at(answer.revision, &range.start, &range.end);
            if expected.as_ref() != Some(&answer.entries) {
                return Err(format!("{call:?} should have read {expected:?}"));
            }
            let linearizable = matches!(call.request, Request::Read(_));
            Ok(linearizable.then(|| effect(*answered, answer.revision, false)).flatten())
        }
        (_, Outcome::Refused(_) | Outcome::Unknown | Outcome::Answered(..) | Outcome::Read(..)) => Ok(None),
    }
}

/// Finds for each change that nobody was told of a call of unknown outcome that makes exactly it.
fn explain_rest(
    history: &History,
    model: &Model,
    changes: &BTreeMap<Revision, EventBatch>,
    explained: &mut BTreeMap<Revision, Moment>,
) -> Result<(), String> {
    let unknown: Vec<&Call> = history.calls.iter().filter(|call| matches!(call.outcome, Outcome::Unknown)).collect();
    let mut used = BTreeSet::new();
    for (revision, batch) in changes {
        if explained.contains_key(revision) {
            continue;
        }
        let makes_it = |call: &&&Call| {
            let Request::Txn(txn) = &call.request else { return false };
            let ran = model.run(txn, Revision(revision.0 - 1));
            !used.contains(&call.sent) && ran.is_some_and(|(_, events)| events.as_ref() == Some(batch))
        };
        let call = unknown.iter().find(makes_it).ok_or_else(|| format!("nobody asked for {batch:?}"))?;
        used.insert(call.sent);
        explained.insert(*revision, call.sent);
    }
    Ok(())
}

/// No call takes effect before one that was answered before it was sent.
fn respects_time(effects: &[Effect]) -> Result<(), String> {
    let mut by_answer: Vec<&Effect> = effects.iter().collect();
    by_answer.sort_by_key(|effect| effect.answered);
    let mut by_sending: Vec<&Effect> = effects.iter().collect();
    by_sending.sort_by_key(|effect| effect.sent);
    let mut answered = by_answer.iter().peekable();
    let mut newest = Revision(0);
    for effect in by_sending {
        while let Some(before) = answered.next_if(|before| before.answered < effect.sent) {
            newest = newest.max(before.revision);
        }
        let late = if effect.writes { effect.revision <= newest } else { effect.revision < newest };
        if late {
            let (kind, revision) = (if effect.writes { "write" } else { "read" }, effect.revision);
            let (member, sent) = (effect.member, effect.sent);
            return Err(format!(
                "a {kind} at member {member} took effect at {revision}; {newest} had been answered before it was sent ({sent})"
            ));
        }
    }
    Ok(())
}

/// No call is answered with a revision whose write was sent only afterwards.
fn nothing_from_the_future(effects: &[Effect], written: &BTreeMap<Revision, Moment>) -> Result<(), String> {
    for effect in effects {
        if written.get(&effect.revision).is_some_and(|sent| *sent > effect.answered) {
            return Err(format!("revision {} was seen before anybody wrote it", effect.revision));
        }
    }
    Ok(())
}
