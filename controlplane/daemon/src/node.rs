//! The node role: pod network, service proxy and node agent, on the transport that it is given.
//!
//! Tasks: those of the agent and the proxy, under the Supervisor. Stopping them stops no container.

use crate::identify::SERVICE;
use crate::leaf::LeafSource;
use crate::table::Table;
use controlplane_agent::{AgentConfig, Doorkeeper, Folders, HostRoot, ImagesConfig, PodDns, RegistryMirror};
use controlplane_client::{Client, ClientError, Informers, Optional, Transport};
use controlplane_network::{Cidr, CidrError, NetworkConfig, PodNetwork, PodNetworkError, proxy, routes};
use init_boot::WORKLOAD_CGROUP;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use machined_access::tls::{self, ServerKeys};
use machined_access::{MachineRole, Peer};
use machined_reconcile::{Restart, Stop, Supervisor};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{Error, ServerConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// What a node is to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeConfig {
    /// Name of the Node object.
    pub(crate) name: String,
    /// Addresses of the machine; others reach it by the first.
    pub(crate) addresses: Vec<IpAddr>,
    /// Pod network of the whole cluster: base and prefix length.
    pub(crate) pods: (Ipv4Addr, u8),
    /// Range of cluster IPs.
    pub(crate) services: (Ipv4Addr, u8),
    /// Mirrors of registries: name as image references have it, base URL.
    pub(crate) mirrors: Vec<(String, String)>,
    /// Where things are; the defaults are those of a machine.
    pub(crate) places: Places,
}

