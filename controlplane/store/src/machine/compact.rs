//! Forgetting history: at once for those who ask, in bounded steps on the disk.
//!
//! A change inside the compacted window makes exactly one older record superfluous: the put before it. So a sweep visits each
//! change of the window once and never the living keys, however many there are.

use super::position;
use crate::disk::{Batch, DiskError, Table, View};
use crate::layout::{
    Change, change_key, damaged, decode, meta, past_key, read_counter, split_change_key, write_counter,
};
use machined_ids::Revision;
use std::ops::ControlFlow;

/// How far a sweep got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Nothing is left to remove.
    All,
    /// There is more; sweep again.
    More,
}

/// Refuses reads older than `oldest` from now on. Going back, or beyond the newest revision, changes nothing.
///
/// # Errors
/// [`DiskError`] when the disk fails.
pub fn compact(batch: &mut dyn Batch, oldest: Revision) -> Result<(), DiskError> {
    let position = position(batch)?;
    if oldest > position.oldest && oldest <= position.revision {
        write_counter(batch, meta::COMPACTED, oldest.0)?;
    }
    Ok(())
}

/// Removes what compaction made superfluous, looking at about `limit` changes.
///
/// # Errors
/// [`DiskError`] when the disk fails.
pub fn sweep(batch: &mut dyn Batch, limit: usize) -> Result<Swept, DiskError> {
    let oldest = position(batch)?.oldest;
    let swept = read_counter(batch, meta::SWEPT)?.map(Revision).ok_or_else(|| damaged("its counters are missing"))?;
    if swept >= oldest {
        return Ok(Swept::All);
    }
    let (window, through) = window(batch, swept, oldest, limit)?;
    for (revision, key) in window {
        let bytes = batch
            .get(Table::Change, &change_key(revision, &key))?
            .ok_or_else(|| damaged("a change is gone before its time"))?;
        match decode(&bytes)? {
            Change::Put { previous: None, .. } => {}
            Change::Put { previous: Some(previous), .. } => remove(batch, previous, &key)?,
            Change::Delete { previous } => {
                remove(batch, previous, &key)?;
                remove(batch, revision, &key)?;
            }
        }
    }
    write_counter(batch, meta::SWEPT, through.0)?;
    Ok(if through == oldest { Swept::All } else { Swept::More })
}

/// Where the changes are that a sweep looks at.
type Window = Vec<(Revision, Vec<u8>)>;

/// The changes after `swept` up to `oldest`, about `limit` of them, whole revisions only, and how far they reach.
fn window(view: &dyn View, swept: Revision, oldest: Revision, limit: usize) -> Result<(Window, Revision), DiskError> {
    let (from, to) = (change_key(swept.next(), b""), change_key(oldest.next(), b""));
    let mut found = Window::new();
    let mut through = oldest;
    let mut outcome = Ok(());
    view.scan(Table::Change, &from[..]..&to[..], &mut |place, _| {
        let (revision, key) = match split_change_key(place) {
            Ok(split) => split,
            Err(error) => {
                outcome = Err(error);
                return ControlFlow::Break(());
            }
        };
        if let Some((last, _)) = found.last().filter(|(last, _)| found.len() >= limit && *last != revision) {
            through = *last;
            return ControlFlow::Break(());
        }
        found.push((revision, key.to_vec()));
        ControlFlow::Continue(())
    })?;
    outcome.map(|()| (found, through))
}

fn remove(batch: &mut dyn Batch, revision: Revision, key: &[u8]) -> Result<(), DiskError> {
    batch.remove(Table::Change, &change_key(revision, key))?;
    batch.remove(Table::Past, &past_key(key, revision))
}
