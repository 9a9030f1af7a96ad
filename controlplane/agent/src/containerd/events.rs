//! containerd's event stream, boiled down to what wakes the agent: which container ended or ran out of memory.

use super::{Containerd, NAMESPACE, labels};
use crate::runtime::RuntimeError;
use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::tonic::Streaming;
use containerd_client::types::Envelope;
use futures_util::StreamExt;
use prost::Message;

/// An open subscription.
pub(crate) struct TaskEvents {
    containerd: Containerd,
    stream: Streaming<Envelope>,
}

impl Containerd {
    /// Subscribes to the ends of our containers.
    ///
    /// # Errors
    /// When containerd cannot be reached.
    pub(crate) async fn task_events(&self) -> Result<TaskEvents, RuntimeError> {
        let filter = |topic: &str| format!("namespace=={NAMESPACE},topic==\"{topic}\"");
        let filters = vec![filter("/tasks/exit"), filter("/tasks/oom")];
        let mut client = EventsClient::new(self.channel.clone());
        let stream = client.subscribe(self.waiting_request(SubscribeRequest { filters })).await;
        let stream = stream.map_err(self.failed("tell of containers that end"))?.into_inner();
        Ok(TaskEvents { containerd: self.clone(), stream })
    }
}

impl TaskEvents {
    /// Id of the next container whose first process ended; none when the subscription ended.
    ///
    /// # Errors
    /// When the stream breaks.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, RuntimeError> {
        while let Some(envelope) = self.stream.next().await {
            let envelope = envelope.map_err(self.containerd.failed("tell of containers that end"))?;
            let Some(event) = &envelope.event else { continue };
            if envelope.topic == "/tasks/oom" {
                if let Ok(oom) = TaskOom::decode(event.value.as_slice()) {
                    let label = (labels::OUT_OF_MEMORY.to_owned(), "true".to_owned());
                    self.containerd.label(&oom.container_id, labels::Labels::from([label])).await?;
                }
            } else if let Ok(exit) = TaskExit::decode(event.value.as_slice()) {
                // Processes that were started beside the first one have an id of their own.
                if exit.id == exit.container_id {
                    return Ok(Some(exit.container_id));
                }
            }
        }
        Ok(None)
    }
}
