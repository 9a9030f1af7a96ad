//! Gives each node its part of the pod network, once: `spec.podCIDR` and `spec.podCIDRs`.
//!
//! Woken by: the Node. A part is free again when its Node is gone.

mod plan;

use crate::context::{Context, Doing, StepError};
use controlplane_client::{Cache, Client, Object, ObjectKey, Optional, Patch, spawn_workers};
use k8s_openapi::api::core::v1::Node;
use machined_reconcile::{Backoff, Outcome, Queue};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

/// One at a time: two must not take the same part.
const WORKERS: usize = 1;

struct Controller {
    client: Client,
    nodes: Cache<Node>,
    pods: (Ipv4Addr, u8),
    /// What was given by this process; the cache may not show it yet.
    given: Mutex<BTreeMap<String, Ipv4Addr>>,
}

pub(crate) fn start(context: &Context) {
    let nodes = context.informers.all::<Node>();
    let queue = Queue::new(Backoff::ITEM);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        nodes: nodes.cache().clone(),
        pods: context.settings.pods,
        given: Mutex::default(),
    });
    let keys = queue.clone();
    nodes.cache().on_change(move |change| keys.add(ObjectKey::cluster(change.newest().name())));
    spawn_workers(&context.supervisor, "pod range", WORKERS, &queue, &[nodes.synced()], move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, StepError> {
        let Some(node) = self.nodes.get(key).filter(|node| plan::part(node).is_none()) else {
            return Ok(Outcome::Done);
        };
        let Some(part) = self.choose(node.name()) else {
            tracing::warn!(
                node = node.name(),
                "the pod network has no part left for this node; `pods` in cluster.kdl is too small"
            );
            return Ok(Outcome::Done);
        };
        let text = format!("{part}/{}", plan::PREFIX);
        // The version keeps a part safe that somebody else gave at the same time.
        let metadata = json!({"resourceVersion": node.metadata.resource_version});
        let patch = json!({"metadata": metadata, "spec": {"podCIDR": text, "podCIDRs": [text]}});
        let patched = self.client.all::<Node>().patch(node.name(), Patch::Merge(&patch)).await.optional();
        patched.doing(|| format!("give node {} the pod range {text}", node.name()))?;
        tracing::info!(node = node.name(), range = text, "a node has its part of the pod network");
        Ok(Outcome::Done)
    }

    /// The part that the node was given a moment ago, or the lowest that is free.
    fn choose(&self, node: &str) -> Option<Ipv4Addr> {
        let nodes = self.nodes.list();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|name, _| nodes.iter().any(|node| node.name() == name));
        if let Some(part) = given.get(node) {
            return Some(*part);
        }
        let taken = nodes.iter().filter_map(|node| plan::part(node)).chain(given.values().copied()).collect();
        let part = plan::lowest_free(self.pods, &taken)?;
        given.insert(node.to_owned(), part);
        Some(part)
    }
}
