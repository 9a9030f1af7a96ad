//! Stores that are broken on purpose, to show that the invariants notice: a checker that never fails checks nothing.

use bytes::Bytes;
use controlplane_store::{
    Answer, BoxFuture, Consistency, EventBatch, Op, OpAnswer, RangeAnswer, RangeRequest, Store, StoreError, Txn,
    Watcher,
};
use machined_ids::Revision;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a member does wrong towards its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Acknowledges a put now and then that it never writes.
    LosesWrites,
    /// Reads what it has when it is asked for what everybody has.
    ReadsStale,
    /// Says now and then that it did nothing when it did.
    DeniesWrites,
    /// Sends changes twice.
    RepeatsEvents,
    /// Leaves changes out.
    DropsEvents,
    /// Splits the changes of a revision.
    SplitsRevisions,
    /// Promises more than it has sent.
    PromisesTooMuch,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 7] = [
        Fault::LosesWrites,
        Fault::ReadsStale,
        Fault::DeniesWrites,
        Fault::RepeatsEvents,
        Fault::DropsEvents,
        Fault::SplitsRevisions,
        Fault::PromisesTooMuch,
    ];
}

/// Every which call is treated wrongly.
const PERIOD: u64 = 20;

/// A store with a fault.
pub(crate) struct Broken {
    store: Arc<dyn Store>,
    fault: Fault,
    calls: AtomicU64,
}

impl Broken {
    /// A store that is `store` but for its fault.
    #[must_use]
    pub(crate) fn new(store: Arc<dyn Store>, fault: Fault) -> Self {
        Broken { store, fault, calls: AtomicU64::new(0) }
    }

    fn turn(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) % PERIOD == PERIOD - 1
    }

    /// The answer to a put that was never written.
    fn pretend(&self, txn: &Txn) -> Answer {
        let revision = self.store.revision().next();
        let put = |op: &Op| match op {
            Op::Put(key, value) | Op::PutLeased(key, value, _) => OpAnswer::Put(controlplane_store::Entry {
                key: key.clone(),
                value: value.clone(),
                created: revision,
                modified: revision,
                version: 1,
            }),
            Op::Get(_) => OpAnswer::Got(None),
            Op::Delete(_) => OpAnswer::Deleted(None),
        };
        Answer { succeeded: true, revision, ops: txn.then.iter().map(put).collect() }
    }
}

impl Store for Broken {
    fn range(&self, request: RangeRequest, consistency: Consistency) -> BoxFuture<'_, Result<RangeAnswer, StoreError>> {
        let stale = self.fault == Fault::ReadsStale;
        self.store.range(request, if stale { Consistency::Local } else { consistency })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Answer, StoreError>> {
        match self.fault {
            Fault::LosesWrites if self.turn() => Box::pin(std::future::ready(Ok(self.pretend(&txn)))),
            Fault::DeniesWrites if self.turn() => Box::pin(async move {
                self.store.txn(txn).await?;
                Err(StoreError::Unavailable { reason: "it lies".to_owned(), sent: false })
            }),
            _ => self.store.txn(txn),
        }
    }

    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watcher>, StoreError>> {
        let fault = self.fault;
        let watch = self.store.watch(start, end, after);
        Box::pin(async move {
            let watcher = watch.await?;
            Ok(Box::new(BrokenWatcher { watcher, fault, again: VecDeque::new(), batches: 0 }) as Box<dyn Watcher>)
        })
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }
}

struct BrokenWatcher {
    watcher: Box<dyn Watcher>,
    fault: Fault,
    again: VecDeque<EventBatch>,
    batches: u64,
}

impl BrokenWatcher {
    async fn step(&mut self) -> Result<EventBatch, StoreError> {
        if let Some(batch) = self.again.pop_front() {
            return Ok(batch);
        }
        let mut batch = self.watcher.next().await?;
        self.batches += 1;
        match self.fault {
            Fault::RepeatsEvents if self.batches.is_multiple_of(PERIOD) => self.again.push_back(batch.clone()),
            Fault::DropsEvents if self.batches.is_multiple_of(PERIOD) => batch = self.watcher.next().await?,
            Fault::SplitsRevisions if batch.events.len() > 1 => {
                let events = batch.events.split_off(1);
                self.again.push_back(EventBatch { revision: batch.revision, events });
            }
            _ => {}
        }
        Ok(batch)
    }
}

impl Watcher for BrokenWatcher {
    fn next(&mut self) -> BoxFuture<'_, Result<EventBatch, StoreError>> {
        Box::pin(self.step())
    }

    fn progress(&self) -> Revision {
        let progress = self.watcher.progress();
        if self.fault == Fault::PromisesTooMuch { progress.next() } else { progress }
    }
}
