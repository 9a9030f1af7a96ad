//! Works a queue of keys off: the loop that every controller shares.

use crate::informer::Synced;
use machined_reconcile::{Outcome, Queue, Restart, Stop, Supervisor};
use std::fmt::Display;
use std::future::Future;

/// Spawns `workers` tasks that wait for the caches, then reconcile keys until the process stops.
///
/// A failed key comes back after its back-off; a conflict is logged at debug level only, for the cache was just behind.
pub fn spawn_workers<K, F, T, E>(
    supervisor: &Supervisor,
    name: &'static str,
    workers: usize,
    queue: &Queue<K>,
    synced: &[Synced],
    reconcile: F,
) where
    K: Ord + Clone + Display + Send + Sync + 'static,
    F: Fn(K) -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<Outcome, E>> + Send + 'static,
    E: std::error::Error + Send + 'static,
{
    for number in 0..workers {
        let (queue, synced, reconcile) = (queue.clone(), synced.to_vec(), reconcile.clone());
        supervisor.spawn(format!("{name} worker {number}"), Restart::Always, move |stop| {
            work(name, queue.clone(), synced.clone(), reconcile.clone(), stop)
        });
    }
}

async fn work<K, F, T, E>(
    name: &'static str,
    queue: Queue<K>,
    synced: Vec<Synced>,
    reconcile: F,
    mut stop: Stop,
) -> Result<(), E>
where
    K: Ord + Clone + Display,
    F: Fn(K) -> T,
    T: Future<Output = Result<Outcome, E>>,
    E: std::error::Error + 'static,
{
    let mut stopping = stop.clone();
    let ready = async {
        for mut cache in synced {
            cache.wait().await;
        }
    };
    tokio::select! {
        () = ready => {}
        () = stopping.requested() => return Ok(()),
    }
    loop {
        let key = tokio::select! {
            key = queue.take() => key,
            () = stop.requested() => return Ok(()),
        };
        let mut job = Job { queue: &queue, key, failed: true };
        match reconcile(job.key.clone()).await {
            Ok(Outcome::Done) => job.failed = false,
            Ok(Outcome::Again(delay)) => {
                job.failed = false;
                queue.add_after(job.key.clone(), delay);
            }
            Err(error) => log(name, &job.key, &error),
        }
    }
}

fn log(controller: &'static str, key: &dyn Display, error: &(dyn std::error::Error + 'static)) {
    let mut text = error.to_string();
    let mut conflict = false;
    let mut cause = Some(error);
    while let Some(error) = cause {
        conflict |= error.downcast_ref::<crate::ClientError>().is_some_and(crate::ClientError::is_conflict);
        cause = error.source();
        if let Some(next) = cause {
            text = format!("{text}: {next}");
        }
    }
    if conflict {
        tracing::debug!(controller, %key, error = text, "the object changed meanwhile, trying again");
    } else {
        tracing::warn!(controller, %key, error = text, "a reconciliation failed, trying again");
    }
}

/// Gives the key back to the queue even when the work panics.
struct Job<'a, K: Ord + Clone> {
    queue: &'a Queue<K>,
    key: K,
    failed: bool,
}

impl<K: Ord + Clone> Drop for Job<'_, K> {
    fn drop(&mut self) {
        self.queue.done(&self.key, self.failed);
    }
}
