//! Gives pods nodes: keeps the scheduler's snapshot up to date, asks it, binds.
//!
//! Woken by: a pod without a node; and, for those that found no place, everything that may make one: a node that changed, a pod that
//! went. One worker, because each decision counts on the one before.

mod execute;

use crate::context::{Context, StepError};
use crate::pods::{has_ended, node};
use controlplane_client::{Cache, Change, Client, Object, ObjectKey, Recorder, spawn_workers};
use controlplane_scheduler::{Decision, Snapshot, place};
use k8s_openapi::api::core::v1::{Node, Pod};
use machined_reconcile::{Backoff, Outcome, Queue};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The name in `spec.schedulerName` of the pods that are ours.
const NAME: &str = "default-scheduler";

/// Waits of a pod whose binding failed: a pod must not wait a quarter of an hour because the server was away for a minute.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(10), limit: Duration::from_secs(10) };

struct Controller {
    client: Client,
    recorder: Recorder,
    pods: Cache<Pod>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    /// Uids of pods bound by us whose cache entry does not say so yet.
    assumed: HashSet<String>,
    /// Pods that found no place.
    waiting: BTreeSet<ObjectKey>,
}

pub(crate) fn start(context: &Context) {
    let (pods, nodes) = (context.informers.all::<Pod>(), context.informers.all::<Node>());
    let queue = Queue::new(BACKOFF);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        recorder: context.recorder(NAME),
        pods: pods.cache().clone(),
        state: Mutex::new(State::default()),
    });
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    pods.cache().on_change(move |change| told.pod_changed(&change, &keys));
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    nodes.cache().on_change(move |change| told.node_changed(&change, &keys));
    let synced = [pods.synced(), nodes.synced()];
    spawn_workers(&context.supervisor, "scheduler", 1, &queue, &synced, move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(key).await }
    });
}

/// Whether a pod wants a node from us now.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node(pod).is_none()
        && !has_ended(pod)
        && !pod.is_terminating()
        && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
        && spec.scheduling_gates.iter().flatten().next().is_none()
}

impl Controller {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod_changed(&self, change: &Change<'_, Pod>, queue: &Queue<ObjectKey>) {
        let pod = change.newest();
        let mut state = self.state();
        match change {
            Change::Added(_) | Change::Updated { .. } if node(pod).is_none() && state.assumed.contains(pod.uid()) => {
                // Older than our binding; what was assumed stands.
            }
            Change::Added(_) | Change::Updated { .. } => {
                state.assumed.remove(pod.uid());
                let took_place = state.snapshot.has_pod(pod);
                state.snapshot.set_pod(pod);
                let gave_place = took_place && !state.snapshot.has_pod(pod);
                if is_ours(pod) {
                    queue.add(pod.key());
                } else {
                    state.waiting.remove(&pod.key());
                }
                if gave_place {
                    state.wake_waiting(queue);
                }
            }
            Change::Deleted(_) => {
                state.assumed.remove(pod.uid());
                state.waiting.remove(&pod.key());
                state.snapshot.remove_pod(pod);
                state.wake_waiting(queue);
            }
        }
    }

    fn node_changed(&self, change: &Change<'_, Node>, queue: &Queue<ObjectKey>) {
        let mut state = self.state();
        match change {
            Change::Added(node) => state.snapshot.set_node(Arc::clone(node)),
            Change::Updated { old, new } => {
                state.snapshot.set_node(Arc::clone(new));
                let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
                let matters = old.spec != new.spec
                    || old.metadata.labels != new.metadata.labels
                    || allocatable(old) != allocatable(new);
                if !matters {
                    return;
                }
            }
            Change::Deleted(node) => state.snapshot.remove_node(node.name()),
        }
        state.wake_waiting(queue);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(pod) = self.pods.get(&key).filter(|pod| is_ours(pod)) else { return Ok(Outcome::Done) };
        let decision = {
            let mut state = self.state();
            if state.assumed.contains(pod.uid()) {
                return Ok(Outcome::Done);
            }
            let decision = place(&pod, &state.snapshot);
            match &decision {
                Decision::Bind { node } => {
                    state.waiting.remove(&key);
                    state.snapshot.assume(&pod, node);
                    state.assumed.insert(pod.uid().to_owned());
                }
                Decision::Unschedulable { .. } => {
                    state.waiting.insert(key);
                }
            }
            decision
        };
        match decision {
            Decision::Bind { node } => {
                let bound = execute::bind(self, &pod, &node).await;
                if bound.is_err() {
                    let mut state = self.state();
                    state.assumed.remove(pod.uid());
                    state.snapshot.remove_pod(&pod);
                }
                bound?;
            }
            Decision::Unschedulable { message } => execute::refuse(self, &pod, &message).await?,
        }
        Ok(Outcome::Done)
    }
}

impl State {
    /// Something changed that may make a place.
    fn wake_waiting(&mut self, queue: &Queue<ObjectKey>) {
        for key in std::mem::take(&mut self.waiting) {
            queue.add(key);
        }
    }
}