/// Folders, sockets and programs of a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Places {
    /// containerd's socket.
    pub(crate) containerd: PathBuf,
    /// The pause program.
    pub(crate) pause: PathBuf,
    /// Folders of OCI archives that are tried before any registry.
    pub(crate) images: Vec<PathBuf>,
    /// cgroup that containerd's shims are put into; `None` leaves them with containerd.
    pub(crate) shim_cgroup: Option<String>,
    /// Where host paths of pods are looked for.
    pub(crate) host: HostRoot,
    /// Port of the agent's endpoint.
    pub(crate) agent_port: u16,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            containerd: PathBuf::from("/run/containerd/containerd.sock"),
            pause: PathBuf::from("/usr/libexec/cairn/pause"),
            images: vec![PathBuf::from("/usr/share/cairn/images")],
            shim_cgroup: Some("/cairn/shims".into()),
            host: HostRoot::OfMemberOf(WORKLOAD_CGROUP.into()),
            agent_port: crate::agents::AGENT_PORT,
        }
    }
}

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("the networks of cluster.kdl cannot be used")]
    Ranges(#[from] CidrError),
    #[error("the pod network cannot be set up")]
    Network(#[from] PodNetworkError),
    #[error("the Node of this machine cannot be read or made")]
    Register(#[from] ClientError),
    #[error("the agent's certificate cannot be served")]
    Tls(#[from] Error),
    #[error("the node agent did not start")]
    Agent(#[from] controlplane_agent::RunError),
}

/// Starts a node.
pub(crate) async fn start(
    config: NodeConfig,
    transport: Arc<dyn Transport>,
    table: Table,
    leaf: LeafSource,
    supervisor: &Supervisor,
) -> Result<(), NodeError> {
    let network = NetworkConfig {
        cluster_pods: Cidr::new(config.pods.0, config.pods.1)?,
        services: Cidr::new(config.services.0, config.services.1)?,
        ..NetworkConfig::default()
    };
    let informers = Informers::new(Client::new(Arc::clone(&transport)), supervisor.clone());
    let own = part(&informers, &config.name).await?;
    let pods = Arc::new(PodNetwork::open(network.clone(), own).await?);
    proxy::run(network, own, &informers, supervisor);
    routes::run(config.name.clone(), &informers, supervisor);
    let keys = ServerKeys::new(leaf.current())?;
    let tls = Arc::new(tls::server_config(Arc::clone(&keys), &["http/1.1"])?);
    let door = Arc::new(ControlPlaneOnly { tls, table });
    supervisor.spawn("agent leaf renewal", Restart::Always, move |stop| renew(Arc::clone(&keys), leaf.clone(), stop));
    let agent = agent_config(config, door);
    controlplane_agent::run(agent, pods, transport, supervisor).await?;
    Ok(())
}

/// This node's part of the pod network, as soon as a controller has given it one. Makes the Node, if there is none; the agent fills it in.
async fn part(informers: &Informers, name: &str) -> Result<Cidr, NodeError> {
    let nodes = informers.client().all::<Node>();
    if nodes.get(name).await.optional()?.is_none() {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        nodes.create(&Node { metadata, ..Node::default() }).await?;
    }
    let (sender, mut given) = watch::channel(None);
    let own = name.to_owned();
    informers.all::<Node>().cache().on_change(move |change| {
        let node = change.newest();
        if node.metadata.name.as_deref() == Some(&*own) {
            sender.send_replace(node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()));
        }
    });
    // The cache and with it the sender live as long as the informers.
    let text = given.wait_for(Option::is_some).await.ok().and_then(|given| given.clone()).unwrap_or_default();
    Ok(text.parse()?)
}

fn agent_config(config: NodeConfig, door: Arc<ControlPlaneOnly>) -> AgentConfig {
    let NodeConfig { name, addresses, mirrors, places, .. } = config;
    let mut agent = AgentConfig::new(name, addresses);
    agent.containerd.socket = places.containerd;
    agent.containerd.shim_cgroup = places.shim_cgroup;
    let mirrors = mirrors.into_iter().map(|(registry, url)| RegistryMirror { registry, url });
    agent.images = ImagesConfig { caches: places.images, mirrors: mirrors.collect(), ..ImagesConfig::default() };
    agent.folders = Folders::default();
    agent.pause = places.pause;
    agent.host = places.host;
    // There is no cluster DNS yet: pods use the machine's resolver.
    agent.dns = PodDns::default();
    agent.endpoint = Some((SocketAddr::from((Ipv4Addr::UNSPECIFIED, places.agent_port)), door));
    agent
}

async fn renew(keys: Arc<ServerKeys>, mut leaf: LeafSource, mut stop: Stop) -> Result<(), Error> {
    loop {
        tokio::select! {
            renewed = leaf.changed() => {
                if !renewed {
                    return Ok(());
                }
                keys.set_machine(leaf.current())?;
            }
            () = stop.requested() => return Ok(()),
        }
    }
}

/// Lets those in whose leaf was signed by a control-plane machine of the accepted step for its `controlplane` service.
struct ControlPlaneOnly {
    tls: Arc<ServerConfig>,
    table: Table,
}

impl ControlPlaneOnly {
    fn allows(&self, peer: &Peer) -> bool {
        let Peer::Machine { identity, service } = peer else { return false };
        let table = self.table.current();
        let role = table.machine_by_identity(identity).map(|(_, machine)| machine.role);
        service == SERVICE && role == Some(MachineRole::ControlPlane)
    }
}

impl Doorkeeper for ControlPlaneOnly {
    fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls)
    }

    fn admits(&self, certificates: &[CertificateDer<'static>]) -> bool {
        self.allows(&tls::peer(Some(certificates), UnixTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_access::{AccessTable, LeafKey, MachineEntry};
    use machined_ids::{ClusterId, Fingerprint, MachineName, Seq, StepId};
    use std::collections::BTreeMap;

    #[test]
    fn only_the_control_plane_reaches_an_agent() {
        let fingerprint = |byte| Fingerprint::from_sha256(&[byte; 32]);
        let machine = |name: &str, byte, role| {
            let name = MachineName::parse(name).expect("because it is a label");
            (name, MachineEntry { identity: fingerprint(byte), role })
        };
        let (_writer, table) = crate::table::table(AccessTable {
            cluster: ClusterId::from_bytes([7; 16]),
            seq: Seq(1),
            step: StepId::from_bytes([1; 32]),
            people: BTreeMap::new(),
            roles: BTreeMap::new(),
            machines: BTreeMap::from([
                machine("cp1", 1, MachineRole::ControlPlane),
                machine("w1", 2, MachineRole::Worker),
            ]),
            images: Default::default(),
        });
        let leaf = LeafKey::generate().and_then(|key| key.self_signed(jiff::Timestamp::now()));
        let keys = ServerKeys::new(leaf.expect("because the system has randomness")).expect("because the key can sign");
        let tls = Arc::new(tls::server_config(keys, &[]).expect("because the provider has all versions"));
        let door = ControlPlaneOnly { tls, table };
        let peer = |byte, service: &str| Peer::Machine { identity: fingerprint(byte), service: service.into() };
        assert!(door.allows(&peer(1, "controlplane")));
        for other in [peer(1, "gitsync"), peer(2, "controlplane"), peer(9, "controlplane"), Peer::Anonymous] {
            assert!(!door.allows(&other), "{other:?}");
        }
        assert!(!door.allows(&Peer::Key(fingerprint(1))));
    }
}
