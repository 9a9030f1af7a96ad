//! Keeps the Node object: creates it, and writes its status when it changes and every few minutes.

use super::Node;
use super::object::{self, Wellbeing};
use controlplane_client::{ClientError, Optional, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node as NodeObject;
use machined_reconcile::Stop;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How often wellbeing is looked at and the status is written when it changed; kubelet's figure.
const LOOK: Duration = Duration::from_secs(10);
/// How often the status is written without a change; kubelet's figure.
const REPORT: Duration = Duration::from_secs(300);

/// Registers and reports until the process stops.
///
/// # Errors
/// When the API refuses; the supervisor starts it again.
pub(crate) async fn run(node: Arc<Node>, mut stop: Stop) -> Result<(), ClientError> {
    let mut last: Option<(Wellbeing, tokio::time::Instant)> = None;
    loop {
        let (wellbeing, version) = look(&node).await;
        let due = last.as_ref().is_none_or(|(before, at)| *before != wellbeing || at.elapsed() >= REPORT);
        if due {
            report(&node, &version, &wellbeing).await?;
            last = Some((wellbeing, tokio::time::Instant::now()));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.requested() => return Ok(()),
        }
    }
}

/// Whether the runtime answers, and its version.
async fn look(node: &Node) -> (Wellbeing, String) {
    match node.containerd.version().await {
        Ok(version) => (Wellbeing { trouble: None }, version),
        Err(error) => {
            (Wellbeing { trouble: Some(format!("the container runtime does not answer: {error}")) }, String::new())
        }
    }
}

async fn report(node: &Node, runtime: &str, wellbeing: &Wellbeing) -> Result<(), ClientError> {
    let nodes = node.client.all::<NodeObject>();
    let (config, machine, now) = (&node.config, &node.machine, Timestamp::now());
    let old = match nodes.get(&config.node_name).await.optional()? {
        Some(old) => old,
        None => {
            let fresh = object::fresh(config, machine, runtime, wellbeing, now);
            let fresh = serde_json::from_value(fresh).expect("because the object is made by us and tested");
            tracing::info!(node = config.node_name, "node registered");
            nodes.create(&fresh).await?
        }
    };
    let labels = json!({ "metadata": { "labels": object::labels(config) } });
    nodes.patch(&config.node_name, Patch::Merge(&labels)).await?;
    let status = object::status(config, machine, runtime, wellbeing, Some(&old), now);
    nodes.patch_status(&config.node_name, Patch::Merge(&json!({ "status": status }))).await?;
    Ok(())
}
