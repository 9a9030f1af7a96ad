//! Writes what follows from a node's state.

use super::Controller;
use super::plan::Plan;
use crate::context::{Doing, StepError};
use controlplane_client::{EventType, Object, Optional, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions, Time};
use machined_reconcile::Outcome;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn execute(controller: &Controller, node: &Node, plan: Plan) -> Result<Outcome, StepError> {
    let nodes = controller.client.all::<Node>();
    if let Some(condition) = &plan.condition {
        let patch = json!({"status": {"conditions": [condition]}});
        let patched = nodes.patch_status(node.name(), Patch::Strategic(&patch)).await.optional();
        patched.doing(|| format!("write the status of node {}", node.name()))?;
        let message = format!("Node {} status is now: NodeNotReady", node.name());
        controller.recorder.record(node, EventType::Normal, "NodeNotReady", message);
        tracing::info!(node = node.name(), "a node has gone silent");
        // The rest is planned on the node as it is now; its change wakes us.
        return Ok(Outcome::Done);
    }
    if let Some(taints) = &plan.taints {
        // The version keeps a taint safe that somebody else adds at the same time.
        let metadata = json!({"resourceVersion": node.metadata.resource_version});
        let patch = json!({"metadata": metadata, "spec": {"taints": taints}});
        let patched = nodes.patch(node.name(), Patch::Merge(&patch)).await.optional();
        patched.doing(|| format!("taint node {}", node.name()))?;
    }
    for pod in &plan.unready {
        mark_unready(controller, pod).await?;
    }
    for pod in &plan.evict {
        controller.recorder.record(
            &**pod,
            EventType::Normal,
            "TaintManagerEviction",
            format!("Marking for deletion Pod {}", pod.key()),
        );
        delete(controller, pod, None).await?;
    }
    Ok(plan.again.map_or(Outcome::Done, Outcome::Again))
}

/// Nobody can say any more that it is ready: traffic must not go there.
async fn mark_unready(controller: &Controller, pod: &Pod) -> Result<(), StepError> {
    let condition = PodCondition {
        type_: "Ready".to_owned(),
        status: "False".to_owned(),
        reason: Some("NodeNotReady".to_owned()),
        last_transition_time: Some(Time(Timestamp::now())),
        ..PodCondition::default()
    };
    let pods = controller.client.namespaced::<Pod>(pod.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let patched = pods.patch_status(pod.name(), Patch::Strategic(&patch)).await.optional();
    patched.doing(|| format!("write the status of pod {}", pod.key())).map(drop)
}

async fn delete(controller: &Controller, pod: &Pod, grace_seconds: Option<i64>) -> Result<(), StepError> {
    let pods = controller.client.namespaced::<Pod>(pod.namespace().unwrap_or_default());
    let options = DeleteOptions {
        grace_period_seconds: grace_seconds,
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteOptions::default()
    };
    pods.delete_if_there(pod.name(), &options).await.doing(|| format!("delete pod {}", pod.key()))
}

/// Deletes the pods of a node that is gone: there is no agent left to say that they ended.
pub(super) async fn clear_after(controller: &Controller, node: &str, pods: &[Arc<Pod>]) -> Result<Outcome, StepError> {
    let there = controller.client.all::<Node>().get(node).await.optional();
    if there.doing(|| format!("look up node {node}"))?.is_some() {
        // The cache is behind and will wake us.
        return Ok(Outcome::Done);
    }
    for pod in pods {
        tracing::info!(pod = %pod.key(), node, "a pod goes with its node");
        delete(controller, pod, Some(0)).await?;
    }
    Ok(Outcome::Done)
}
