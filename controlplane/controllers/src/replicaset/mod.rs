//! ReplicaSets: as many pods as asked for, of one template.
//!
//! Woken by: the ReplicaSet; its pods, old and new owner alike; an orphan that its selector matches.

mod execute;
mod plan;

use crate::context::{Context, StepError};
use crate::expectations::Expectations;
use crate::ownership::{BY_MANAGER, by_manager, claim, manager_key, orphans_of};
use controlplane_client::{Cache, Change, Client, Object, ObjectKey, Recorder, spawn_workers};
use controlplane_types::selector::typed::selects;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use machined_reconcile::{Backoff, Outcome, Queue};
use std::sync::Arc;

/// Keys worked on at a time.
const WORKERS: usize = 4;

struct Controller {
    client: Client,
    recorder: Recorder,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    expectations: Expectations,
}

pub(crate) fn start(context: &Context) {
    let (sets, pods) = (context.informers.all::<ReplicaSet>(), context.informers.all::<Pod>());
    pods.cache().add_index(BY_MANAGER, by_manager::<Pod>);
    let queue = Queue::new(Backoff::ITEM);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        recorder: context.recorder("replicaset-controller"),
        sets: sets.cache().clone(),
        pods: pods.cache().clone(),
        expectations: Expectations::default(),
    });
    let keys = queue.clone();
    sets.cache().on_change(move |change| keys.add(change.newest().key()));
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    pods.cache().on_change(move |change| told.pod_changed(&change, &keys));
    let synced = [sets.synced(), pods.synced()];
    spawn_workers(&context.supervisor, "replicaset", WORKERS, &queue, &synced, move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(key).await }
    });
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>, queue: &Queue<ObjectKey>) {
        for pod in change.versions() {
            match manager_key::<ReplicaSet, _>(&**pod) {
                Some(owner) => queue.add(owner),
                None if pod.controller().is_none() => self.wake_adopters(pod, queue),
                None => {}
            }
        }
        let Some(owner) = manager_key::<ReplicaSet, _>(&**change.newest()) else { return };
        match change {
            Change::Added(_) => self.expectations.created(&owner),
            Change::Updated { new, .. } if new.is_terminating() => self.expectations.deleted(&owner, new.uid()),
            Change::Updated { .. } => {}
            Change::Deleted(pod) => self.expectations.deleted(&owner, pod.uid()),
        }
        // Again, now that the expectation is gone.
        queue.add(owner);
    }

    fn wake_adopters(&self, pod: &Pod, queue: &Queue<ObjectKey>) {
        for set in self.sets.in_namespace(pod.namespace().unwrap_or_default()) {
            let selector = set.spec.as_ref().map(|spec| &spec.selector);
            if selects(selector, pod.meta().labels.as_ref()) {
                queue.add(set.key());
            }
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(set) = self.sets.get(&key) else {
            self.expectations.forget(&key);
            return Ok(Outcome::Done);
        };
        let Some(spec) = &set.spec else { return Ok(Outcome::Done) };
        let mut candidates = self.pods.by_index(BY_MANAGER, set.uid());
        candidates.extend(self.pods.by_index(BY_MANAGER, &orphans_of(set.namespace().unwrap_or_default())));
        let claimed = claim(&*set, &spec.selector, candidates);
        let may_write = self.expectations.are_met(&key) && !set.is_terminating();
        let plan = plan::plan(&set, &claimed, may_write, Timestamp::now());
        execute::execute(self, &set, plan).await
    }
}
