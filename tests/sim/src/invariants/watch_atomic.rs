//! All changes of a revision inside the watched keys come together and as they were, with what stood there before (etcd's watch: Atomic;
//! its validators: filter, previous value, is-create).

use crate::history::History;
use controlplane_store::Event;

pub(super) fn check(history: &History) -> Result<(), String> {
    let changes = history.changes();
    for watched in &history.watches {
        let inside = |event: &&Event| *watched.range.0 <= **event.key() && **event.key() < *watched.range.1;
        for batch in watched.batches() {
            let whole = changes.get(&batch.revision).map(|all| all.events.iter().filter(inside).cloned().collect());
            let whole: Vec<Event> = whole.unwrap_or_default();
            if whole != batch.events {
                let (revision, events) = (batch.revision, &batch.events);
                return Err(format!("revision {revision} came as {events:?} and was {whole:?}"));
            }
        }
    }
    Ok(())
}
