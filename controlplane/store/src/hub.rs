//! Fan-out of changes to watchers: a bounded buffer each, and a waker. Needs no runtime.
//!
//! Whoever commits changes calls [`Hub::publish`] in revision order after the commit; a [`Subscription`] gets what comes after its
//! beginning. What came before is on the disk: see [`CatchUp`](crate::CatchUp).

use crate::{Event, EventBatch, StoreError, WATCH_BUFFER_LIMIT};
use bytes::Bytes;
use machined_ids::Revision;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Everybody who watches one store.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    published: Revision,
    next_id: u64,
    slots: BTreeMap<u64, Slot>,
    /// Why there is nothing more to come.
    closed: Option<String>,
}

#[derive(Debug)]
struct Slot {
    start: Bytes,
    end: Bytes,
    buffer: VecDeque<EventBatch>,
    lagged: bool,
    waker: Option<Waker>,
}

/// One watcher's place in the hub; dropping it frees it.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    id: u64,
}

impl Hub {
    /// A hub whose store is at `revision`.
    #[must_use]
    pub fn new(revision: Revision) -> Arc<Self> {
        let state = State { published: revision, next_id: 0, slots: BTreeMap::new(), closed: None };
        Arc::new(Hub { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision that was published.
    #[must_use]
    pub fn published(&self) -> Revision {
        self.state().published
    }

    /// Subscribes to changes of `start <= key < end`, and says after which revision they begin.
    pub fn subscribe(self: &Arc<Self>, start: Bytes, end: Bytes) -> (Subscription, Revision) {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.slots.insert(id, Slot { start, end, buffer: VecDeque::new(), lagged: false, waker: None });
        (Subscription { hub: Arc::clone(self), id }, state.published)
    }

    /// Hands a revision's changes to those who watch them. Call it in revision order, after the commit.
    pub fn publish(&self, batch: &EventBatch) {
        let mut wake = Vec::new();
        let mut state = self.state();
        assert!(batch.revision > state.published, "a revision was published out of order");
        state.published = batch.revision;
        for slot in state.slots.values_mut() {
            if slot.take(batch) {
                wake.extend(slot.waker.take());
            }
        }
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Starts over at `revision` after the tables were replaced: everybody has to list again.
    pub fn reset(&self, revision: Revision) {
        let mut state = self.state();
        state.published = revision;
        let mut wake = Vec::new();
        for slot in state.slots.values_mut() {
            slot.lag();
            wake.extend(slot.waker.take());
        }
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Ends every watch, once its buffer is read, with [`StoreError::Unavailable`].
    pub fn close(&self, reason: &str) {
        let mut state = self.state();
        state.closed = Some(reason.to_owned());
        let wake: Vec<Waker> = state.slots.values_mut().filter_map(|slot| slot.waker.take()).collect();
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }
}

impl Slot {
    /// Buffers what is inside the range; says whether there was anything.
    fn take(&mut self, batch: &EventBatch) -> bool {
        let inside = |event: &&Event| self.start <= event.key() && event.key() < &self.end;
        let events: Vec<Event> = batch.events.iter().filter(inside).cloned().collect();
        if events.is_empty() || self.lagged {
            return false;
        }
        if self.buffer.len() >= WATCH_BUFFER_LIMIT {
            self.lag();
        } else {
            self.buffer.push_back(EventBatch { revision: batch.revision, events });
        }
        true
    }

    /// What is buffered could still be read, but there would be a gap behind it that nobody sees coming: better now than later.
    fn lag(&mut self) {
        self.lagged = true;
        self.buffer = VecDeque::new();
    }
}

impl Subscription {
    /// The next batch, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Lagged`] or [`StoreError::Unavailable`]; the subscription is over then.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<EventBatch, StoreError>> {
        let mut state = self.hub.state();
        let closed = state.closed.clone();
        let slot = state.slots.get_mut(&self.id).expect("because a slot goes with its subscription only");
        if slot.lagged {
            return Poll::Ready(Err(StoreError::Lagged));
        }
        if let Some(batch) = slot.buffer.pop_front() {
            return Poll::Ready(Ok(batch));
        }
        if let Some(reason) = closed {
            return Poll::Ready(Err(StoreError::Unavailable { reason, sent: false }));
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// The newest published revision, when nothing is buffered and nothing was lost.
    #[must_use]
    pub fn drained(&self) -> Option<Revision> {
        let state = self.hub.state();
        let slot = state.slots.get(&self.id).expect("because a slot goes with its subscription only");
        (slot.buffer.is_empty() && !slot.lagged).then_some(state.published)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.state().slots.remove(&self.id);
    }
}
