//! Deployments: rolls pods from one template to the next by way of ReplicaSets.
//!
//! Woken by: the Deployment; its ReplicaSets; an orphaned ReplicaSet that its selector matches; for `Recreate` the end of old pods.

mod execute;
mod plan;
#[cfg(test)]
mod plan_tests;
mod proportion;
mod rollout;
mod status;
mod template;

use crate::context::{Context, StepError};
use crate::ownership::{BY_MANAGER, by_manager, claim, manager_key, orphans_of};
use crate::pods::is_active;
use controlplane_client::{Cache, Change, Client, Object, ObjectKey, Recorder, spawn_workers};
use controlplane_types::selector::typed::selects;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use machined_reconcile::{Backoff, Outcome, Queue};
use std::sync::Arc;

/// Keys worked on at a time.
const WORKERS: usize = 4;

struct Controller {
    client: Client,
    recorder: Recorder,
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
}

pub(crate) fn start(context: &Context) {
    let deployments = context.informers.all::<Deployment>();
    let (sets, pods) = (context.informers.all::<ReplicaSet>(), context.informers.all::<Pod>());
    sets.cache().add_index(BY_MANAGER, by_manager::<ReplicaSet>);
    pods.cache().add_index(BY_MANAGER, by_manager::<Pod>);
    let queue = Queue::new(Backoff::ITEM);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        recorder: context.recorder("deployment-controller"),
        deployments: deployments.cache().clone(),
        sets: sets.cache().clone(),
        pods: pods.cache().clone(),
    });
    let keys = queue.clone();
    deployments.cache().on_change(move |change| keys.add(change.newest().key()));
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    sets.cache().on_change(move |change| told.set_changed(&change, &keys));
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    pods.cache().on_change(move |change| told.pod_changed(&change, &keys));
    let synced = [deployments.synced(), sets.synced(), pods.synced()];
    spawn_workers(&context.supervisor, "deployment", WORKERS, &queue, &synced, move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(key).await }
    });
}

impl Controller {
    fn set_changed(&self, change: &Change<'_, ReplicaSet>, queue: &Queue<ObjectKey>) {
        for set in change.versions() {
            if let Some(owner) = manager_key::<Deployment, _>(&**set) {
                queue.add(owner);
            } else if set.controller().is_none() {
                for deployment in self.deployments.in_namespace(set.namespace().unwrap_or_default()) {
                    let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
                    if selects(selector, set.meta().labels.as_ref()) {
                        queue.add(deployment.key());
                    }
                }
            }
        }
    }

    /// Only the end of a pod can let a `Recreate` go on; everything else shows in the ReplicaSet's status.
    fn pod_changed(&self, change: &Change<'_, Pod>, queue: &Queue<ObjectKey>) {
        let Change::Deleted(pod) = change else { return };
        let set = manager_key::<ReplicaSet, _>(&***pod).and_then(|key| self.sets.get(&key));
        if let Some(owner) = set.and_then(|set| manager_key::<Deployment, _>(&*set)) {
            queue.add(owner);
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(Outcome::Done) };
        let Some(spec) = &deployment.spec else { return Ok(Outcome::Done) };
        let mut candidates = self.sets.by_index(BY_MANAGER, deployment.uid());
        candidates.extend(self.sets.by_index(BY_MANAGER, &orphans_of(deployment.namespace().unwrap_or_default())));
        let claimed = claim(&*deployment, &spec.selector, candidates);
        let has_pods = |set: &ReplicaSet| {
            let pods = self.pods.by_index(BY_MANAGER, set.uid());
            pods.iter().any(|pod| is_active(pod) || pod.is_terminating())
        };
        let plan = plan::plan(&deployment, &claimed, &has_pods, Timestamp::now());
        execute::execute(self, &deployment, plan).await
    }
}
