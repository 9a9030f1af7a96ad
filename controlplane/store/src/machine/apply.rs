//! Transactions: compare, then write everything at one new revision.

use super::position;
use crate::disk::{Batch, DiskError, Table, View};
use crate::layout::{Change, Live, change_key, decode, encode, meta, past_key, write_counter};
use crate::machine::read::entry_at;
use crate::{Answer, Condition, Entry, Event, EventBatch, Op, OpAnswer, Txn};
use bytes::Bytes;
use machined_ids::Revision;

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For the one who asked.
    pub answer: Answer,
    /// For the watchers, when anything changed.
    pub events: Option<EventBatch>,
}

/// Runs a transaction that [`check`](crate::check) has passed.
///
/// # Errors
/// [`DiskError`] when the disk fails; the batch must not be committed then.
pub fn apply(batch: &mut dyn Batch, txn: &Txn) -> Result<Applied, DiskError> {
    let current = position(batch)?.revision;
    let mut succeeded = true;
    for condition in &txn.conditions {
        succeeded = succeeded && holds(batch, condition)?;
    }
    let revision = current.next();
    let mut events = Vec::new();
    let mut ops = Vec::new();
    for op in if succeeded { &txn.then } else { &txn.otherwise } {
        ops.push(match op {
            Op::Get(key) => OpAnswer::Got(living(batch, key)?),
            Op::Put(key, value) => OpAnswer::Put(put(batch, revision, key, value, &mut events)?),
            Op::Delete(key) => OpAnswer::Deleted(delete(batch, revision, key, &mut events)?),
        });
    }
    if events.is_empty() {
        return Ok(Applied { answer: Answer { succeeded, revision: current, ops }, events: None });
    }
    write_counter(batch, meta::REVISION, revision.0)?;
    events.sort_by(|a, b| a.key().cmp(b.key()));
    Ok(Applied { answer: Answer { succeeded, revision, ops }, events: Some(EventBatch { revision, events }) })
}

fn holds(view: &dyn View, condition: &Condition) -> Result<bool, DiskError> {
    let Condition::Modified(key, revision) = condition;
    let modified = live(view, key)?.map_or(Revision(0), |live| live.modified);
    Ok(modified == *revision)
}

fn live(view: &dyn View, key: &[u8]) -> Result<Option<Live>, DiskError> {
    view.get(Table::Live, key)?.map(|bytes| decode(&bytes)).transpose()
}

fn living(view: &dyn View, key: &Bytes) -> Result<Option<Entry>, DiskError> {
    live(view, key)?.map(|live| entry_at(view, key, live.modified)).transpose()
}

fn put(
    batch: &mut dyn Batch,
    revision: Revision,
    key: &Bytes,
    value: &Bytes,
    events: &mut Vec<Event>,
) -> Result<Entry, DiskError> {
    let previous = living(batch, key)?;
    let (created, version) = previous.as_ref().map_or((revision, 1), |entry| (entry.created, entry.version + 1));
    let change =
        Change::Put { created, version, previous: previous.as_ref().map(|entry| entry.modified), value: value.clone() };
    batch.put(Table::Change, &change_key(revision, key), &encode(&change)?)?;
    batch.put(Table::Past, &past_key(key, revision), &[1])?;
    batch.put(Table::Live, key, &encode(&Live { created, modified: revision, version })?)?;
    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision, version };
    events.push(Event::Put { entry: entry.clone(), previous });
    Ok(entry)
}

fn delete(
    batch: &mut dyn Batch,
    revision: Revision,
    key: &Bytes,
    events: &mut Vec<Event>,
) -> Result<Option<Entry>, DiskError> {
    let Some(previous) = living(batch, key)? else { return Ok(None) };
    let change = Change::Delete { previous: previous.modified };
    batch.put(Table::Change, &change_key(revision, key), &encode(&change)?)?;
    batch.put(Table::Past, &past_key(key, revision), &[0])?;
    batch.remove(Table::Live, key)?;
    events.push(Event::Delete { previous: previous.clone() });
    Ok(Some(previous))
}
