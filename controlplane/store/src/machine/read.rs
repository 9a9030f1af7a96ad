//! Reading: ranges now and at older revisions, and history for watchers.

use super::position;
use crate::disk::{DiskError, Table, View};
use crate::layout::{Change, Live, change_key, damaged, decode, past_prefix, split_change_key, split_past_key};
use crate::{Entry, Event, EventBatch, RangeAnswer, RangeRequest, StoreError};
use bytes::Bytes;
use machined_ids::Revision;
use std::ops::ControlFlow;

/// Answers a range request.
///
/// # Errors
/// [`StoreError::Compacted`], [`StoreError::Future`], or [`StoreError::Unavailable`] when the disk fails.
pub fn range(view: &dyn View, request: &RangeRequest) -> Result<RangeAnswer, StoreError> {
    let position = position(view)?;
    let found = match request.at {
        None => found_now(view, request)?,
        Some(at) => {
            position.admits(at)?;
            found_at(view, request, at)?
        }
    };
    let limit = request.limit.unwrap_or(usize::MAX);
    let mut entries = Vec::with_capacity(found.len().min(limit));
    for (key, modified) in found.iter().take(limit) {
        entries.push(entry_at(view, key, *modified)?);
    }
    Ok(RangeAnswer { entries, count: found.len() as u64, revision: position.revision })
}

impl super::Position {
    /// Whether history from `asked` on is there.
    pub(crate) fn admits(&self, asked: Revision) -> Result<(), StoreError> {
        if asked < self.oldest {
            Err(StoreError::Compacted { asked, oldest: self.oldest })
        } else if asked > self.revision {
            Err(StoreError::Future { asked, current: self.revision })
        } else {
            Ok(())
        }
    }
}

/// Keys of the range with the revision of their newest put.
type Found = Vec<(Bytes, Revision)>;

fn found_now(view: &dyn View, request: &RangeRequest) -> Result<Found, DiskError> {
    let mut found = Vec::new();
    let mut outcome = Ok(());
    view.scan(Table::Live, &request.start[..]..&request.end[..], &mut |key, value| {
        match Live::from_bytes(value) {
            Ok(live) => found.push((Bytes::copy_from_slice(key), live.modified)),
            Err(error) => return stop(&mut outcome, error),
        }
        ControlFlow::Continue(())
    })?;
    outcome.map(|()| found)
}

fn found_at(view: &dyn View, request: &RangeRequest, at: Revision) -> Result<Found, DiskError> {
    let mut found: Found = Vec::new();
    // The newest change of the key being visited, not younger than `at`, and whether it was a put.
    let mut newest: Option<(Vec<u8>, Revision, bool)> = None;
    let mut outcome = Ok(());
    let mut settle = |newest: &mut Option<(Vec<u8>, Revision, bool)>| {
        if let Some((key, revision, true)) = newest.take() {
            found.push((key.into(), revision));
        }
    };
    let (start, end) = (past_prefix(&request.start), past_prefix(&request.end));
    view.scan(Table::Past, &start[..]..&end[..], &mut |place, kind| {
        let (key, revision) = match split_past_key(place) {
            Ok(split) => split,
            Err(error) => return stop(&mut outcome, error),
        };
        if newest.as_ref().is_some_and(|(other, _, _)| *other != key) {
            settle(&mut newest);
        }
        if revision <= at {
            newest = Some((key, revision, kind == [1]));
        }
        ControlFlow::Continue(())
    })?;
    settle(&mut newest);
    outcome.map(|()| found)
}

fn stop(outcome: &mut Result<(), DiskError>, error: DiskError) -> ControlFlow<()> {
    *outcome = Err(error);
    ControlFlow::Break(())
}

/// The entry that a put left at a revision.
pub(crate) fn entry_at(view: &dyn View, key: &Bytes, modified: Revision) -> Result<Entry, DiskError> {
    let bytes = view
        .get(Table::Change, &change_key(modified, key))?
        .ok_or_else(|| damaged("an index points to a change that is not there"))?;
    match decode(&bytes)? {
        Change::Put { created, version, value, .. } => {
            Ok(Entry { key: key.clone(), value, created, modified, version })
        }
        Change::Delete { .. } => Err(damaged("an index points to a deletion")),
    }
}

/// A piece of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The changes inside the range, one batch a revision.
    pub batches: Vec<EventBatch>,
    /// History was read up to here; go on after it.
    pub through: Revision,
}

/// Reads the changes of `start <= key < end` after `after` up to `until`, looking at about `limit` changes of any key.
///
/// # Errors
/// [`StoreError::Compacted`], [`StoreError::Future`], or [`StoreError::Unavailable`] when the disk fails.
pub fn changes(
    view: &dyn View,
    range: (&Bytes, &Bytes),
    after: Revision,
    until: Revision,
    limit: usize,
) -> Result<Changes, StoreError> {
    let position = position(view)?;
    position.admits(after)?;
    let (until, first) = (until.min(position.revision), after.next());
    let mut found: Vec<(Revision, Bytes)> = Vec::new();
    let (mut seen, mut through) = (0, until);
    let mut last = after;
    let mut outcome = Ok(());
    view.scan(Table::Change, &change_key(first, b"")[..]..&change_key(until.next(), b"")[..], &mut |place, _| {
        let (revision, key) = match split_change_key(place) {
            Ok(split) => split,
            Err(error) => return stop(&mut outcome, error),
        };
        if seen >= limit && revision != last {
            through = last;
            return ControlFlow::Break(());
        }
        (seen, last) = (seen + 1, revision);
        if *range.0 <= key && *range.1 > key {
            found.push((revision, Bytes::copy_from_slice(key)));
        }
        ControlFlow::Continue(())
    })?;
    outcome?;
    let mut batches: Vec<EventBatch> = Vec::new();
    for (revision, key) in found {
        let event = event_at(view, revision, &key)?;
        match batches.last_mut().filter(|batch| batch.revision == revision) {
            Some(batch) => batch.events.push(event),
            None => batches.push(EventBatch { revision, events: vec![event] }),
        }
    }
    Ok(Changes { batches, through })
}

fn event_at(view: &dyn View, revision: Revision, key: &Bytes) -> Result<Event, DiskError> {
    let bytes = view
        .get(Table::Change, &change_key(revision, key))?
        .ok_or_else(|| damaged("a change went while it was read"))?;
    match decode(&bytes)? {
        Change::Put { created, version, previous, value } => {
            let entry = Entry { key: key.clone(), value, created, modified: revision, version };
            let previous = previous.map(|at| entry_at(view, key, at)).transpose()?;
            Ok(Event::Put { entry, previous })
        }
        Change::Delete { previous } => Ok(Event::Delete { previous: entry_at(view, key, previous)? }),
    }
}
