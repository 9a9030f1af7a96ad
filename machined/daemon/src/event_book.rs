//! What happened on this machine: the last events in memory, new ones to whoever follows.

use jiff::Timestamp;
use machined_api::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// Events kept: days of a quiet machine.
const RING_EVENTS: usize = 1000;
/// Events that a follower may fall behind before it loses some.
const FOLLOW_EVENTS: usize = 256;

struct Ring {
    events: VecDeque<Event>,
    last: u64,
}

struct Inner {
    ring: Mutex<Ring>,
    followers: broadcast::Sender<Event>,
}

/// The machine's events. Clones are the same book.
#[derive(Clone)]
pub(crate) struct EventBook(Arc<Inner>);

impl Default for EventBook {
    fn default() -> Self {
        let ring = Mutex::new(Ring { events: VecDeque::new(), last: 0 });
        EventBook(Arc::new(Inner { ring, followers: broadcast::Sender::new(FOLLOW_EVENTS) }))
    }
}

impl EventBook {
    /// Adds an event. `kind` is a stable CamelCase word.
    pub(crate) fn add(&self, kind: &str, subject: impl Into<String>, message: impl Into<String>) {
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        let event = Event {
            sequence: ring.last,
            at: Timestamp::now().to_string(),
            r#type: kind.to_owned(),
            subject: subject.into(),
            message: message.into(),
        };
        tracing::info!(event = kind, subject = event.subject, message = event.message, "event");
        ring.events.push_back(event.clone());
        if ring.events.len() > RING_EVENTS {
            ring.events.pop_front();
        }
        // Sent under the lock, so that followers see the numbers in order. Nobody following is fine.
        let _followers = self.0.followers.send(event);
    }

    /// The last `count` events, oldest first, and the ones from now on.
    pub(crate) fn tail(&self, count: usize) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = ring.events.len().saturating_sub(count);
        (ring.events.iter().skip(skip).cloned().collect(), self.0.followers.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn past_and_future_meet_without_a_gap() {
        let book = EventBook::default();
        book.add("ServiceStarted", "service/gitsync", "");
        book.add("ServiceEnded", "service/gitsync", "exited with code 1");
        let (past, mut future) = book.tail(1);
        assert_eq!((past.len(), past[0].sequence), (1, 2));
        book.add("ServiceStarted", "service/gitsync", "");
        assert_eq!(future.recv().await.expect("because one came").sequence, 3);
    }
}
