//! Which pods have a worker: those that the API binds to this node, and those that the runtime still has.
//!
//! ```text
//! informer (pods of this node) --change--> manager --watch--> worker of the pod
//! runtime events, runtime's list at start --trigger--> worker of the pod
//! ```
//! Pods of the runtime that the API does not know any more are torn down, once the informer has listed. Containers of
//! others are never seen: the runtime is asked for ours only.

use super::worker::Worker;
use crate::node::Node;
use crate::runtime::{PodKey, Runtime, RuntimeError};
use controlplane_client::{Informer, Object};
use k8s_openapi::api::core::v1::Pod;
use machined_reconcile::{Restart, Stop, Trigger};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How often all pods are looked at though nothing happened.
const PERIOD: Duration = Duration::from_secs(30);

/// The workers of this node.
pub(crate) struct Manager {
    node: Arc<Node>,
    pods: Informer<Pod>,
    trigger: Trigger,
    workers: Mutex<BTreeMap<String, Handle>>,
}

struct Handle {
    desired: watch::Sender<Option<Arc<Pod>>>,
    trigger: Trigger,
    /// Dropped by the worker's task when it ends.
    alive: std::sync::Weak<()>,
}

impl Manager {
    /// A manager of the informer's pods. Nothing happens before [`Manager::run`].
    #[must_use]
    pub(crate) fn new(node: Arc<Node>, pods: Informer<Pod>) -> Self {
        let trigger = Trigger::new();
        let fire = trigger.clone();
        pods.cache().on_change(move |_change| fire.fire());
        Self { node, pods, trigger, workers: Mutex::new(BTreeMap::new()) }
    }

    /// Keeps workers as they should be until the process stops.
    ///
    /// # Errors
    /// When the runtime cannot be asked; the supervisor starts it again and running workers go on.
    pub(crate) async fn run(self: Arc<Self>, mut stop: Stop) -> Result<(), RuntimeError> {
        let mut synced = self.pods.synced();
        tokio::select! {
            () = synced.wait() => {}
            () = stop.requested() => return Ok(()),
        }
        let mut wakeups = self.trigger.wakeups(PERIOD);
        loop {
            tokio::select! {
                () = wakeups.next() => {}
                () = stop.requested() => return Ok(()),
            }
            let known = self.node.containerd.pods().await?;
            self.reconcile(&known).await;
        }
    }

    /// Gives every pod a worker and every worker its pod.
    async fn reconcile(&self, known_to_runtime: &[PodKey]) {
        let desired: BTreeMap<String, Arc<Pod>> =
            self.pods.cache().list().into_iter().map(|pod| (pod.uid().to_owned(), pod)).collect();
        let attached = self.node.network.pods().await;
        let mut workers = self.workers.lock().expect("because no holder of this lock panics");
        workers.retain(|_, handle| handle.alive.strong_count() > 0);
        for (uid, pod) in &desired {
            match workers.get(uid) {
                Some(handle) => handle.tell(Some(Arc::clone(pod))),
                // Nothing is done for a pod that is over, unless something of it is left.
                None if is_over(pod) && !known_to_runtime.iter().any(|key| key.uid == *uid) => {}
                None => {
                    let handle = self.spawn(key_of(pod), Some(Arc::clone(pod)));
                    workers.insert(uid.clone(), handle);
                }
            }
        }
        for (_, handle) in workers.iter().filter(|(uid, _)| !desired.contains_key(*uid)) {
            handle.tell(None);
        }
        let left_over = known_to_runtime.iter().cloned().chain(attached.into_iter().map(nameless));
        for key in left_over.filter(|key| !desired.contains_key(&key.uid)).collect::<Vec<_>>() {
            if !workers.contains_key(&key.uid) {
                tracing::info!(
                    pod = key.name,
                    namespace = key.namespace,
                    uid = key.uid,
                    "pod is unknown to the API and torn down"
                );
                let uid = key.uid.clone();
                workers.insert(uid, self.spawn(key, None));
            }
        }
    }

    fn spawn(&self, key: PodKey, pod: Option<Arc<Pod>>) -> Handle {
        let trigger = Trigger::new();
        let (desired, receiver) = watch::channel(pod);
        let alive = Arc::new(());
        let handle = Handle { desired, trigger: trigger.clone(), alive: Arc::downgrade(&alive) };
        let name = format!("pod {}/{}", key.namespace, key.name);
        let node = Arc::clone(&self.node);
        let manager = self.trigger.clone();
        let mut token = Some(alive);
        self.node.supervisor.spawn(name, Restart::Never, move |stop| {
            let worker = Worker::new(Arc::clone(&node), key.clone(), receiver.clone(), trigger.clone());
            let (token, manager) = (token.take(), manager.clone());
            async move {
                worker.run(stop).await;
                drop(token);
                manager.fire();
                Ok::<(), Infallible>(())
            }
        });
        handle
    }

    /// Wakes all workers: containers ended, or events were missed.
    pub(crate) fn wake_all(&self) {
        let workers = self.workers.lock().expect("because no holder of this lock panics");
        for handle in workers.values() {
            handle.trigger.fire();
        }
    }

    /// Hears of containers that end until the process stops. An event wakes all workers: each looks at its own
    /// containers only, which is one cheap call, and no map from container to pod can be wrong.
    ///
    /// # Errors
    /// When the subscription breaks, as with a containerd that restarts; the supervisor starts it again.
    pub(crate) async fn hear(self: Arc<Self>, mut stop: Stop) -> Result<(), RuntimeError> {
        let mut events = self.node.containerd.task_events().await?;
        // What happened before the subscription was not told.
        self.wake_all();
        loop {
            tokio::select! {
                event = events.next() => match event? {
                    Some(_container) => self.wake_all(),
                    None => return Ok(()),
                },
                () = stop.requested() => return Ok(()),
            }
        }
    }
}

impl Handle {
    fn tell(&self, pod: Option<Arc<Pod>>) {
        let changed = self.desired.send_if_modified(|known| {
            let same = match (known.as_ref(), pod.as_ref()) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !same {
                known.clone_from(&pod);
            }
            !same
        });
        if changed {
            self.trigger.fire();
        }
    }
}

fn key_of(pod: &Pod) -> PodKey {
    PodKey {
        uid: pod.uid().to_owned(),
        namespace: pod.namespace().unwrap_or_default().to_owned(),
        name: pod.name().to_owned(),
    }
}

/// A pod of which only the address allocation is left.
fn nameless(uid: String) -> PodKey {
    PodKey { namespace: String::new(), name: format!("(uid {uid})"), uid }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && matches!(phase, Some("Succeeded" | "Failed"))
}
