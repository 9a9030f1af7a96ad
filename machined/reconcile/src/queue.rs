//! A work queue of keys: each key at most once, never worked on twice at a time, with delay and back-off per key.
//!
//! [`QueueCore`] decides and is pure: time comes in as an offset from a start. [`Queue`] is the core behind a lock and a clock.

use crate::Backoff;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The queue's decisions, driven by `now`.
#[derive(Debug)]
pub struct QueueCore<K> {
    backoff: Backoff,
    ready: VecDeque<K>,
    queued: BTreeSet<K>,
    working: BTreeSet<K>,
    /// Keys that were added while being worked on; they come back when the work is done.
    dirty: BTreeSet<K>,
    delayed: BTreeSet<(Duration, K)>,
    due: BTreeMap<K, Duration>,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord + Clone> QueueCore<K> {
    /// An empty queue whose failing keys wait as `backoff` says.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        QueueCore {
            backoff,
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            working: BTreeSet::new(),
            dirty: BTreeSet::new(),
            delayed: BTreeSet::new(),
            due: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Asks for `key` to be worked on as soon as nobody does.
    pub fn add(&mut self, key: K) {
        self.cancel_delay(&key);
        if self.working.contains(&key) {
            self.dirty.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Asks for `key` at `at` at the latest; an earlier request stands.
    pub fn add_at(&mut self, key: K, at: Duration) {
        if self.queued.contains(&key) || self.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        self.cancel_delay(&key);
        self.due.insert(key.clone(), at);
        self.delayed.insert((at, key));
    }

    /// Takes the next key to work on. [`QueueCore::done`] must follow.
    pub fn take(&mut self, now: Duration) -> Option<K> {
        while let Some((at, key)) = self.delayed.first().cloned() {
            if at > now {
                break;
            }
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// Ends the work on `key`. A failure brings it back after its back-off; success forgets earlier failures.
    pub fn done(&mut self, key: &K, failed: bool, now: Duration) {
        self.working.remove(key);
        if failed {
            let failures = self.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            let delay = self.backoff.delay(*failures);
            self.add_at(key.clone(), now.saturating_add(delay));
        } else {
            self.failures.remove(key);
        }
        if self.dirty.remove(key) {
            self.add(key.clone());
        }
    }

    /// When the next delayed key is due, if there is one.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.delayed.first().map(|(at, _)| *at)
    }

    fn cancel_delay(&mut self, key: &K) {
        if let Some(at) = self.due.remove(key) {
            self.delayed.remove(&(at, key.clone()));
        }
    }
}

/// A [`QueueCore`] that tasks share. Clones are handles to the same queue.
///
/// It holds each key once, so its size is bounded by the number of objects that its users watch.
#[derive(Debug)]
pub struct Queue<K>(Arc<Shared<K>>);

#[derive(Debug)]
struct Shared<K> {
    core: Mutex<QueueCore<K>>,
    start: Instant,
    changed: Notify,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Queue(Arc::clone(&self.0))
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// An empty queue whose failing keys wait as `backoff` says.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        let core = Mutex::new(QueueCore::new(backoff));
        Queue(Arc::new(Shared { core, start: Instant::now(), changed: Notify::new() }))
    }

    /// Asks for `key` to be worked on as soon as nobody does.
    pub fn add(&self, key: K) {
        self.core().add(key);
        self.0.changed.notify_one();
    }

    /// Asks for `key` after `delay` at the latest.
    pub fn add_after(&self, key: K, delay: Duration) {
        let at = self.0.start.elapsed().saturating_add(delay);
        self.core().add_at(key, at);
        self.0.changed.notify_one();
    }

    /// Waits for the next key. [`Queue::done`] must follow. Cancel-safe.
    pub async fn take(&self) -> K {
        loop {
            let (key, due) = {
                let mut core = self.core();
                let key = core.take(self.0.start.elapsed());
                (key, core.next_due())
            };
            if let Some(key) = key {
                // Another worker may sleep while more is ready.
                self.0.changed.notify_one();
                return key;
            }
            let changed = self.0.changed.notified();
            match due {
                None => changed.await,
                Some(due) => {
                    let _whichever_came_first = tokio::time::timeout_at(self.0.start + due, changed).await;
                }
            }
        }
    }

    /// Ends the work on `key`; see [`QueueCore::done`].
    pub fn done(&self, key: &K, failed: bool) {
        let now = self.0.start.elapsed();
        self.core().done(key, failed, now);
        self.0.changed.notify_one();
    }

    fn core(&self) -> MutexGuard<'_, QueueCore<K>> {
        self.0.core.lock().expect("because no holder of this lock panics: the core only moves keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn core() -> QueueCore<&'static str> {
        QueueCore::new(Backoff { base: SECOND, limit: 4 * SECOND })
    }

    #[test]
    fn a_key_added_twice_is_worked_on_once() {
        let mut queue = core();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.take(Duration::ZERO), Some("a"));
        assert_eq!(queue.take(Duration::ZERO), None);
    }

    #[test]
    fn a_key_added_during_its_work_comes_back_afterwards_only() {
        let mut queue = core();
        queue.add("a");
        assert_eq!(queue.take(Duration::ZERO), Some("a"));
        queue.add("a");
        assert_eq!(queue.take(Duration::ZERO), None);
        queue.done(&"a", false, Duration::ZERO);
        assert_eq!(queue.take(Duration::ZERO), Some("a"));
    }

    #[test]
    fn failures_wait_longer_each_time_and_success_forgets_them() {
        let mut queue = core();
        queue.add("a");
        let mut now = Duration::ZERO;
        for wait in [1, 2, 4, 4] {
            assert_eq!(queue.take(now), Some("a"));
            queue.done(&"a", true, now);
            assert_eq!(queue.next_due(), Some(now + wait * SECOND));
            now += wait * SECOND;
        }
        assert_eq!(queue.take(now), Some("a"));
        queue.done(&"a", false, now);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn the_earliest_of_several_delays_stands_and_a_signal_beats_them() {
        let mut queue = core();
        queue.add_at("a", 5 * SECOND);
        queue.add_at("a", 3 * SECOND);
        queue.add_at("a", 9 * SECOND);
        assert_eq!(queue.take(2 * SECOND), None);
        assert_eq!(queue.next_due(), Some(3 * SECOND));
        queue.add("a");
        assert_eq!(queue.take(2 * SECOND), Some("a"));
        assert_eq!(queue.next_due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_worker_gets_delayed_keys_in_time() {
        let queue = Queue::new(Backoff::ITEM);
        queue.add_after("late", 2 * SECOND);
        queue.add_after("early", SECOND);
        let start = Instant::now();
        assert_eq!(queue.take().await, "early");
        assert_eq!(queue.take().await, "late");
        assert!(start.elapsed() >= 2 * SECOND);
    }
}
