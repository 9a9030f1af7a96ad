//! Writes the scheduler's decisions.

use super::Controller;
use crate::context::{Doing, StepError};
use controlplane_client::{EventType, Object, Optional, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

/// Binds a pod to a node. A pod that is gone meanwhile is no failure.
pub(super) async fn bind(controller: &Controller, pod: &Pod, node: &str) -> Result<(), StepError> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            // Not a namesake that was made in the meantime.
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let pods = controller.client.namespaced::<Pod>(pod.namespace().unwrap_or_default());
    let bound = pods.create_subresource::<_, Value>(pod.name(), "binding", &binding).await.optional();
    if bound.doing(|| format!("bind pod {} to node {node}", pod.key()))?.is_some() {
        let message = format!("Successfully assigned {} to {node}", pod.key());
        controller.recorder.record(pod, EventType::Normal, "Scheduled", message);
    }
    Ok(())
}

/// Says that a pod has no place, where people look. Said once: the same words again change nothing.
pub(super) async fn refuse(controller: &Controller, pod: &Pod, message: &str) -> Result<(), StepError> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    if old.is_some_and(|old| old.status == "False" && old.message.as_deref() == Some(message)) {
        return Ok(());
    }
    controller.recorder.record(pod, EventType::Warning, "FailedScheduling", message);
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(Timestamp::now())),
        ..PodCondition::default()
    };
    let patch = json!({"status": {"conditions": [condition]}});
    let pods = controller.client.namespaced::<Pod>(pod.namespace().unwrap_or_default());
    // Strategic, so that conditions of other kinds stay.
    let patched = pods.patch_status(pod.name(), Patch::Strategic(&patch)).await.optional();
    patched.doing(|| format!("write the status of pod {}", pod.key())).map(drop)
}
