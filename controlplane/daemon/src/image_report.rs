//! Tells the cluster what became of operating system images on this machine: an annotation of its Node, for the disruption gate.
//!
//! Task: `image report`. It writes when what machined says differs from what stands on the Node, and looks again now and then, since a
//! Node may be written by others or made anew. It decides nothing: who goes next is the gate's to say.

use crate::local::Place;
use controlplane_client::{Client, ClientError, Object, Patch, Transport};
use controlplane_types::rollout::{IMAGE, ImageReport};
use k8s_openapi::api::core::v1::Node;
use machined_reconcile::{Restart, Stop, Supervisor, story};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the Node is looked at without news: also how long a report waits for a Node or a server that is not there yet.
const PERIOD: Duration = Duration::from_secs(30);

/// Reports for as long as the process runs.
pub(crate) fn start(
    machine: &str,
    transport: Arc<dyn Transport>,
    places: watch::Receiver<Place>,
    supervisor: &Supervisor,
) {
    let (machine, client) = (machine.to_owned(), Client::new(transport));
    supervisor
        .spawn("image report", Restart::Always, move |stop| run(machine.clone(), client.clone(), places.clone(), stop));
}

async fn run(
    machine: String,
    client: Client,
    mut places: watch::Receiver<Place>,
    mut stop: Stop,
) -> Result<(), Infallible> {
    loop {
        let report = places.borrow_and_update().images.clone();
        if let Err(error) = tell(&client, &machine, &report).await {
            // An API that is starting, or a Node that the agent has not made yet: the next look tells it.
            tracing::debug!(error = story(&error), "what became of images is not told yet");
        }
        tokio::select! {
            changed = places.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.requested() => return Ok(()),
        }
    }
}

async fn tell(client: &Client, machine: &str, report: &ImageReport) -> Result<(), ClientError> {
    let nodes = client.all::<Node>();
    let text = serde_json::to_string(report).expect("because it is plain data");
    if nodes.get(machine).await?.annotation(IMAGE) == Some(&text) {
        return Ok(());
    }
    nodes.patch(machine, Patch::Merge(&json!({"metadata": {"annotations": {IMAGE: text}}}))).await.map(drop)
}
