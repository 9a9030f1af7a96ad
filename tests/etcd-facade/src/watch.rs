//! The Watch service: each watch of a stream is a task that reads the store's watcher and writes etcd's responses.
//!
//! Tasks: one for each stream, which reads requests, and one for each watch. They end with the stream or the watch.

use crate::error::status;
use crate::wire::{header, key_value, keys, number, revision};
use crate::{Facade, pb};
use bytes::Bytes;
use controlplane_replica::Replica;
use controlplane_store::{Event, EventBatch, Store, StoreError, Watcher};
use machined_ids::Revision;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Responses that wait for a slow client of one stream; the store's own buffer stands behind it.
const RESPONSES: usize = 256;

/// Watches of one stream.
const WATCHES: usize = 20_000;

type Out = mpsc::Sender<Result<pb::WatchResponse, Status>>;

#[tonic::async_trait]
impl pb::watch_server::Watch for Facade {
    type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (out, responses) = mpsc::channel(RESPONSES);
        let stream = Stream { store: Arc::clone(&self.store), out, tasks: JoinSet::new(), watches: BTreeMap::new() };
        tokio::spawn(stream.serve(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// One client's stream.
struct Stream {
    store: Arc<Replica>,
    out: Out,
    tasks: JoinSet<()>,
    watches: BTreeMap<i64, AbortHandle>,
}

impl Stream {
    /// Until the client ends it; dropping the tasks ends the watches.
    async fn serve(mut self, mut requests: Streaming<pb::WatchRequest>) {
        while let Ok(Some(request)) = requests.message().await {
            let told = match request.request_union {
                Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
                Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
                Some(RequestUnion::ProgressRequest(_)) => {
                    let refused = crate::error::not_here("a request for progress");
                    self.out.send(Err(refused)).await.ok()
                }
                None => Some(()),
            };
            if told.is_none() {
                return;
            }
        }
    }

    /// Begins a watch, or says why not; `None` when the client has gone.
    async fn create(&mut self, create: pb::WatchCreateRequest) -> Option<()> {
        let next = self.watches.last_key_value().map_or(0, |(id, _)| id + 1);
        let id = if create.watch_id > 0 { create.watch_id } else { next };
        let current = self.store.revision();
        let created = pb::WatchResponse { header: header(current), watch_id: id, created: true, ..Default::default() };
        if self.watches.len() >= WATCHES || self.watches.contains_key(&id) {
            let reason = "etcd-facade: the stream has such a watch, or too many".to_owned();
            return self.tell(pb::WatchResponse { canceled: true, cancel_reason: reason, ..created }).await;
        }
        let wanted = Wanted {
            id,
            previous: create.prev_kv,
            puts: !create.filters().any(|filter| filter == FilterType::Noput),
            deletions: !create.filters().any(|filter| filter == FilterType::Nodelete),
        };
        let after = revision(create.start_revision).map_or(current, |start| Revision(start.0 - 1));
        // etcd waits for a revision that has not happened; the store's watcher begins now, and what is older is left out.
        let from = after.min(current);
        match self.begin(create.key, create.range_end, from).await {
            Ok(watcher) => {
                self.tell(created).await?;
                let (store, out) = (Arc::clone(&self.store), self.out.clone());
                let task = self.tasks.spawn(async move {
                    follow(&store, watcher, &wanted, after, &out).await;
                });
                self.watches.insert(id, task);
                Some(())
            }
            Err(refused) => {
                self.tell(created).await?;
                self.tell(ended(&self.store, id, &refused)).await
            }
        }
    }

    async fn begin(&self, key: Bytes, end: Bytes, after: Revision) -> Result<Box<dyn Watcher>, StoreError> {
        let (start, end) = keys(key, end).map_err(|_| StoreError::Invalid { reason: "key is not provided" })?;
        self.store.watch(start, end, after).await
    }

    async fn cancel(&mut self, id: i64) -> Option<()> {
        if let Some(task) = self.watches.remove(&id) {
            task.abort();
        }
        let header = header(self.store.revision());
        self.tell(pb::WatchResponse { header, watch_id: id, canceled: true, ..Default::default() }).await
    }

    async fn tell(&self, response: pb::WatchResponse) -> Option<()> {
        self.out.send(Ok(response)).await.ok()
    }
}

/// What a watch shows.
struct Wanted {
    id: i64,
    previous: bool,
    puts: bool,
    deletions: bool,
}

/// Hands on batches until the client has gone or the watch is over.
async fn follow(store: &Replica, mut watcher: Box<dyn Watcher>, wanted: &Wanted, after: Revision, out: &Out) {
    loop {
        let response = match watcher.next().await {
            Ok(batch) if batch.revision <= after => continue,
            Ok(batch) => batch_response(batch, wanted),
            Err(error) => {
                // The client may have gone as well; then nobody needs to hear it.
                let _told = out.send(Ok(ended(store, wanted.id, &error))).await;
                return;
            }
        };
        if !response.events.is_empty() && out.send(Ok(response)).await.is_err() {
            return;
        }
    }
}

fn batch_response(batch: EventBatch, wanted: &Wanted) -> pb::WatchResponse {
    let EventBatch { revision, events } = batch;
    let shown = |event: &Event| match event {
        Event::Put { .. } => wanted.puts,
        Event::Delete { .. } => wanted.deletions,
    };
    let events = events.into_iter().filter(shown).map(|event| match event {
        Event::Put { entry, previous } => pb::Event {
            r#type: pb::event::EventType::Put.into(),
            kv: Some(key_value(entry)),
            prev_kv: previous.filter(|_| wanted.previous).map(key_value),
        },
        Event::Delete { previous } => pb::Event {
            r#type: pb::event::EventType::Delete.into(),
            // etcd shows a deleted key with its name and the revision of the deletion alone.
            kv: Some(pb::KeyValue {
                key: previous.key.clone(),
                mod_revision: number(revision.0),
                ..Default::default()
            }),
            prev_kv: wanted.previous.then(|| key_value(previous)),
        },
    });
    pb::WatchResponse { header: header(revision), watch_id: wanted.id, events: events.collect(), ..Default::default() }
}

/// How a watch ends that the client did not end. What was compacted begins at the oldest revision that can be watched from.
fn ended(store: &Replica, id: i64, error: &StoreError) -> pb::WatchResponse {
    let compact_revision = match error {
        StoreError::Compacted { oldest, .. } => number(oldest.0 + 1),
        StoreError::Future { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Invalid { .. }
        | StoreError::Unavailable { .. }
        | StoreError::Lease { .. }
        | StoreError::Level { .. }
        | StoreError::Lagged => 0,
    };
    pb::WatchResponse {
        header: header(store.revision()),
        watch_id: id,
        canceled: true,
        compact_revision,
        cancel_reason: status(error.clone()).message().to_owned(),
        ..Default::default()
    }
}
