//! Transactions: compare, then write everything at one new revision.

use super::position;
use crate::disk::{Batch, DiskError, Table, View};
use crate::layout::{Change, Live, change_key, encode, leased_key, meta, past_key, write_counter};
use crate::machine::lease::lease;
use crate::machine::read::entry_at;
use crate::{Answer, Condition, Entry, Event, EventBatch, LeaseId, Op, OpAnswer, Txn};
use bytes::Bytes;
use machined_ids::Revision;

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It ran.
    Ran {
        /// For the one who asked.
        answer: Answer,
        /// For the watchers, when anything changed.
        events: Option<EventBatch>,
    },
    /// It would put a key with a lease that is not there. Nothing was changed.
    NoLease(LeaseId),
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
    let branch = if succeeded { &txn.then } else { &txn.otherwise };
    if let Some(missing) = missing_lease(batch, branch)? {
        return Ok(Applied::NoLease(missing));
    }
    let revision = current.next();
    let mut events = Vec::new();
    let mut ops = Vec::new();
    for op in branch {
        ops.push(match op {
            Op::Get(key) => OpAnswer::Got(living(batch, key)?.map(|(entry, _)| entry)),
            Op::Put(key, value) => OpAnswer::Put(put(batch, revision, (key, value, None), &mut events)?),
            Op::PutLeased(key, value, lease) => {
                OpAnswer::Put(put(batch, revision, (key, value, Some(*lease)), &mut events)?)
            }
            Op::Delete(key) => OpAnswer::Deleted(delete(batch, revision, key, &mut events)?),
        });
    }
    if events.is_empty() {
        return Ok(Applied::Ran { answer: Answer { succeeded, revision: current, ops }, events: None });
    }
    write_counter(batch, meta::REVISION, revision.0)?;
    events.sort_by(|a, b| a.key().cmp(b.key()));
    let events = Some(EventBatch { revision, events });
    Ok(Applied::Ran { answer: Answer { succeeded, revision, ops }, events })
}

/// The first lease that a branch puts keys with and that nothing can be put with.
fn missing_lease(view: &dyn View, branch: &[Op]) -> Result<Option<LeaseId>, DiskError> {
    for op in branch {
        if let Op::PutLeased(_, _, id) = op
            && lease(view, *id)?.is_none_or(|lease| lease.ending)
        {
            return Ok(Some(*id));
        }
    }
    Ok(None)
}

fn holds(view: &dyn View, condition: &Condition) -> Result<bool, DiskError> {
    let Condition::Modified(key, revision) = condition;
    let modified = live(view, key)?.map_or(Revision(0), |live| live.modified);
    Ok(modified == *revision)
}

fn live(view: &dyn View, key: &[u8]) -> Result<Option<Live>, DiskError> {
    view.get(Table::Live, key)?.map(|bytes| Live::from_bytes(&bytes)).transpose()
}

/// A living key with its lease.
fn living(view: &dyn View, key: &Bytes) -> Result<Option<(Entry, Option<LeaseId>)>, DiskError> {
    live(view, key)?.map(|live| Ok((entry_at(view, key, live.modified)?, live.lease))).transpose()
}

fn put(
    batch: &mut dyn Batch,
    revision: Revision,
    (key, value, lease): (&Bytes, &Bytes, Option<LeaseId>),
    events: &mut Vec<Event>,
) -> Result<Entry, DiskError> {
    let (previous, leased) = living(batch, key)?.unzip();
    let leased = leased.flatten();
    if let Some(old) = leased.filter(|_| leased != lease) {
        batch.remove(Table::Leased, &leased_key(old, key))?;
    }
    if let Some(new) = lease.filter(|_| leased != lease) {
        batch.put(Table::Leased, &leased_key(new, key), &[])?;
    }
    let (created, version) = previous.as_ref().map_or((revision, 1), |entry| (entry.created, entry.version + 1));
    let change =
        Change::Put { created, version, previous: previous.as_ref().map(|entry| entry.modified), value: value.clone() };
    batch.put(Table::Change, &change_key(revision, key), &encode(&change)?)?;
    batch.put(Table::Past, &past_key(key, revision), &[1])?;
    batch.put(Table::Live, key, &Live { created, modified: revision, version, lease }.to_bytes()?)?;
    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision, version };
    events.push(Event::Put { entry: entry.clone(), previous });
    Ok(entry)
}

pub(super) fn delete(
    batch: &mut dyn Batch,
    revision: Revision,
    key: &Bytes,
    events: &mut Vec<Event>,
) -> Result<Option<Entry>, DiskError> {
    let Some((previous, leased)) = living(batch, key)? else { return Ok(None) };
    if let Some(lease) = leased {
        batch.remove(Table::Leased, &leased_key(lease, key))?;
    }
    let change = Change::Delete { previous: previous.modified };
    batch.put(Table::Change, &change_key(revision, key), &encode(&change)?)?;
    batch.put(Table::Past, &past_key(key, revision), &[0])?;
    batch.remove(Table::Live, key)?;
    events.push(Event::Delete { previous: previous.clone() });
    Ok(Some(previous))
}
