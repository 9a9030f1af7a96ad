//! Writes a Deployment's plan.

use super::Controller;
use super::plan::{Plan, REVISION, Scale};
use super::proportion::sizes;
use super::rollout::wanted;
use super::template::same;
use crate::context::{Doing, StepError};
use crate::ownership::{adoption, release};
use controlplane_client::{Api, EventType, Object, Patch};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use machined_reconcile::Outcome;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) async fn execute(
    controller: &Controller,
    deployment: &Deployment,
    plan: Plan,
) -> Result<Outcome, StepError> {
    let namespace = deployment.namespace().unwrap_or_default();
    let sets = controller.client.namespaced::<ReplicaSet>(namespace);
    for set in &plan.adopt {
        let patched = sets.patch(set.name(), Patch::Merge(&adoption(deployment, &**set))).await;
        patched.doing(|| format!("adopt ReplicaSet {}", set.key()))?;
    }
    for set in &plan.release {
        let patched = sets.patch(set.name(), Patch::Merge(&release(deployment.uid(), &**set))).await;
        patched.doing(|| format!("release ReplicaSet {}", set.key()))?;
    }
    let mut status = plan.status;
    if let Some(set) = &plan.create {
        create(controller, deployment, &sets, set, &mut status).await?;
    }
    if let Some((set, annotations)) = &plan.annotate {
        annotate(&sets, set, annotations).await?;
    }
    for step in &plan.scale {
        scale(controller, deployment, &sets, step).await?;
    }
    for set in &plan.delete {
        delete(&sets, set).await?;
    }
    let deployments = controller.client.namespaced::<Deployment>(namespace);
    if let Some(revision) = &plan.revision {
        let patch = json!({"metadata": {"annotations": {REVISION: revision}}});
        let patched = deployments.patch(deployment.name(), Patch::Merge(&patch)).await;
        patched.doing(|| format!("write the revision of Deployment {}", deployment.key()))?;
    }
    if let Some(status) = &status {
        let patched = deployments.patch_status(deployment.name(), Patch::Merge(&json!({"status": status}))).await;
        patched.doing(|| format!("write the status of Deployment {}", deployment.key()))?;
    }
    Ok(plan.again.map_or(Outcome::Done, Outcome::Again))
}

async fn create(
    controller: &Controller,
    deployment: &Deployment,
    sets: &Api<ReplicaSet>,
    set: &ReplicaSet,
    status: &mut Option<DeploymentStatus>,
) -> Result<(), StepError> {
    let doing = || format!("create ReplicaSet {}", set.key());
    match sets.create(set).await {
        Ok(created) => {
            let message = format!("Scaled up replica set {} from 0 to {}", created.name(), wanted(&created));
            controller.recorder.record(deployment, EventType::Normal, "ScalingReplicaSet", message);
            Ok(())
        }
        Err(error) if error.is_already_exists() => {
            let there = sets.get(set.name()).await.doing(doing)?;
            let ours = there.controller().is_some_and(|owner| owner.uid == deployment.uid());
            let template =
                |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
            if ours && same(&template(&there), &template(set)) {
                // Made by us a moment ago; the cache will show it.
                return Ok(());
            }
            // Somebody else's has our name: count the collision, and the next hash is another.
            let status = status.get_or_insert_with(|| deployment.status.clone().unwrap_or_default());
            status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
            tracing::warn!(deployment = %deployment.key(), set = set.name(), "another ReplicaSet has the name of a new one");
            Ok(())
        }
        Err(error) => {
            let message = format!("Failed to create new replica set \"{}\": {error}", set.name());
            controller.recorder.record(deployment, EventType::Warning, "ReplicaSetCreateError", message);
            Err(error).doing(doing)
        }
    }
}

async fn annotate(
    sets: &Api<ReplicaSet>,
    set: &Arc<ReplicaSet>,
    annotations: &BTreeMap<String, String>,
) -> Result<(), StepError> {
    let patch = json!({"metadata": {"annotations": annotations}});
    let patched = sets.patch(set.name(), Patch::Merge(&patch)).await;
    patched.doing(|| format!("annotate ReplicaSet {}", set.key())).map(drop)
}

async fn scale(
    controller: &Controller,
    deployment: &Deployment,
    sets: &Api<ReplicaSet>,
    step: &Scale,
) -> Result<(), StepError> {
    let (name, from) = (step.set.name(), wanted(&step.set));
    // The uid keeps a namesake safe; a version would only make the annotation just written a conflict.
    let metadata = json!({"uid": step.set.metadata.uid, "annotations": sizes(deployment)});
    let patch = json!({"metadata": metadata, "spec": {"replicas": step.to}});
    let patched = sets.patch(name, Patch::Merge(&patch)).await;
    patched.doing(|| format!("scale ReplicaSet {} to {}", step.set.key(), step.to))?;
    if step.to == from {
        return Ok(());
    }
    let direction = if step.to > from { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {name} from {from} to {}", step.to);
    controller.recorder.record(deployment, EventType::Normal, "ScalingReplicaSet", message);
    Ok(())
}

async fn delete(sets: &Api<ReplicaSet>, set: &Arc<ReplicaSet>) -> Result<(), StepError> {
    let preconditions = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
    let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
    let deleted = sets.delete_if_there(set.name(), &options).await;
    deleted.doing(|| format!("delete ReplicaSet {}", set.key()))
}
