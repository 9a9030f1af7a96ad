//! Events about pods: what the agent did and what went wrong, for `kubectl describe`.
//!
//! One task writes them, spawned by [`crate::run`]; senders never wait, and an event too many is dropped, since a
//! slow API must not slow containers down.

use controlplane_client::{Client, ClientError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use machined_reconcile::Stop;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// Events that wait to be written.
const WAITING: usize = 256;
/// Different events that are remembered, so that a repetition counts up instead of filling the store.
const REMEMBERED: usize = 1024;
/// Characters of a message; the API's limit.
const MESSAGE_LIMIT: usize = 1024;

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Gravity {
    /// As it should be.
    Normal,
    /// Not as it should be.
    Warning,
}

/// Where events are handed in. Clones are handles to the same queue.
#[derive(Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<Draft>,
}

/// The receiving end, for the one task that writes.
#[derive(Clone)]
pub(crate) struct EventQueue {
    receiver: Arc<Mutex<mpsc::Receiver<Draft>>>,
}

/// An event to be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Draft {
    namespace: String,
    name: String,
    uid: String,
    container: Option<String>,
    gravity: Gravity,
    reason: &'static str,
    message: String,
}

/// A queue and its two ends.
#[must_use]
pub(crate) fn queue() -> (Events, EventQueue) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Events { sender }, EventQueue { receiver: Arc::new(Mutex::new(receiver)) })
}

impl Events {
    /// Tells something about a pod or one of its containers.
    pub(crate) fn tell(
        &self,
        pod: &Pod,
        container: Option<&str>,
        gravity: Gravity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let message: String = message.into().chars().take(MESSAGE_LIMIT).collect();
        let draft = Draft {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            container: container.map(str::to_owned),
            gravity,
            reason,
            message,
        };
        tracing::debug!(
            pod = draft.name,
            namespace = draft.namespace,
            container,
            reason,
            message = draft.message,
            "pod event"
        );
        if self.sender.try_send(draft).is_err() {
            tracing::debug!(reason, "event dropped, the queue is full");
        }
    }
}

impl EventQueue {
    /// Writes events until the process stops.
    ///
    /// # Errors
    /// Never; the type is there for the supervisor.
    pub(crate) async fn run(self, client: Client, node: String, mut stop: Stop) -> Result<(), ClientError> {
        let mut receiver = self.receiver.lock().await;
        let mut known: HashMap<Draft, (String, i32)> = HashMap::new();
        loop {
            let draft = tokio::select! {
                draft = receiver.recv() => draft,
                () = stop.requested() => return Ok(()),
            };
            let Some(draft) = draft else { return Ok(()) };
            if known.len() >= REMEMBERED {
                known.clear();
            }
            if let Err(error) = write(&client, &node, draft, &mut known).await {
                tracing::debug!(error = %error, "event not written");
            }
        }
    }
}

async fn write(
    client: &Client,
    node: &str,
    draft: Draft,
    known: &mut HashMap<Draft, (String, i32)>,
) -> Result<(), ClientError> {
    let events = client.namespaced::<Event>(&draft.namespace);
    let now = Timestamp::now();
    let time = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    if let Some((name, count)) = known.get_mut(&draft) {
        *count += 1;
        let patch = json!({ "count": *count, "lastTimestamp": time });
        if events.patch(name, controlplane_client::Patch::Merge(&patch)).await.is_ok() {
            return Ok(());
        }
    }
    let name = format!("{}.{:x}", draft.name, now.as_nanosecond());
    let kind = match draft.gravity {
        Gravity::Normal => "Normal",
        Gravity::Warning => "Warning",
    };
    let field = draft.container.as_ref().map(|container| format!("spec.containers{{{container}}}"));
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "name": name, "namespace": draft.namespace },
        "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": draft.namespace, "name": draft.name,
            "uid": draft.uid, "fieldPath": field },
        "type": kind, "reason": draft.reason, "message": draft.message, "count": 1,
        "firstTimestamp": time, "lastTimestamp": time,
        "source": { "component": "cairn-agent", "host": node },
        "reportingComponent": "cairn-agent", "reportingInstance": node,
    });
    let event = serde_json::from_value(event).expect("because the object is made by us");
    events.create(&event).await?;
    known.insert(draft, (name, 1));
    Ok(())
}
