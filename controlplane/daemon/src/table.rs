//! The access table of the accepted step, as everybody in this process reads it: always the newest, never copied.

use machined_access::AccessTable;
use std::sync::Arc;
use tokio::sync::watch;

/// A handle to the newest access table.
#[derive(Debug, Clone)]
pub(crate) struct Table(watch::Receiver<Arc<AccessTable>>);

/// The writing end, held by whoever hears of new steps.
#[derive(Debug)]
pub(crate) struct TableWriter(watch::Sender<Arc<AccessTable>>);

/// Makes both ends with a first table.
pub(crate) fn table(first: AccessTable) -> (TableWriter, Table) {
    let (sender, receiver) = watch::channel(Arc::new(first));
    (TableWriter(sender), Table(receiver))
}

impl Table {
    /// The newest table.
    pub(crate) fn current(&self) -> Arc<AccessTable> {
        Arc::clone(&self.0.borrow())
    }
}

impl TableWriter {
    /// Replaces the table if it is another. Who calls this hears of steps in their order: machined hands a table on with a generation
    /// that only grows. Steps themselves are no order, since a re-introduction counts them from zero.
    pub(crate) fn replace(&self, next: AccessTable) {
        self.0.send_if_modified(|current| {
            let newer = **current != next;
            if newer {
                tracing::info!(
                    seq = next.seq.0,
                    people = next.people.len(),
                    machines = next.machines.len(),
                    "access table replaced"
                );
                *current = Arc::new(next);
            }
            newer
        });
    }
}
