//! A watch from any kept revision: first history from the disk, then what the hub brings. No gap, no repeat.

use crate::disk::Disk;
use crate::hub::{Hub, Subscription};
use crate::machine::{self, Changes};
use crate::{BoxFuture, EventBatch, StoreError, Watcher};
use bytes::Bytes;
use machined_ids::Revision;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Changes looked at in one step of catching up: bounds both memory and the time that a step holds its thread.
const STEP_LIMIT: usize = 512;

/// A [`Watcher`] over a disk and its hub.
pub struct CatchUp {
    disk: Arc<dyn Disk>,
    range: (Bytes, Bytes),
    subscription: Subscription,
    /// The hub brings everything after this revision; history is read up to it.
    joined: Revision,
    /// History was read up to here.
    read: Revision,
    /// Read from history, not yet returned.
    pending: VecDeque<EventBatch>,
    /// The last revision returned.
    returned: Revision,
}

impl CatchUp {
    /// Begins a watch of `start <= key < end` after `after`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`], or [`StoreError::Unavailable`] when the disk fails.
    pub fn begin(
        disk: Arc<dyn Disk>,
        hub: &Arc<Hub>,
        start: Bytes,
        end: Bytes,
        after: Revision,
    ) -> Result<Self, StoreError> {
        // Subscribing first: what is published while history is read waits in the buffer.
        let (subscription, joined) = hub.subscribe(start.clone(), end.clone());
        machine::position(&*disk.view()?)?.admits(after)?;
        let pending = VecDeque::new();
        // The caller may have seen a commit that is not published yet; its events will come, and must not come again.
        Ok(CatchUp { disk, range: (start, end), subscription, joined, read: after, pending, returned: after })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<EventBatch, StoreError>> {
        loop {
            if let Some(batch) = self.pending.pop_front() {
                self.returned = batch.revision;
                return Poll::Ready(Ok(batch));
            }
            if self.read < self.joined {
                let view = self.disk.view()?;
                let range = (&self.range.0, &self.range.1);
                let Changes { batches, through } = machine::changes(&*view, range, self.read, self.joined, STEP_LIMIT)?;
                (self.read, self.pending) = (through, batches.into());
                continue;
            }
            match self.subscription.poll_next(context) {
                Poll::Ready(Ok(batch)) if batch.revision <= self.read => {}
                Poll::Ready(Ok(batch)) => {
                    self.returned = batch.revision;
                    return Poll::Ready(Ok(batch));
                }
                other @ (Poll::Ready(Err(_)) | Poll::Pending) => return other,
            }
        }
    }
}

impl Watcher for CatchUp {
    fn next(&mut self) -> BoxFuture<'_, Result<EventBatch, StoreError>> {
        Box::pin(poll_fn(|context| self.poll(context)))
    }

    fn progress(&self) -> Revision {
        if !self.pending.is_empty() {
            return self.returned;
        }
        if self.read < self.joined {
            return self.read;
        }
        self.subscription.drained().unwrap_or(self.returned).max(self.returned)
    }
}
