//! Puts the agent together. Tasks: `events`, `node registration`, `node lease`, `pods`, `container events`, `agent endpoint`, one for each
//! pod, log and probe. All of them belong to the given supervisor.

use crate::config::AgentConfig;
use crate::containerd::Containerd;
use crate::events;
use crate::images::Images;
use crate::logs::LogPumps;
use crate::node::machine::Machine;
use crate::node::{Node, lease, registration};
use crate::pod::manager::Manager;
use crate::pod::probes::ProbeBoard;
use crate::server;
use controlplane_client::{Client, Informers, Selection, Transport};
use controlplane_network::PodNetwork;
use k8s_openapi::api::core::v1::{Pod, Service};
use machined_reconcile::{Restart, Supervisor};
use std::sync::Arc;

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its endpoint cannot listen.
    #[error(transparent)]
    Server(#[from] server::ServerError),
}

/// Starts the agent's tasks and returns; they run until the supervisor stops them.
///
/// # Errors
/// When its endpoint cannot listen.
pub async fn run(
    config: AgentConfig,
    network: Arc<PodNetwork>,
    transport: Arc<dyn Transport>,
    supervisor: &Supervisor,
) -> Result<(), RunError> {
    let client = Client::new(transport);
    let informers = Informers::new(client.clone(), supervisor.clone());
    let mine = Selection::fields(format!("spec.nodeName={}", config.node_name));
    let pods = informers.selected::<Pod>(mine);
    let containerd = Containerd::new(config.containerd.clone(), Arc::new(LogPumps::new(supervisor.clone())));
    let (events, event_queue) = events::queue();
    let node = Arc::new(Node {
        machine: Machine::read(&config.folders.pods),
        images: Images::new(containerd.clone(), config.images.clone()),
        containerd,
        network,
        services: informers.all::<Service>(),
        probes: ProbeBoard::default(),
        events,
        supervisor: supervisor.clone(),
        client: client.clone(),
        config,
    });
    let name = node.config.node_name.clone();
    supervisor
        .spawn("events", Restart::Always, move |stop| event_queue.clone().run(client.clone(), name.clone(), stop));
    let of = Arc::clone(&node);
    supervisor.spawn("node registration", Restart::Always, move |stop| registration::run(Arc::clone(&of), stop));
    let of = Arc::clone(&node);
    supervisor.spawn("node lease", Restart::Always, move |stop| lease::run(Arc::clone(&of), stop));
    let manager = Arc::new(Manager::new(Arc::clone(&node), pods.clone()));
    let of = Arc::clone(&manager);
    supervisor.spawn("pods", Restart::Always, move |stop| Arc::clone(&of).run(stop));
    supervisor.spawn("container events", Restart::Always, move |stop| Arc::clone(&manager).hear(stop));
    server::start(node, pods).await?;
    Ok(())
}
