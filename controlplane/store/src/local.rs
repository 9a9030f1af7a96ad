//! A whole store in one process and in memory: for tests of those who use a [`Store`]. It forgets everything when dropped.

use crate::disk::Disk;
use crate::hub::Hub;
use crate::machine::{self, Applied, Swept};
use crate::memory::MemDisk;
use crate::watcher::CatchUp;
use crate::{
    Answer, BoxFuture, Consistency, LeaseProblem, RangeAnswer, RangeRequest, Store, StoreError, Txn, Watcher, check,
};
use bytes::Bytes;
use machined_ids::Revision;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};

/// Changes that one step of a compaction looks at.
const SWEEP_LIMIT: usize = 1000;

/// A [`Store`] without consensus and without a disk. Its futures are ready at once; only a watch ever waits.
#[derive(Debug)]
pub struct LocalStore {
    disk: Arc<MemDisk>,
    hub: Arc<Hub>,
    /// Held from a commit to its publication, which so come in the same order.
    writer: Mutex<()>,
}

impl Default for LocalStore {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalStore {
    /// An empty store, at revision 1.
    ///
    /// # Panics
    /// Never: memory does not fail.
    #[must_use]
    pub fn new() -> Self {
        let disk = Arc::new(MemDisk::new());
        disk.update(&mut |batch| machine::prepare(batch)).expect("because an empty disk in memory can be prepared");
        LocalStore { disk, hub: Hub::new(machine::FIRST_REVISION), writer: Mutex::new(()) }
    }

    /// Forgets history before `oldest`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the disk fails.
    pub fn compact(&self, oldest: Revision) -> Result<(), StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.disk.update(&mut |batch| machine::compact(batch, oldest))?;
        let mut swept = Swept::More;
        while swept == Swept::More {
            self.disk.update(&mut |batch| machine::sweep(batch, SWEEP_LIMIT).map(|now| swept = now))?;
        }
        Ok(())
    }

    fn run(&self, txn: &Txn) -> Result<Answer, StoreError> {
        check(txn)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut applied = None;
        self.disk.update(&mut |batch| machine::apply(batch, txn).map(|now| applied = Some(now)))?;
        match applied.expect("because the update succeeded") {
            Applied::NoLease(lease) => Err(StoreError::Lease { lease, problem: LeaseProblem::Missing }),
            Applied::Ran { answer, events } => {
                if let Some(events) = &events {
                    self.hub.publish(events);
                }
                Ok(answer)
            }
        }
    }
}

impl Store for LocalStore {
    fn range(&self, request: RangeRequest, _: Consistency) -> BoxFuture<'_, Result<RangeAnswer, StoreError>> {
        let answer = self.disk.view().map_err(StoreError::from).and_then(|view| machine::range(&*view, &request));
        Box::pin(ready(answer))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Answer, StoreError>> {
        Box::pin(ready(self.run(&txn)))
    }

    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watcher>, StoreError>> {
        let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as Arc<dyn Disk>;
        let watcher = CatchUp::begin(disk, &self.hub, start, end, after);
        Box::pin(ready(watcher.map(|watcher| Box::new(watcher) as Box<dyn Watcher>)))
    }

    fn revision(&self) -> Revision {
        self.hub.published()
    }
}
