//! Requests from outside to one controller, answered one by one.
//!
//! An API handler asks and waits; the controller, woken by its trigger, takes what has come and answers. So a controller stays
//! the one writer of its resources, and no lock is held while it works.

use machined_reconcile::Trigger;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Requests that may wait for one controller. Callers are a person or one local service; more than this is a loop gone wrong.
pub const INBOX_MAX: usize = 16;

/// The controller could not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Too many requests wait already.
    #[error("too many requests wait already; try again in a moment")]
    Busy,
    /// The controller gave the request up, as it does when it fails in the middle.
    #[error("the request was given up; see machined's log")]
    GivenUp,
}

/// A request with the place for its answer.
pub type Asked<Q, A> = (Q, oneshot::Sender<A>);

/// The inbox of one controller. Clones are the same inbox.
pub struct Inbox<Q, A> {
    queue: Arc<Mutex<VecDeque<Asked<Q, A>>>>,
    trigger: Trigger,
}

impl<Q, A> Clone for Inbox<Q, A> {
    fn clone(&self) -> Self {
        Inbox { queue: Arc::clone(&self.queue), trigger: self.trigger.clone() }
    }
}

impl<Q, A> Inbox<Q, A> {
    /// An empty inbox that wakes the controller of `trigger`.
    #[must_use]
    pub fn new(trigger: Trigger) -> Self {
        Inbox { queue: Arc::default(), trigger }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`Unanswered`] when the inbox is full or the controller gave up.
    pub async fn ask(&self, request: Q) -> Result<A, Unanswered> {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() >= INBOX_MAX {
                return Err(Unanswered::Busy);
            }
            queue.push_back((request, answer));
        }
        self.trigger.fire();
        answered.await.map_err(|_| Unanswered::GivenUp)
    }

    /// Takes the oldest request. For the controller.
    #[must_use]
    pub fn take(&self) -> Option<Asked<Q, A>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_answered() {
        let inbox = Inbox::<u32, u32>::new(Trigger::new());
        let controller = async {
            tokio::task::yield_now().await;
            let (request, answer) = inbox.take().expect("because one was asked");
            answer.send(request + 1).expect("because the caller waits");
        };
        let (answer, ()) = tokio::join!(inbox.ask(4), controller);
        assert_eq!(answer, Ok(5));
    }

    #[tokio::test]
    async fn a_full_inbox_refuses_at_once() {
        let inbox = Inbox::<u32, u32>::new(Trigger::new());
        let waiting: Vec<_> = (0..INBOX_MAX as u32).map(|n| inbox.ask(n)).collect();
        let all = futures_util::future::join_all(waiting);
        tokio::pin!(all);
        assert!(futures_util::poll!(&mut all).is_pending());
        assert_eq!(inbox.ask(99).await, Err(Unanswered::Busy));
    }
}
