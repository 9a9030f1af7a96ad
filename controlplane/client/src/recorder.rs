//! Events for people: `kubectl describe` and `kubectl get events` show them. Best effort: nobody waits for one to be written.
//!
//! Task: one, `event recorder`, fed by a bounded channel; what does not fit is dropped and counted in the log.

use crate::client::Client;
use crate::error::{ClientError, Optional};
use crate::object::Kind;
use crate::{Object, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use machined_reconcile::{Restart, Stop, Supervisor};
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// Events that wait to be written; more are dropped, for a burst of them says little new.
const QUEUE_LIMIT: usize = 512;

/// Events whose repetitions are counted in place. Past that the recorder forgets all and starts new ones.
const KNOWN_LIMIT: usize = 1024;

/// Bytes of a message: the API's limit.
const MESSAGE_LIMIT: usize = 1024;

/// Whether people should worry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// It is as it should be.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

/// Records events. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
}

#[derive(Debug, Clone)]
struct Note {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// Starts a recorder; `component` is who says it, `instance` the machine that it runs on.
    #[must_use]
    pub fn start(client: Client, supervisor: &Supervisor, component: &str, instance: &str) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE_LIMIT);
        let writer =
            Writer { client, component: component.to_owned(), instance: instance.to_owned(), known: HashMap::new() };
        let state = Arc::new(Mutex::new((writer, notes)));
        supervisor.spawn("event recorder", Restart::Always, move |stop| run(Arc::clone(&state), stop));
        Recorder { queue }
    }

    /// Records an event about an object.
    pub fn record<K: Kind>(&self, about: &K, kind: EventType, reason: &str, message: impl Into<String>) {
        self.record_about(reference(about), kind, reason, message);
    }

    /// Records an event about something that is only referred to.
    pub fn record_about(&self, about: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let mut message = message.into();
        if message.len() > MESSAGE_LIMIT {
            message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
        }
        let note = Note { about, kind, reason: reason.to_owned(), message, at: Timestamp::now() };
        if self.queue.try_send(note).is_err() {
            tracing::debug!(reason, "an event was dropped because too many wait");
        }
    }
}

/// How an event, or a slice's endpoint, names an object.
#[must_use]
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::RESOURCE.api_version()),
        kind: Some(K::RESOURCE.kind.into_owned()),
        name: object.meta().name.clone(),
        namespace: object.meta().namespace.clone(),
        uid: object.meta().uid.clone(),
        resource_version: object.meta().resource_version.clone(),
        field_path: None,
    }
}

async fn run(state: Arc<Mutex<(Writer, mpsc::Receiver<Note>)>>, mut stop: Stop) -> Result<(), Infallible> {
    let (writer, notes) = &mut *state.lock().await;
    loop {
        let note = tokio::select! {
            note = notes.recv() => note,
            () = stop.requested() => None,
        };
        let Some(note) = note else { return Ok(()) };
        if let Err(error) = writer.write(&note).await {
            tracing::debug!(reason = note.reason, error = %error, "an event could not be written");
        }
    }
}

/// What makes two events one that happened twice: uid, reason, message.
type Likeness = (String, String, String);

struct Writer {
    client: Client,
    component: String,
    instance: String,
    known: HashMap<Likeness, (String, i32)>,
}

impl Writer {
    async fn write(&mut self, note: &Note) -> Result<(), ClientError> {
        let namespace = note.about.namespace.as_deref().unwrap_or("default");
        let api = self.client.namespaced::<Event>(namespace);
        let likeness = (note.about.uid.clone().unwrap_or_default(), note.reason.clone(), note.message.clone());
        if let Some((name, count)) = self.known.get_mut(&likeness) {
            let patch = json!({"count": *count + 1, "lastTimestamp": Time(note.at)});
            if api.patch(name, Patch::Merge(&patch)).await.optional()?.is_some() {
                *count += 1;
                return Ok(());
            }
        }
        let event = self.event(note, namespace);
        let created = api.create(&event).await?;
        if self.known.len() >= KNOWN_LIMIT {
            self.known.clear();
        }
        self.known.insert(likeness, (created.name().to_owned(), 1));
        Ok(())
    }

    fn event(&self, note: &Note, namespace: &str) -> Event {
        let mut event = Event {
            involved_object: note.about.clone(),
            type_: Some(match note.kind {
                EventType::Normal => "Normal".to_owned(),
                EventType::Warning => "Warning".to_owned(),
            }),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            count: Some(1),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            source: Some(EventSource { component: Some(self.component.clone()), host: Some(self.instance.clone()) }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        // As upstream names them: the object, and the time in hex so that no two collide.
        let name = note.about.name.as_deref().unwrap_or("unknown");
        event.metadata.name = Some(format!("{name}.{:x}", note.at.as_nanosecond()));
        event.metadata.namespace = Some(namespace.to_owned());
        event
    }
}
