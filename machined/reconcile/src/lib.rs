//! The engine that the machine side and the cluster side share.
//!
//! A reconciler is woken by signal *and* by period, is never told what changed, and answers with an [`Outcome`]. This crate has
//! the parts for that and knows neither machines nor clusters: a keyed queue with back-off ([`Queue`]), triggers whose data is
//! never read ([`Trigger`]), and the [`Supervisor`] that owns every task of a process.

mod backoff;
mod queue;
mod story;
mod supervisor;
mod trigger;

pub use backoff::Backoff;
pub use queue::{Queue, QueueCore};
pub use story::story;
pub use supervisor::{Restart, Stop, Supervisor};
pub use trigger::{Trigger, Wakeups};

use std::time::Duration;

/// What a reconciliation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The world is as it should be; nothing to do until the next signal or period.
    Done,
    /// Come back after this long, signal or not.
    Again(Duration),
}
