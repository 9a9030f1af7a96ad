//! What the store's contents must have been at each revision: a map, and what a transaction does to it. Written from the interface's
//! documentation, not from the state machine's code.

use crate::history::History;
use bytes::Bytes;
use controlplane_store::{Answer, Condition, Entry, Event, EventBatch, Op, OpAnswer, Txn};
use machined_ids::Revision;
use std::collections::BTreeMap;

type Contents = BTreeMap<Bytes, Entry>;

/// The contents at every revision that the history tells of.
pub(super) struct Model {
    contents: BTreeMap<Revision, Contents>,
}

impl Model {
    /// Replays the changes; an error says where they do not follow from each other.
    pub(super) fn replay(history: &History) -> Result<Self, String> {
        let mut contents = BTreeMap::from([(Revision(1), Contents::new())]);
        let (mut now, mut at) = (Contents::new(), Revision(1));
        for (revision, batch) in history.changes() {
            if revision != at.next() {
                return Err(format!("no member published the revision after {at}; the next known is {revision}"));
            }
            for event in &batch.events {
                apply_event(&mut now, revision, event)?;
            }
            at = revision;
            contents.insert(revision, now.clone());
        }
        Ok(Model { contents })
    }

    /// The contents at a revision, in the order of keys.
    pub(super) fn entries_at(&self, revision: Revision) -> Vec<Entry> {
        self.at(revision).map(|contents| contents.values().cloned().collect()).unwrap_or_default()
    }

    fn at(&self, revision: Revision) -> Option<&Contents> {
        self.contents.get(&revision)
    }

    /// The entries of `start <= key < end` at a revision; `None` when nobody knows of it.
    pub(super) fn range_at(&self, revision: Revision, start: &Bytes, end: &Bytes) -> Option<Vec<Entry>> {
        let contents = self.at(revision)?;
        Some(contents.range(start.clone()..end.clone()).map(|(_, entry)| entry.clone()).collect())
    }

    /// What a transaction answers and changes when it runs on the contents at `revision`.
    pub(super) fn run(&self, txn: &Txn, revision: Revision) -> Option<(Answer, Option<EventBatch>)> {
        let mut contents = self.at(revision)?.clone();
        let succeeded = txn.conditions.iter().all(|Condition::Modified(key, expected)| {
            contents.get(key).map_or(Revision(0), |entry| entry.modified) == *expected
        });
        let next = revision.next();
        let (mut ops, mut events) = (Vec::new(), Vec::new());
        for op in if succeeded { &txn.then } else { &txn.otherwise } {
            ops.push(match op {
                Op::Get(key) => OpAnswer::Got(contents.get(key).cloned()),
                Op::Put(key, value) | Op::PutLeased(key, value, _) => {
                    let previous = contents.get(key).cloned();
                    let created = previous.as_ref().map_or(next, |entry| entry.created);
                    let version = previous.as_ref().map_or(1, |entry| entry.version + 1);
                    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: next, version };
                    contents.insert(key.clone(), entry.clone());
                    events.push(Event::Put { entry: entry.clone(), previous });
                    OpAnswer::Put(entry)
                }
                Op::Delete(key) => {
                    let previous = contents.remove(key);
                    events.extend(previous.clone().map(|previous| Event::Delete { previous }));
                    OpAnswer::Deleted(previous)
                }
            });
        }
        events.sort_by(|a, b| a.key().cmp(b.key()));
        let written = (!events.is_empty()).then_some(EventBatch { revision: next, events });
        let revision = if written.is_some() { next } else { revision };
        Some((Answer { succeeded, revision, ops }, written))
    }
}

fn apply_event(contents: &mut Contents, revision: Revision, event: &Event) -> Result<(), String> {
    let before = contents.get(event.key()).cloned();
    let wrong = |what: &str| Err(format!("revision {revision} {what}: {event:?} after {before:?}"));
    match event {
        Event::Put { entry, previous } => {
            if *previous != before {
                return wrong("names another value before");
            }
            let created = before.as_ref().map_or(revision, |before| before.created);
            let version = before.as_ref().map_or(1, |before| before.version + 1);
            if (entry.created, entry.modified, entry.version) != (created, revision, version) {
                return wrong("counts wrong");
            }
            contents.insert(entry.key.clone(), entry.clone());
        }
        Event::Delete { previous } => {
            if Some(previous) != before.as_ref() {
                return wrong("deletes what was not there");
            }
            contents.remove(&previous.key);
        }
    }
    Ok(())
}
