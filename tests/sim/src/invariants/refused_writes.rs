//! A write of which the store says that it did nothing did nothing: none of its values is anywhere in history. Values are written once.

use crate::history::{History, Outcome, Request};
use controlplane_store::{Event, Op};
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut written = BTreeMap::new();
    for (revision, batch) in history.changes() {
        for event in batch.events {
            if let Event::Put { entry, .. } = event
                && let Some(before) = written.insert(entry.value.clone(), revision)
            {
                return Err(format!("{:?} was written at {before} and again at {revision}", entry.value));
            }
        }
    }
    for call in &history.calls {
        let (Request::Txn(txn), Outcome::Refused(reason)) = (&call.request, &call.outcome) else { continue };
        let puts = txn.then.iter().filter_map(|op| match op {
            Op::Put(_, value) | Op::PutLeased(_, value, _) => Some(value),
            Op::Get(_) | Op::Delete(_) => None,
        });
        for value in puts {
            if let Some(revision) = written.get(value) {
                return Err(format!("{value:?} was refused ({reason}) and is there at revision {revision}"));
            }
        }
    }
    Ok(())
}
