//! The loop around one controller: woken by signal and by period, idempotent, told nothing about what changed.
//!
//! The composition root calls [`start`] once for each controller. The task belongs to the [`Supervisor`]: a panic in a
//! reconciliation ends that run only, and the controller goes on with the state it had.

use crate::failures::Failures;
use crate::ports::Ports;
use machined_reconcile::{Backoff, Outcome, Restart, Stop, Supervisor, Wakeups, story};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Longest delay after failures in a row; a machine that cannot do something tries again within this time.
const FAILURE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), limit: Duration::from_secs(15) };

/// Makes one part of the world as its inputs say.
pub trait Controller: Send + 'static {
    /// Why a reconciliation could not be finished.
    type Error: std::error::Error + Send;

    /// How often to look even when nothing was signalled.
    const PERIOD: Duration = Duration::from_secs(60);

    /// Compares what should be with what is, for the whole set, and acts on the difference.
    ///
    /// # Errors
    /// When something could not be done; it is logged and tried again after a back-off.
    fn reconcile(&mut self) -> impl Future<Output = Result<Outcome, Self::Error>> + Send;
}

/// Runs `controller` under `supervisor` until that stops.
pub fn start<C: Controller>(supervisor: &Supervisor, ports: &Ports, controller: C) {
    let name = ports.name();
    tracing::debug!(controller = name, reads = ?ports.reads(), writes = ?ports.writes(), "controller starts");
    let (trigger, failures) = (ports.trigger(), ports.failures());
    let controller = Arc::new(Mutex::new(controller));
    supervisor.spawn(name, Restart::Always, move |stop| {
        let controller = Arc::clone(&controller);
        let (wakeups, failures) = (trigger.wakeups(C::PERIOD), failures.clone());
        async move {
            run(name, &mut *controller.lock().await, wakeups, &failures, stop).await;
            Ok::<(), Infallible>(())
        }
    });
}

async fn run<C: Controller>(
    name: &'static str,
    controller: &mut C,
    mut wakeups: Wakeups,
    failing: &Failures,
    mut stop: Stop,
) {
    let mut failures = 0;
    loop {
        tokio::select! {
            () = stop.requested() => return,
            () = wakeups.next() => {}
        }
        match controller.reconcile().await {
            Ok(Outcome::Done) => {
                failures = 0;
                failing.clear(name);
            }
            Ok(Outcome::Again(delay)) => {
                failures = 0;
                failing.clear(name);
                wakeups.again(delay);
            }
            Err(error) => {
                failures += 1;
                let story = story(&error);
                tracing::error!(controller = name, attempt = failures, error = story, "reconciliation failed");
                failing.set(name, story);
                wakeups.again(FAILURE_BACKOFF.delay(failures));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Reader, Resource, Store, Writer};

    #[derive(Debug, Clone, PartialEq)]
    struct Wanted(u32);
    impl Resource for Wanted {
        const KIND: &'static str = "wanted";
    }
    #[derive(Debug, Clone, PartialEq)]
    struct Doubled(u32);
    impl Resource for Doubled {
        const KIND: &'static str = "doubled";
    }

    #[derive(Debug, thiserror::Error)]
    #[error("thirteen is refused")]
    struct Thirteen;

    struct Doubler {
        wanted: Reader<Wanted>,
        doubled: Writer<Doubled>,
        attempts: u32,
    }
    impl Controller for Doubler {
        type Error = Thirteen;
        async fn reconcile(&mut self) -> Result<Outcome, Thirteen> {
            self.attempts += 1;
            let wanted = self.wanted.all();
            assert!(!wanted.contains_key("panic") || self.attempts > 1, "the first attempt panics");
            if wanted.values().any(|w| w.0 == 13) && self.attempts < 3 {
                return Err(Thirteen);
            }
            self.doubled.replace(wanted.iter().map(|(id, w)| (id.clone(), Doubled(w.0 * 2))).collect());
            Ok(Outcome::Done)
        }
    }

    fn doubler(store: &Store) -> (Ports, Doubler) {
        let mut ports = Ports::new(store, "doubler");
        let (wanted, doubled) = (ports.input(), ports.output());
        (ports, Doubler { wanted, doubled, attempts: 0 })
    }

    async fn result_of(id: &'static str, value: u32) -> u32 {
        let (store, supervisor) = (Store::new(), Supervisor::new());
        let (ports, controller) = doubler(&store);
        assert_eq!((ports.reads(), ports.writes()), (&["wanted"][..], &["doubled"][..]));
        let writer = store.writer::<Wanted>().expect("because nobody else writes it");
        writer.put(id, Wanted(value));
        start(&supervisor, &ports, controller);
        let set = store.reader::<Doubled>().wait_for(|set| set.contains_key(id)).await;
        supervisor.stop(Duration::from_secs(1)).await;
        set[id].0
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_an_input_reaches_the_output() {
        assert_eq!(result_of("a", 4).await, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_reconciliation_is_tried_again() {
        assert_eq!(result_of("a", 13).await, 26);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shown_until_it_is_over() {
        let (store, supervisor) = (Store::new(), Supervisor::new());
        let (ports, controller) = doubler(&store);
        let writer = store.writer::<Wanted>().expect("because nobody else writes it");
        writer.put("a", Wanted(13));
        let mut failures = store.failures().watch();
        start(&supervisor, &ports, controller);
        let shown = failures.wait_for(|all| !all.is_empty()).await.expect("because the store lives").clone();
        assert_eq!(shown["doubler"], "thirteen is refused");
        failures.wait_for(|all| all.is_empty()).await.expect("because the third attempt works");
        supervisor.stop(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_one_reconciliation_only() {
        assert_eq!(result_of("panic", 5).await, 10);
    }
}
