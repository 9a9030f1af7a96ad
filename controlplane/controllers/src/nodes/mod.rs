//! Nodes: notices those whose agent has gone silent, taints them and those that are not ready, and clears what ran there.
//!
//! Woken by: the Node; its Lease; a pod bound to it; and the time at which silence becomes too long. Time is measured here, from when
//! a heartbeat was seen: the clocks of other machines are not believed.

mod execute;
mod plan;

use crate::context::{Context, StepError};
use crate::pods::node as node_of;
use controlplane_client::{Cache, Change, Client, Object, ObjectKey, Recorder, spawn_workers};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use machined_reconcile::{Backoff, Outcome, Queue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// The namespace of the leases by which agents say that they live.
const LEASES: &str = "kube-node-lease";

/// The index of pods by node.
const BY_NODE: &str = "node";

/// Keys worked on at a time.
const WORKERS: usize = 2;

struct Controller {
    client: Client,
    recorder: Recorder,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    /// When each node was heard of last; for one that is gone, since when.
    heard: Mutex<HashMap<String, Instant>>,
}

pub(crate) fn start(context: &Context) {
    let (nodes, pods) = (context.informers.all::<Node>(), context.informers.all::<Pod>());
    let leases = context.informers.all::<Lease>();
    pods.cache().add_index(BY_NODE, |pod| node_of(pod).map(str::to_owned).into_iter().collect());
    let queue = Queue::new(Backoff::ITEM);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        recorder: context.recorder("node-controller"),
        nodes: nodes.cache().clone(),
        pods: pods.cache().clone(),
        heard: Mutex::new(HashMap::new()),
    });
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    nodes.cache().on_change(move |change| {
        // A node that comes or goes begins a new silence.
        if !matches!(change, Change::Updated { .. }) {
            told.heard().insert(change.newest().name().to_owned(), Instant::now());
        }
        keys.add(ObjectKey::cluster(change.newest().name()));
    });
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    leases.cache().on_change(move |change| told.lease_changed(&change, &keys));
    let keys = queue.clone();
    pods.cache().on_change(move |change| {
        if let Some(node) = node_of(change.newest()) {
            keys.add(ObjectKey::cluster(node));
        }
    });
    let synced = [nodes.synced(), pods.synced(), leases.synced()];
    spawn_workers(&context.supervisor, "node", WORKERS, &queue, &synced, move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(key.name).await }
    });
}

impl Controller {
    fn heard(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_changed(&self, change: &Change<'_, Lease>, queue: &Queue<ObjectKey>) {
        let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        let lease = match change {
            Change::Added(lease) => lease,
            Change::Updated { old, new } if renewed(old) != renewed(new) => new,
            Change::Updated { .. } | Change::Deleted(_) => return,
        };
        if lease.namespace() != Some(LEASES) {
            return;
        }
        self.heard().insert(lease.name().to_owned(), Instant::now());
        // Only the end of a silence is news; otherwise the node's own timer goes on.
        let silent = self.nodes.get(&ObjectKey::cluster(lease.name())).is_some_and(|node| plan::is_tainted(&node));
        if silent {
            queue.add(ObjectKey::cluster(lease.name()));
        }
    }

    async fn reconcile(&self, name: String) -> Result<Outcome, StepError> {
        let silence = self.heard().entry(name.clone()).or_insert_with(Instant::now).elapsed();
        let pods = self.pods.by_index(BY_NODE, &name);
        match self.nodes.get(&ObjectKey::cluster(&name)) {
            Some(node) => {
                let plan = plan::plan(&node, &pods, silence, Timestamp::now());
                execute::execute(self, &node, plan).await
            }
            None if pods.is_empty() => {
                self.heard().remove(&name);
                Ok(Outcome::Done)
            }
            None if silence < plan::SILENCE_LIMIT => Ok(Outcome::Again(plan::SILENCE_LIMIT - silence)),
            None => execute::clear_after(self, &name, &pods).await,
        }
    }
}
