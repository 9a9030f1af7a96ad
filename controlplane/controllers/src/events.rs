//! Forgets events an hour after they were last written. Without it they would fill the store, one for each thing that happens.
//!
//! Woken by: the event itself, and the time at which its hour is over.

use crate::context::{Context, Doing, StepError};
use controlplane_client::{Cache, Change, Client, Kind, MetadataOnly, Object, ObjectKey, spawn_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use machined_reconcile::{Backoff, Outcome, Queue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long an event is kept after it was last written: upstream's default.
const KEEP: Duration = Duration::from_secs(60 * 60);

/// Keys worked on at a time; a burst of events ends an hour later as a burst of deletions.
const WORKERS: usize = 2;

struct Controller {
    client: Client,
    events: Cache<MetadataOnly>,
    /// When each event ends.
    ends: Mutex<HashMap<ObjectKey, Instant>>,
}

pub(crate) fn start(context: &Context) {
    let events = context.informers.metadata(Event::RESOURCE);
    let queue = Queue::new(Backoff::ITEM);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        events: events.cache().clone(),
        ends: Mutex::new(HashMap::new()),
    });
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    events.cache().on_change(move |change| {
        told.changed(&change);
        keys.add(change.newest().key());
    });
    spawn_workers(&context.supervisor, "event expiry", WORKERS, &queue, &[events.synced()], move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(key).await }
    });
}

/// What is left of an event's hour when it is first seen; one of before this process began is older than it looks.
fn left(event: &MetadataOnly, now: Timestamp) -> Duration {
    let made = event.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let age = Duration::try_from(now.duration_since(made)).unwrap_or_default();
    KEEP.saturating_sub(age)
}

impl Controller {
    fn ends(&self) -> MutexGuard<'_, HashMap<ObjectKey, Instant>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, change: &Change<'_, MetadataOnly>) {
        let key = change.newest().key();
        match change {
            Change::Added(event) => drop(self.ends().insert(key, Instant::now() + left(event, Timestamp::now()))),
            Change::Updated { .. } => drop(self.ends().insert(key, Instant::now() + KEEP)),
            Change::Deleted(_) => drop(self.ends().remove(&key)),
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let end = self.ends().get(&key).copied();
        let (Some(end), Some(event)) = (end, self.events.get(&key)) else { return Ok(Outcome::Done) };
        let left = end.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Ok(Outcome::Again(left));
        }
        let preconditions = Preconditions {
            uid: event.metadata.uid.clone(),
            // Written again in this moment, it has another hour.
            resource_version: event.metadata.resource_version.clone(),
        };
        let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
        let api = self.client.namespaced::<Event>(event.namespace().unwrap_or_default());
        api.delete_if_there(event.name(), &options).await.doing(|| format!("delete event {key}"))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_old_event_has_what_is_left_of_its_hour() {
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}});
        let event: MetadataOnly = serde_json::from_value(event).expect("because it is metadata");
        let at = |text: &str| left(&event, text.parse().expect("because it is a time"));
        assert_eq!(at("2026-01-01T00:20:00Z"), Duration::from_secs(40 * 60));
        assert_eq!(at("2026-01-02T00:00:00Z"), Duration::ZERO);
        assert_eq!(at("2025-12-31T23:59:00Z"), KEEP);
    }
}
