//! The access table of the accepted step, as everybody in this process reads it: always the newest, never copied.

use controlplane_apiserver::Tenure;
use jiff::Timestamp;
use machined_access::{AccessTable, Standing, Watched};
use std::sync::Arc;
use std::time::Duration;
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

impl Watched for Table {
    fn table(&self) -> Option<Arc<AccessTable>> {
        Some(self.current())
    }
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    async fn changed(&mut self, longest: Duration) {
        // A writer that is gone changes nothing any more; the time goes on.
        let changed = async {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _changed_or_late = tokio::time::timeout(longest, changed).await;
    }
}

impl Table {
    /// How long the API server may serve somebody, for what lasts longer than a request.
    pub(crate) fn tenure(&self, standing: Standing) -> Tenure {
        let (table, standing) = (self.clone(), Arc::new(standing));
        Tenure::new(move || {
            let (table, standing) = (table.clone(), Arc::clone(&standing));
            Box::pin(async move { standing.lost(table).await.to_string() })
        })
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
