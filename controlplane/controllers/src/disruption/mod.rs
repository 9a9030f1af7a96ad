//! Disruption budgets: keeps in each budget's status how many of its pods may be taken away on purpose now. Evictions take from that
//! number (`controlplane/apiserver`, `eviction.rs`); only this controller raises it.
//!
//! Woken by: the budget; a pod that it selects or selected; a Deployment or ReplicaSet of its namespace that is scaled; and the time
//! at which an evicted pod that is still there counts again.

mod execute;
mod plan;
#[cfg(test)]
mod plan_tests;

use crate::context::{Context, StepError};
use controlplane_client::{Cache, Change, Client, Object, ObjectKey, Recorder, spawn_workers};
use controlplane_types::selector::typed::selects;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use machined_reconcile::{Backoff, Outcome, Queue};
use std::sync::Arc;

/// Keys worked on at a time.
const WORKERS: usize = 2;

struct Controller {
    client: Client,
    recorder: Recorder,
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
}

pub(crate) fn start(context: &Context) {
    let budgets = context.informers.all::<PodDisruptionBudget>();
    let pods = context.informers.all::<Pod>();
    let sets = context.informers.all::<ReplicaSet>();
    let deployments = context.informers.all::<Deployment>();
    let queue = Queue::new(Backoff::ITEM);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        recorder: context.recorder("controllermanager"),
        budgets: budgets.cache().clone(),
        pods: pods.cache().clone(),
        sets: sets.cache().clone(),
        deployments: deployments.cache().clone(),
    });
    let keys = queue.clone();
    budgets.cache().on_change(move |change| keys.add(change.newest().key()));
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    pods.cache().on_change(move |change| told.pod_changed(&change, &keys));
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    sets.cache()
        .on_change(move |change| told.scaled(&change, &keys, |set| set.spec.as_ref().and_then(|it| it.replicas)));
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    deployments
        .cache()
        .on_change(move |change| told.scaled(&change, &keys, |it| it.spec.as_ref().and_then(|spec| spec.replicas)));
    let synced = [budgets.synced(), pods.synced(), sets.synced(), deployments.synced()];
    spawn_workers(&context.supervisor, "disruption", WORKERS, &queue, &synced, move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(key).await }
    });
}

/// The budget's selector.
fn selector(budget: &PodDisruptionBudget) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector> {
    budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>, queue: &Queue<ObjectKey>) {
        for pod in change.versions() {
            for budget in self.budgets.in_namespace(pod.namespace().unwrap_or_default()) {
                if selects(selector(&budget), pod.meta().labels.as_ref()) {
                    queue.add(budget.key());
                }
            }
        }
    }

    /// A percentage is one of what its owner asks for.
    fn scaled<K: Object>(&self, change: &Change<'_, K>, queue: &Queue<ObjectKey>, of: impl Fn(&K) -> Option<i32>) {
        if let Change::Updated { old, new } = change
            && of(old) == of(new)
        {
            return;
        }
        for budget in self.budgets.in_namespace(change.newest().namespace().unwrap_or_default()) {
            queue.add(budget.key());
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(budget) = self.budgets.get(&key) else { return Ok(Outcome::Done) };
        let mut pods = self.pods.in_namespace(budget.namespace().unwrap_or_default());
        pods.retain(|pod| selects(selector(&budget), pod.meta().labels.as_ref()));
        let owners = plan::Owners { sets: &self.sets, deployments: &self.deployments };
        let plan = plan::plan(&budget, &pods, &owners, Timestamp::now());
        execute::execute(self, &budget, plan).await
    }
}
