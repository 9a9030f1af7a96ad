//! Writes a ReplicaSet's plan.

use super::Controller;
use super::plan::{Plan, failure_conditions, new_pod};
use crate::context::{Doing, StepError};
use crate::ownership::{adoption, release};
use controlplane_client::{EventType, Object, Patch};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use machined_reconcile::Outcome;
use serde_json::json;
use std::sync::Arc;

/// Pods created in the first batch; each batch after a good one is twice as large. A template that the server refuses costs one
/// request and not five hundred.
const FIRST_BATCH: usize = 1;

pub(super) async fn execute(controller: &Controller, set: &ReplicaSet, plan: Plan) -> Result<Outcome, StepError> {
    let pods = controller.client.namespaced::<Pod>(set.namespace().unwrap_or_default());
    for pod in &plan.adopt {
        let patched = pods.patch(pod.name(), Patch::Merge(&adoption(set, &**pod))).await;
        patched.doing(|| format!("adopt pod {}", pod.key()))?;
    }
    for pod in &plan.release {
        let patched = pods.patch(pod.name(), Patch::Merge(&release(set.uid(), &**pod))).await;
        patched.doing(|| format!("release pod {}", pod.key()))?;
    }
    let written = match create(controller, set, plan.create).await {
        Ok(()) => delete(controller, set, &plan.delete).await,
        failed => failed,
    };
    write_status(controller, set, plan.status, written.as_ref().err()).await?;
    written?;
    Ok(plan.again.map_or(Outcome::Done, Outcome::Again))
}

async fn create(controller: &Controller, set: &ReplicaSet, count: usize) -> Result<(), StepError> {
    if count == 0 {
        return Ok(());
    }
    let owner = set.key();
    controller.expectations.expect(&owner, count, []);
    let api = controller.client.namespaced::<Pod>(set.namespace().unwrap_or_default());
    let pod = new_pod(set);
    let (mut left, mut batch) = (count, FIRST_BATCH);
    while left > 0 {
        let now = batch.min(left);
        let requests = (0..now).map(|_| api.create(&pod));
        for outcome in futures_util::future::join_all(requests).await {
            left -= 1;
            match outcome {
                Ok(pod) => {
                    let message = format!("Created pod: {}", pod.name());
                    controller.recorder.record(set, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) => {
                    // What was not tried is not expected either.
                    for _ in 0..=left {
                        controller.expectations.created(&owner);
                    }
                    let message = format!("Error creating: {error}");
                    controller.recorder.record(set, EventType::Warning, "FailedCreate", message);
                    return Err(error).doing(|| format!("create a pod of ReplicaSet {owner}"));
                }
            }
        }
        batch *= 2;
    }
    Ok(())
}

async fn delete(controller: &Controller, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Result<(), StepError> {
    let owner = set.key();
    controller.expectations.expect(&owner, 0, pods.iter().map(|pod| pod.uid().to_owned()));
    let api = controller.client.namespaced::<Pod>(set.namespace().unwrap_or_default());
    let mut outcome = Ok(());
    for pod in pods {
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
        match api.delete(pod.name(), &options).await {
            Ok(()) => {
                let message = format!("Deleted pod: {}", pod.name());
                controller.recorder.record(set, EventType::Normal, "SuccessfulDelete", message);
            }
            Err(error) => {
                controller.expectations.deleted(&owner, pod.uid());
                if !error.is_not_found() {
                    outcome = Err(error).doing(|| format!("delete pod {}", pod.key()));
                }
            }
        }
    }
    outcome
}

async fn write_status(
    controller: &Controller,
    set: &ReplicaSet,
    status: Option<ReplicaSetStatus>,
    failure: Option<&StepError>,
) -> Result<(), StepError> {
    let conditions =
        failure_conditions(set, failure.map(|error| error.source.to_string()).as_deref(), Timestamp::now());
    let old = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    if status.is_none() && conditions == old {
        return Ok(());
    }
    let mut status = status.or_else(|| set.status.clone()).unwrap_or_default();
    status.conditions = Some(conditions);
    let patch = json!({"status": status});
    let api = controller.client.namespaced::<ReplicaSet>(set.namespace().unwrap_or_default());
    let patched = api.patch_status(set.name(), Patch::Merge(&patch)).await;
    patched.doing(|| format!("write the status of ReplicaSet {}", set.key())).map(drop)
}
