//! Keeps the node's Lease in `kube-node-lease`: the sign of life that others judge the node by.

use super::Node;
use controlplane_client::{ClientError, Optional, Patch};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use machined_reconcile::Stop;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const NAMESPACE: &str = "kube-node-lease";
/// How often it is renewed; kubelet's figure, a quarter of its life.
const RENEW: Duration = Duration::from_secs(10);
/// How long it lives, in seconds.
const LIFE_SECONDS: i32 = 40;

/// Renews the lease until the process stops.
///
/// # Errors
/// When the API refuses; the supervisor starts it again.
pub(crate) async fn run(node: Arc<Node>, mut stop: Stop) -> Result<(), ClientError> {
    loop {
        renew(&node).await?;
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            () = stop.requested() => return Ok(()),
        }
    }
}

async fn renew(node: &Node) -> Result<(), ClientError> {
    let leases = node.client.namespaced::<Lease>(NAMESPACE);
    let name = &node.config.node_name;
    // The API's times of leases have microseconds.
    let now = format!("{:.6}", Timestamp::now());
    let spec = json!({ "holderIdentity": name, "leaseDurationSeconds": LIFE_SECONDS, "renewTime": now });
    if leases.patch(name, Patch::Merge(&json!({ "spec": spec }))).await.optional()?.is_some() {
        return Ok(());
    }
    let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec });
    let lease = serde_json::from_value(lease).expect("because the object is made by us");
    leases.create(&lease).await.map(drop)
}
