//! EndpointSlices: which addresses stand behind a Service, and which of them are ready.
//!
//! Woken by: the Service; a pod of its namespace that it selects or selected; one of its slices. Services without a selector,
//! `kubernetes` among them, are left to those who made them.

mod execute;
mod plan;

use crate::context::{Context, StepError};
use controlplane_client::{Cache, Change, Client, Object, ObjectKey, spawn_workers};
use controlplane_types::selector::typed::has_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use machined_reconcile::{Backoff, Outcome, Queue};
use std::sync::Arc;

/// Keys worked on at a time.
const WORKERS: usize = 2;

/// The index of slices by namespace and Service.
const BY_SERVICE: &str = "service";

struct Controller {
    client: Client,
    services: Cache<Service>,
    pods: Cache<Pod>,
    slices: Cache<EndpointSlice>,
}

pub(crate) fn start(context: &Context) {
    let services = context.informers.all::<Service>();
    let (pods, slices) = (context.informers.all::<Pod>(), context.informers.all::<EndpointSlice>());
    slices.cache().add_index(BY_SERVICE, |slice| service_key(slice).map(|key| key.to_string()).into_iter().collect());
    let queue = Queue::new(Backoff::ITEM);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        services: services.cache().clone(),
        pods: pods.cache().clone(),
        slices: slices.cache().clone(),
    });
    let keys = queue.clone();
    services.cache().on_change(move |change| keys.add(change.newest().key()));
    let keys = queue.clone();
    slices.cache().on_change(move |change| {
        change.versions().filter_map(|slice| service_key(slice)).for_each(|key| keys.add(key));
    });
    let (keys, told) = (queue.clone(), Arc::clone(&controller));
    pods.cache().on_change(move |change| told.pod_changed(&change, &keys));
    let synced = [services.synced(), pods.synced(), slices.synced()];
    spawn_workers(&context.supervisor, "endpointslice", WORKERS, &queue, &synced, move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(key).await }
    });
}

/// The Service that a slice of ours belongs to.
fn service_key(slice: &EndpointSlice) -> Option<ObjectKey> {
    if slice.label(plan::MANAGED_BY) != Some(plan::MANAGER) {
        return None;
    }
    Some(ObjectKey { namespace: slice.metadata.namespace.clone(), name: slice.label(plan::SERVICE_NAME)?.to_owned() })
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>, queue: &Queue<ObjectKey>) {
        if let Change::Updated { old, new } = change
            && plan::looks_the_same(old, new)
        {
            return;
        }
        let namespace = change.newest().namespace().unwrap_or_default();
        for service in self.services.in_namespace(namespace) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let selects = |pod: &Arc<Pod>| selector.is_some_and(|it| has_all(it, pod.metadata.labels.as_ref()));
            if change.versions().any(selects) {
                queue.add(service.key());
            }
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        let service = self.services.get(&key);
        let pods = self.pods.in_namespace(key.namespace.as_deref().unwrap_or_default());
        let plan = plan::plan(service.as_deref(), &pods, slices);
        execute::execute(self, &key, plan).await?;
        Ok(Outcome::Done)
    }
}
