//! No event is left out between those that came (etcd's watch: Reliable, Resumable): from where a watch began to where it got.

use crate::history::History;
use machined_ids::Revision;
use std::ops::Bound;

pub(super) fn check(history: &History) -> Result<(), String> {
    let changes = history.changes();
    for watched in history.watches.iter().chain(&history.audits) {
        let came: Vec<Revision> = watched.batches().map(|batch| batch.revision).collect();
        let Some(last) = came.last() else { continue };
        let inside = |key: &[u8]| *watched.range.0 <= *key && *key < *watched.range.1;
        let window = changes.range((Bound::Excluded(watched.after), Bound::Included(*last)));
        let expected = window.filter(|(_, batch)| batch.events.iter().any(|event| inside(event.key())));
        let expected: Vec<Revision> = expected.map(|(revision, _)| *revision).collect();
        if came != expected {
            let missing = expected.iter().find(|revision| !came.contains(revision));
            return Err(format!(
                "a watcher at member {} after {} up to {last} got {} revisions of {}; missing: {missing:?}",
                watched.member,
                watched.after,
                came.len(),
                expected.len()
            ));
        }
    }
    Ok(())
}
