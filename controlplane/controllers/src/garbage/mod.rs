//! Garbage collection: what has lost its last owner goes; what is deleted in the foreground waits for what depends on it.
//!
//! Follows the metadata of every kind that can be listed, watched and deleted. Woken by: an object with owners or with one of the
//! two finalizers; the end of an owner; the end of a dependent that an owner waits for.
//!
//! Task `garbage collector` looks for new kinds once a minute.

mod execute;
mod graph;
mod plan;

use crate::context::{Context, StepError};
use crate::discovery::discover;
use controlplane_client::{Client, ClientError, Informers, MetadataOnly, ResourceKind, Synced, spawn_workers};
use graph::{Graph, Item, Uid};
use machined_reconcile::{Backoff, Outcome, Queue, Restart, Stop, Supervisor, Trigger};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Objects worked on at a time; each may need a question to the server.
const WORKERS: usize = 4;

/// How often it looks for kinds that are new.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(60);

struct Collector {
    client: Client,
    informers: Arc<Informers>,
    supervisor: Supervisor,
    queue: Queue<Uid>,
    graph: Mutex<Graph>,
    /// Kinds that are followed, by group and kind as owner references name them.
    kinds: Mutex<HashMap<(String, String), Arc<ResourceKind>>>,
    /// Workers start once, when the first kinds are known.
    working: Mutex<bool>,
}

pub(crate) fn start(context: &Context) {
    let collector = Arc::new(Collector {
        client: context.client.clone(),
        informers: Arc::clone(&context.informers),
        supervisor: context.supervisor.clone(),
        queue: Queue::new(Backoff::ITEM),
        graph: Mutex::new(Graph::default()),
        kinds: Mutex::new(HashMap::new()),
        working: Mutex::new(false),
    });
    context.supervisor.spawn("garbage collector", Restart::Always, move |stop| Arc::clone(&collector).run(stop));
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kind that an owner reference names, if it is followed.
    fn kind(&self, api_version: &str, kind: &str) -> Option<Arc<ResourceKind>> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&(group.to_owned(), kind.to_owned())).cloned()
    }

    async fn run(self: Arc<Self>, mut stop: Stop) -> Result<(), ClientError> {
        let mut wakeups = Trigger::new().wakeups(DISCOVERY_PERIOD);
        loop {
            tokio::select! {
                () = wakeups.next() => {}
                () = stop.requested() => return Ok(()),
            }
            let synced = self.follow_new_kinds().await?;
            self.start_workers(&synced);
        }
    }

    async fn follow_new_kinds(self: &Arc<Self>) -> Result<Vec<Synced>, ClientError> {
        let mut synced = Vec::new();
        for found in discover(&self.client).await? {
            // Events own nothing and nothing owns them; there are many.
            if !found.is_collectable() || found.kind.plural == "events" {
                continue;
            }
            let kind = Arc::new(found.kind);
            let name = (kind.group.to_string(), kind.kind.to_string());
            let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            if kinds.insert(name, Arc::clone(&kind)).is_some() {
                continue;
            }
            drop(kinds);
            let informer = self.informers.metadata((*kind).clone());
            let collector = Arc::clone(self);
            informer.cache().on_change(move |change| {
                let item = Item::new(&kind, change.newest());
                collector.changed(&change, item);
            });
            synced.push(informer.synced());
        }
        Ok(synced)
    }

    fn changed(&self, change: &controlplane_client::Change<'_, MetadataOnly>, item: Item) {
        let concerned = {
            let mut graph = self.graph();
            match change {
                controlplane_client::Change::Added(_) => graph.put(item),
                controlplane_client::Change::Updated { old, .. } => {
                    let mut concerned = graph.put(item.clone());
                    let before = Item::new(&item.kind, old);
                    if before.uid != item.uid {
                        // Another object of the same name: the one before is gone.
                        concerned.extend(graph.remove(&before.uid));
                    }
                    concerned
                }
                controlplane_client::Change::Deleted(_) => graph.remove(&item.uid),
            }
        };
        concerned.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn start_workers(self: &Arc<Self>, synced: &[Synced]) {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *working, true) {
            return;
        }
        let collector = Arc::clone(self);
        spawn_workers(&self.supervisor, "garbage collector", WORKERS, &self.queue, synced, move |uid| {
            let collector = Arc::clone(&collector);
            async move { collector.reconcile(uid).await }
        });
    }

    async fn reconcile(&self, uid: Uid) -> Result<Outcome, StepError> {
        let (item, suspects) = {
            let graph = self.graph();
            let Some(item) = graph.get(&uid).cloned() else { return Ok(Outcome::Done) };
            let suspects = plan::suspects(&item, &graph);
            (item, suspects)
        };
        let gone = self.verify(&item, suspects).await?;
        let plan = plan::plan(&item, &self.graph(), &gone);
        execute::execute(self, &item, plan).await?;
        Ok(Outcome::Done)
    }
}
