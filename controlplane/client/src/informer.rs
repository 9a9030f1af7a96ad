//! Keeps a [`Cache`] like the server's state: list once, then watch; list again only when history is gone.
//!
//! ```text
//! list -> replace cache -> synced -> watch from the list's version -> event -> cache
//!  ^ expired (410)                    ^ ended or broke: from the last version seen, after a back-off when it broke
//! ```
//! Tasks: one for each informer, `informer <kind>`, spawned by [`Informers`] when somebody first asks for it.

use crate::api::{Api, Selection};
use crate::cache::Cache;
use crate::client::Client;
use crate::error::ClientError;
use crate::object::{Kind, Object, ResourceKind};
use crate::watch::WatchEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use machined_reconcile::{Backoff, Restart, Stop, Supervisor};
use serde::{Deserialize, Serialize};
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a server may keep a watch open: long enough to be rare, short enough that a half-dead connection ends.
const WATCH_TIMEOUT: Duration = Duration::from_secs(290);

/// Waits between failed lists and watches: client-go's reflector's figures.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), limit: Duration::from_secs(30) };

/// A watch that lived this long makes earlier failures forgotten.
const STABLE: Duration = Duration::from_secs(10);

/// A cache that follows the server. Clones are handles to the same one.
pub struct Informer<K> {
    cache: Cache<K>,
    synced: Synced,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { cache: self.cache.clone(), synced: self.synced.clone() }
    }
}

impl<K> Informer<K> {
    /// What it knows.
    #[must_use]
    pub fn cache(&self) -> &Cache<K> {
        &self.cache
    }

    /// Tells when the cache was filled for the first time.
    #[must_use]
    pub fn synced(&self) -> Synced {
        self.synced.clone()
    }
}

/// Tells when a cache was filled for the first time.
#[derive(Debug, Clone)]
pub struct Synced(watch::Receiver<bool>);

impl Synced {
    /// Waits until the first list is in the cache. Cancel-safe.
    pub async fn wait(&mut self) {
        if self.0.wait_for(|synced| *synced).await.is_err() {
            // The informer ended before it listed anything: the process is stopping.
            std::future::pending::<()>().await;
        }
    }

    /// Whether the first list is in the cache.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.0.borrow()
    }
}

/// An object of which only identity and metadata are kept: all that garbage collection wants to remember.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetadataOnly {
    /// Its metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Object for MetadataOnly {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The informers of a process: one for each kind and selection, shared by everybody who asks.
pub struct Informers {
    client: Client,
    supervisor: Supervisor,
    running: Mutex<HashMap<Wanted, Box<dyn Any + Send>>>,
}

#[derive(PartialEq, Eq, Hash)]
struct Wanted {
    object: TypeId,
    kind: ResourceKind,
    selection: Selection,
}

impl Informers {
    /// No informers yet; `supervisor` will own their tasks.
    #[must_use]
    pub fn new(client: Client, supervisor: Supervisor) -> Self {
        Informers { client, supervisor, running: Mutex::new(HashMap::new()) }
    }

    /// The client that they use.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer of all objects of a kind.
    pub fn all<K: Kind>(&self) -> Informer<K> {
        self.selected(Selection::default())
    }

    /// The informer of the selected objects of a kind.
    pub fn selected<K: Kind>(&self, selection: Selection) -> Informer<K> {
        self.informer(K::RESOURCE, selection)
    }

    /// The informer of the metadata of all objects of a kind.
    pub fn metadata(&self, kind: ResourceKind) -> Informer<MetadataOnly> {
        self.informer(kind, Selection::default())
    }

    fn informer<K: Object>(&self, kind: ResourceKind, selection: Selection) -> Informer<K> {
        let wanted = Wanted { object: TypeId::of::<K>(), kind: kind.clone(), selection: selection.clone() };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let informer = running
            .entry(wanted)
            .or_insert_with(|| Box::new(start::<K>(&self.client, &self.supervisor, kind, selection)));
        informer.downcast_ref::<Informer<K>>().expect("because the key holds the type").clone()
    }
}

fn start<K: Object>(client: &Client, supervisor: &Supervisor, kind: ResourceKind, selection: Selection) -> Informer<K> {
    let (tell, synced) = watch::channel(false);
    let informer = Informer { cache: Cache::new(), synced: Synced(synced) };
    let follower = Arc::new(Follower {
        api: Api::new(client.clone(), kind.clone(), None),
        selection,
        cache: informer.cache.clone(),
        synced: tell,
    });
    supervisor.spawn(format!("informer {kind}"), Restart::Always, move |stop| Arc::clone(&follower).run(stop));
    informer
}

struct Follower<K> {
    api: Api<K>,
    selection: Selection,
    cache: Cache<K>,
    synced: watch::Sender<bool>,
}

impl<K: Object> Follower<K> {
    /// Runs until the process stops. The error type is there for the supervisor; failures are handled here.
    async fn run(self: Arc<Self>, mut stop: Stop) -> Result<(), Infallible> {
        tokio::select! {
            never = self.follow() => match never {},
            () = stop.requested() => Ok(()),
        }
    }

    async fn follow(&self) -> Infallible {
        let mut failures = 0;
        loop {
            match self.list().await {
                Ok(version) => {
                    failures = 0;
                    self.watch_from(version).await;
                }
                Err(error) => {
                    failures += 1;
                    self.pause("list", failures, &error).await;
                }
            }
        }
    }

    async fn list(&self) -> Result<String, ClientError> {
        let list = self.api.list(&self.selection).await?;
        let version = list.resource_version().to_owned();
        let mut items = list.items;
        items.iter_mut().for_each(trim);
        self.cache.replace(items);
        self.synced.send_replace(true);
        Ok(version)
    }

    /// Watches on and on; returns when the history that it would need is gone.
    async fn watch_from(&self, mut version: String) {
        let mut failures = 0;
        loop {
            let started = tokio::time::Instant::now();
            match self.watch(&mut version).await {
                Ok(()) => failures = 0,
                Err(error) if error.is_expired() => {
                    tracing::debug!(kind = %self.api.kind(), "history is gone, listing again");
                    return;
                }
                Err(error) => {
                    failures = if started.elapsed() >= STABLE { 1 } else { failures + 1 };
                    self.pause("watch", failures, &error).await;
                }
            }
        }
    }

    async fn watch(&self, version: &mut String) -> Result<(), ClientError> {
        let mut events = self.api.watch(&self.selection, version, WATCH_TIMEOUT).await?;
        while let Some(event) = events.next().await? {
            match event {
                WatchEvent::Added(mut object) | WatchEvent::Modified(mut object) => {
                    advance(version, &object);
                    trim(&mut object);
                    self.cache.put(object);
                }
                WatchEvent::Deleted(object) => {
                    advance(version, &object);
                    self.cache.remove(&object.key());
                }
                WatchEvent::Bookmark(seen) => *version = seen,
            }
        }
        Ok(())
    }

    async fn pause(&self, doing: &'static str, failures: u32, error: &ClientError) {
        let delay = BACKOFF.delay(failures);
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(
            kind = %self.api.kind(), doing, attempt = failures, error = %error, cause, retry_ms = delay.as_millis() as u64,
            "an informer could not follow the server"
        );
        tokio::time::sleep(delay).await;
    }
}

fn advance<K: Object>(version: &mut String, object: &K) {
    if let Some(newer) = &object.meta().resource_version {
        version.clone_from(newer);
    }
}

/// Managed fields are half of many objects and nobody reads them from a cache.
fn trim<K: Object>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}
