//! Owns every task of a process: name, restart rule, end.
//!
//! ```text
//! spawn -> running -> ended well ----------------> gone          (Restart::Never, or stop was asked)
//!             ^  \--> failed or panicked -> back-off -> running   (Restart::Always)
//! stop(): every task sees its Stop; after the grace period what still runs is aborted.
//! ```

use crate::{Backoff, story};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

/// Whether a task that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Its end is its end; an error or a panic is logged.
    Never,
    /// It should run as long as the process: any end but a stop starts it again after a back-off.
    Always,
}

/// Tells a task that the process wants to end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits until the process wants to end. Cancel-safe.
    pub async fn requested(&mut self) {
        // The sender lives in the supervisor; its loss means the same.
        let _sender_gone_or_stopping = self.0.wait_for(|stopping| *stopping).await;
    }

    /// Whether the process wants to end.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}

/// The task tree of a process. Clones are handles to the same tree.
#[derive(Debug, Clone)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stopping: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A tree without tasks.
    #[must_use]
    pub fn new() -> Self {
        Supervisor(Arc::new(Inner { stopping: watch::Sender::new(false), tasks: Mutex::new(JoinSet::new()) }))
    }

    /// What tasks watch to end in time.
    #[must_use]
    pub fn stop_signal(&self) -> Stop {
        Stop(self.0.stopping.subscribe())
    }

    /// Starts a task. `make` is called for every start and gets the stop signal.
    pub fn spawn<F, T, E>(&self, name: impl Into<String>, restart: Restart, make: F)
    where
        F: FnMut(Stop) -> T + Send + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let stop = self.stop_signal();
        let task = supervise(name.into(), restart, make, stop);
        let mut tasks = self.0.tasks.lock().expect("because no holder of this lock panics: it only adds tasks");
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Asks every task to end, waits up to `grace`, then aborts what still runs.
    pub async fn stop(&self, grace: Duration) {
        self.0.stopping.send_replace(true);
        let mut tasks = std::mem::take(
            &mut *self.0.tasks.lock().expect("because no holder of this lock panics: it only adds tasks"),
        );
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all_ended).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "tasks did not end in time and are aborted");
            tasks.shutdown().await;
        }
    }
}

async fn supervise<F, T, E>(name: String, restart: Restart, mut make: F, mut stop: Stop)
where
    F: FnMut(Stop) -> T + Send + 'static,
    T: Future<Output = Result<(), E>> + Send + 'static,
    E: std::error::Error + Send + 'static,
{
    /// A run of this length makes earlier failures forgotten.
    const STABLE: Duration = Duration::from_secs(60);
    let mut failures = 0;
    loop {
        let started = tokio::time::Instant::now();
        // Its own task, so that a panic ends it and not the supervision; the set aborts it when this future is dropped.
        let mut run = JoinSet::new();
        run.spawn(make(stop.clone()));
        let ended = run.join_next().await.expect("because one task was just put into the set");
        log_end(&name, ended);
        if restart == Restart::Never || stop.is_requested() {
            return;
        }
        failures = if started.elapsed() >= STABLE { 1 } else { failures + 1 };
        tokio::select! {
            () = tokio::time::sleep(Backoff::TASK.delay(failures)) => {}
            () = stop.requested() => return,
        }
    }
}

fn log_end<E: std::error::Error>(name: &str, ended: Result<Result<(), E>, JoinError>) {
    match ended {
        Ok(Ok(())) => tracing::debug!(task = name, "task ended"),
        Ok(Err(error)) => tracing::error!(task = name, error = story(&error), "task failed"),
        Err(panic) => tracing::error!(task = name, error = %panic, "task panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug, thiserror::Error)]
    #[error("it broke")]
    struct Broken;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_or_panics_is_started_again() {
        let starts = Arc::new(AtomicU32::new(0));
        let (third_start, mut seen) = watch::channel(false);
        let supervisor = Supervisor::new();
        let count = Arc::clone(&starts);
        supervisor.spawn("unlucky", Restart::Always, move |mut stop| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            let third_start = third_start.clone();
            async move {
                match number {
                    1 => Err(Broken),
                    2 => panic!("the second start panics"),
                    _ => {
                        third_start.send_replace(true);
                        stop.requested().await;
                        Ok(())
                    }
                }
            }
        });
        seen.wait_for(|seen| *seen).await.expect("because the task holds the sender");
        supervisor.stop(Duration::from_secs(1)).await;
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_stop_is_aborted_after_the_grace_period() {
        let supervisor = Supervisor::new();
        supervisor.spawn("deaf", Restart::Always, |_| std::future::pending::<Result<(), Broken>>());
        let start = tokio::time::Instant::now();
        supervisor.stop(Duration::from_secs(3)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }
}
