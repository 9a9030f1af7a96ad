//! A watch: the store's batches as a stream of JSON events, one a line.
//!
//! The stream is driven by its reader; there is no task and no queue here beyond the events of one batch. Its revisions are
//! the store's; an object that leaves the selection is told as DELETED with the event's own revision.

use crate::body::{Body, BoxError};
use crate::failure::Failure;
use crate::negotiate::Shape;
use crate::selection::Selection;
use crate::storage::decode_at;
use bytes::{BufMut, Bytes, BytesMut};
use controlplane_store::{Event, EventBatch, Watcher};
use controlplane_types::object;
use controlplane_types::table::{self, IncludeObject};
use controlplane_types::{ApiError, KindInfo};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use machined_ids::Revision;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Time between bookmarks, as upstream.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// What a watch is to deliver.
pub(crate) struct Watch {
    pub(crate) kind: Arc<KindInfo>,
    pub(crate) selection: Selection,
    pub(crate) shape: Shape,
    /// For `Shape::Table`: how much of each object a row carries.
    pub(crate) include_object: IncludeObject,
    /// Whether the client wants bookmarks.
    pub(crate) bookmarks: bool,
    /// Objects to begin with, as ADDED; followed by the bookmark that ends them when `initial_end` is set.
    pub(crate) initial: Vec<Value>,
    /// The revision of the initial state, when the client asked to be told where it ends.
    pub(crate) initial_end: Option<Revision>,
    /// When the server ends it.
    pub(crate) timeout: Duration,
}

/// Runs a watch as a response body.
pub(crate) fn body(watch: Watch, watcher: Box<dyn Watcher>) -> Body {
    let mut bookmark = tokio::time::interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
    bookmark.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Instant::now() + watch.timeout;
    let mut encoder = Encoder { watch, columns_sent: false };
    let first = encoder.initial();
    let running = Running { encoder, watcher, bookmark, deadline, first, over: false };
    StreamBody::new(stream::unfold(running, step)).boxed_unsync()
}

struct Running {
    encoder: Encoder,
    watcher: Box<dyn Watcher>,
    bookmark: Interval,
    deadline: Instant,
    first: Bytes,
    over: bool,
}

async fn step(mut running: Running) -> Option<(Result<Frame<Bytes>, BoxError>, Running)> {
    if !running.first.is_empty() {
        let bytes = std::mem::take(&mut running.first);
        return Some((Ok(Frame::data(bytes)), running));
    }
    while !running.over {
        let bytes = running.wait().await;
        if !bytes.is_empty() {
            return Some((Ok(Frame::data(bytes)), running));
        }
    }
    None
}

impl Running {
    /// Waits for the next thing to say; empty when there is nothing for this client in it.
    async fn wait(&mut self) -> Bytes {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(self.deadline) => {
                self.over = true;
                Bytes::new()
            }
            batch = self.watcher.next() => match batch.map_err(Failure::from).and_then(|b| Ok(self.encoder.batch(&b)?)) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.over = true;
                    line(&json!({"type": "ERROR", "object": error.status().1}))
                }
            },
            _ = self.bookmark.tick() => {
                if self.encoder.watch.bookmarks {
                    self.encoder.bookmark(self.watcher.progress(), false)
                } else {
                    Bytes::new()
                }
            }
        }
    }
}

/// Turns changes into lines.
struct Encoder {
    watch: Watch,
    /// A table's columns are sent with the first event only.
    columns_sent: bool,
}

impl Encoder {
    fn initial(&mut self) -> Bytes {
        let mut bytes = BytesMut::new();
        for object in std::mem::take(&mut self.watch.initial) {
            bytes.put(self.line("ADDED", object));
        }
        if let Some(revision) = self.watch.initial_end {
            bytes.put(self.bookmark(revision, true));
        }
        bytes.freeze()
    }

    fn batch(&mut self, batch: &EventBatch) -> Result<Bytes, ApiError> {
        let mut bytes = BytesMut::new();
        for event in &batch.events {
            if let Some((kind, object)) = self.change(event, batch.revision)? {
                bytes.put(self.line(kind, object));
            }
        }
        Ok(bytes.freeze())
    }

    /// What a change is to this watcher.
    fn change(&self, event: &Event, revision: Revision) -> Result<Option<(&'static str, Value)>, ApiError> {
        let selects = |object: &Value| self.watch.selection.matches(&self.watch.kind, object);
        match event {
            Event::Delete { previous } => {
                let object = decode_at(&self.watch.kind, &previous.value, revision)?;
                Ok(selects(&object).then_some(("DELETED", object)))
            }
            Event::Put { entry, previous } => {
                let object = decode_at(&self.watch.kind, &entry.value, entry.modified)?;
                let everything = self.watch.selection.is_everything();
                let before = match previous {
                    Some(_) if everything => true,
                    Some(previous) => selects(&decode_at(&self.watch.kind, &previous.value, revision)?),
                    None => false,
                };
                Ok(match (before, everything || selects(&object)) {
                    (false, true) => Some(("ADDED", object)),
                    (true, true) => Some(("MODIFIED", object)),
                    (true, false) => {
                        // The last state that the watcher may see is the one before.
                        let previous = previous.as_ref().expect("because only a previous object was selected before");
                        Some(("DELETED", decode_at(&self.watch.kind, &previous.value, revision)?))
                    }
                    (false, false) => None,
                })
            }
        }
    }

    fn bookmark(&mut self, revision: Revision, ends_initial: bool) -> Bytes {
        let kind = &self.watch.kind;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.watch.shape {
            Shape::Object => json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": metadata}),
            Shape::Metadata => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
            }
            Shape::Table => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table", "metadata": metadata,
                    "columnDefinitions": null, "rows": []})
            }
        };
        line(&json!({"type": "BOOKMARK", "object": object}))
    }

    fn line(&mut self, kind: &'static str, object: Value) -> Bytes {
        let object = match self.watch.shape {
            Shape::Object => object,
            Shape::Metadata => object::partial_metadata(&object),
            Shape::Table => {
                let now = jiff::Timestamp::now();
                let table = table::of_object(&self.watch.kind, &object, self.watch.include_object, now);
                if std::mem::replace(&mut self.columns_sent, true) { table::without_columns(table) } else { table }
            }
        };
        line(&json!({"type": kind, "object": object}))
    }
}

fn line(event: &Value) -> Bytes {
    let mut text = event.to_string();
    text.push('\n');
    Bytes::from(text)
}
