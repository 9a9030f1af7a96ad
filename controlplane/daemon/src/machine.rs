//! `controlplane machine`: runs what the applied step says that this machine is.
//!
//! Ends when the step changes something that cannot be changed while running; machined then starts it again.

use crate::audit::Audit;
use crate::exposed;
use crate::image_report;
use crate::leaf::LeafSource;
use crate::local::{Local, Place};
use crate::member::{Levels, MemberConfig};
use crate::node::{self, NodeConfig, Places};
use crate::permits;
use crate::readiness;
use crate::remote::Remote;
use crate::server::{Server, ServerConfig};
use crate::table::{Table, TableWriter, table};
use anyhow::{Context, Result, bail};
use controlplane_apiserver::Caller;
use controlplane_client::Transport;
use machined_config::{Addressing, Cidr, Role};
use machined_reconcile::Supervisor;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Port of the Kubernetes API on every control-plane machine.
const API_PORT: u16 = 6443;

/// Where things are on a machine; other values are for tests.
#[derive(Debug, clap::Args)]
pub(crate) struct MachineArguments {
    /// machined's socket
    #[arg(long, value_name = "SOCKET", default_value = machined_api::LOCAL_SOCKET)]
    machined: PathBuf,
    /// Data directory
    #[arg(long, value_name = "FOLDER", default_value = "/state/controlplane")]
    data: PathBuf,
}

/// Runs until the process is told to end, or the machine's place changes beyond what can be followed.
pub(crate) async fn run(arguments: MachineArguments, supervisor: &Supervisor) -> Result<()> {
    let local = Local::connect(&arguments.machined).await?;
    let mut places = local.place(supervisor).await?;
    let place = places.borrow_and_update().clone();
    let (writer, table) = table(place.access.clone());
    let (told, levels) = watch::channel(levels_of(&place));
    let told = Told { table: writer, levels: told };
    let leaf = local.leaf(leaf_names(&place), supervisor).await?;
    let audit = Audit::to_machined(local.clone(), supervisor);
    tracing::info!(machine = %place.machine.name, role = ?place.machine.role, "this machine's place in the cluster");
    let started = Start::of(&place)?;
    let watched = places.clone();
    match started.role {
        Role::ControlPlane => {
            let server = tokio::select! {
                // It may wait long until the others take it in.
                server = control_plane(&arguments, &place, &started, (table, leaf, audit, local, watched), levels, supervisor) => server?,
                ended = follow(&mut places, &started, &told) => return ended,
            };
            tokio::select! {
                ended = follow(&mut places, &started, &told) => ended,
                reason = server.failed() => bail!("the store cannot go on: {reason}"),
            }
        }
        Role::Worker => {
            tokio::select! {
                // It waits until the control plane answers.
                begun = worker(&place, &started, (table, leaf, local, watched), supervisor) => begun?,
                ended = follow(&mut places, &started, &told) => return ended,
            }
            follow(&mut places, &started, &told).await
        }
    }
}

async fn worker(
    place: &Place,
    start: &Start,
    (table, leaf, local, places): (Table, LeafSource, Local, watch::Receiver<Place>),
    supervisor: &Supervisor,
) -> Result<()> {
    let endpoints = place.cluster.endpoints.iter().map(|host| format!("{host}:{API_PORT}")).collect();
    let transport: Arc<dyn Transport> = Remote::new(endpoints, table.clone(), leaf.clone(), supervisor).await?;
    speak_with_machined(place, &transport, local, supervisor)?;
    image_report::start(place.machine.name.as_str(), Arc::clone(&transport), places, supervisor);
    Ok(node::start(start.node.clone(), transport, table, leaf, supervisor).await?)
}

async fn control_plane(
    arguments: &MachineArguments,
    place: &Place,
    start: &Start,
    (table, leaf, audit, local, places): (Table, LeafSource, Audit, Local, watch::Receiver<Place>),
    levels: watch::Receiver<Levels>,
    supervisor: &Supervisor,
) -> Result<Server> {
    let mut names: Vec<String> = place.addresses.iter().map(|cidr| cidr.address().to_string()).collect();
    names.extend(start.names.iter().cloned());
    let others = place.cluster.endpoints.iter().map(|host| format!("{host}:{}", controlplane_members::PORT));
    let config = ServerConfig {
        folder: arguments.data.clone(),
        bootstrap: start.bootstrap,
        member: MemberConfig {
            machine: place.machine.name.clone(),
            address: Some(start.address),
            others: others.collect(),
            levels,
        },
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, API_PORT)),
        names,
        advertise: Some(start.address),
        services: start.node.services,
        pods: start.node.pods,
        domain: start.domain.clone(),
    };
    let server = Server::start(config, table.clone(), leaf.clone(), audit, supervisor).await?;
    server.run_controllers(place.machine.name.as_str(), supervisor);
    exposed::tell(&server, local.clone(), place.machine.name.as_str(), supervisor);
    let transport = server.transport(Caller::node(place.machine.name.as_str(), ""));
    speak_with_machined(place, &transport, local, supervisor)?;
    image_report::start(place.machine.name.as_str(), Arc::clone(&transport), places, supervisor);
    node::start(start.node.clone(), transport, table, leaf, supervisor).await?;
    Ok(server)
}

/// machined asks here before the machine goes away, and is told whether the machine is of use.
fn speak_with_machined(
    place: &Place,
    transport: &Arc<dyn Transport>,
    local: Local,
    supervisor: &Supervisor,
) -> Result<()> {
    let boot = permits::boot_id().context("the kernel does not say which boot this is")?;
    let name = place.machine.name.as_str();
    readiness::tell(name, &boot, Arc::clone(transport), local, supervisor);
    permits::start(name, boot, Arc::clone(transport), Path::new(machined_api::PERMITS_SOCKET), supervisor);
    Ok(())
}

/// What this process is started with. It is started again when any of it changes, and for nothing else in the documents: the rest of
/// `cluster.kdl` is read by others, or as it changes.
#[derive(Debug, Clone, PartialEq)]
struct Start {
    role: Role,
    bootstrap: bool,
    /// The address by which others reach this machine. That it has more or fewer besides starts nothing again.
    address: Ipv4Addr,
    /// Names for the API server's certificate.
    names: Vec<String>,
    domain: String,
    node: NodeConfig,
}

impl Start {
    fn of(place: &Place) -> Result<Self> {
        let address = own_address(place).context("the machine has no IPv4 address yet")?;
        let mut names = place.cluster.endpoints.clone();
        names.push(place.machine.name.to_string());
        Ok(Start {
            role: place.machine.role,
            bootstrap: place.cluster.bootstrap == place.machine.name,
            address,
            names,
            domain: place.cluster.network.domain.clone(),
            node: node_config(place, address)?,
        })
    }
}

fn node_config(place: &Place, address: Ipv4Addr) -> Result<NodeConfig> {
    let range = |cidr: Cidr| match cidr.network() {
        IpAddr::V4(base) => Ok((base, cidr.prefix())),
        IpAddr::V6(_) => bail!("cluster.kdl: pods and services must be IPv4 networks"),
    };
    let mirrors = place.machine.registries.iter();
    let mirrors = mirrors.flat_map(|one| one.mirrors.iter().map(|url| (one.name.clone(), url.clone())));
    Ok(NodeConfig {
        name: place.machine.name.to_string(),
        addresses: vec![address.into()],
        pods: range(place.cluster.network.pods)?,
        services: range(place.cluster.network.services)?,
        mirrors: mirrors.collect(),
        places: Places::default(),
    })
}

/// The address by which others reach this machine: the first that its document gives it, else the first that it has.
fn own_address(place: &Place) -> Option<Ipv4Addr> {
    let v4 = place.addresses.iter().filter_map(|cidr| match cidr.address() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    let own: Vec<Ipv4Addr> = v4
        .filter(|ip| !ip.is_loopback() && !ip.is_link_local())
        .filter(|ip| !place.cluster.network.pods.contains((*ip).into()))
        .collect();
    let given = place.machine.network.links.iter().flat_map(|link| match &link.addressing {
        Addressing::Static { addresses, .. } => addresses.as_slice(),
        Addressing::Dhcp => &[],
    });
    let given = given.filter_map(|cidr| own.iter().find(|ip| IpAddr::from(**ip) == cidr.address())).next();
    given.or(own.first()).copied()
}

fn leaf_names(place: &Place) -> Vec<String> {
    let mut names = vec![machined_access::tls::MACHINE_NAME.to_owned(), place.machine.name.to_string()];
    names.extend(place.addresses.iter().map(|cidr| cidr.address().to_string()));
    names
}

/// What the rest of the process hears of while it runs.
struct Told {
    table: TableWriter,
    levels: watch::Sender<Levels>,
}

fn levels_of(place: &Place) -> Levels {
    Levels { allowed: place.cluster.level.unwrap_or(Levels::SPOKEN), settled: place.settled }
}

/// Passes on new access tables and levels; returns when what this process was started with has changed.
async fn follow(places: &mut watch::Receiver<Place>, started: &Start, told: &Told) -> Result<()> {
    loop {
        if places.changed().await.is_err() {
            // The task that follows machined lives as long as the process.
            return Ok(());
        }
        let place = places.borrow_and_update().clone();
        told.table.replace(place.access.clone());
        told.levels.send_if_modified(|levels| std::mem::replace(levels, levels_of(&place)) != levels_of(&place));
        // What cannot be started with ends this too: the next start says why.
        if Start::of(&place).ok().as_ref() != Some(started) {
            tracing::info!("what the control plane was started with changed; starting again");
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_access::AccessTable;
    use machined_config::{ClusterConfig, MachineConfig};
    use machined_ids::{ClusterId, Seq, StepId};

    const CLUSTER: &str = "cluster {\n id \"00112233445566778899aabbccddeeff\"\n name \"demo\"\n level 1\n bootstrap \"cp1\"\n\
                           \x20endpoint \"10.0.2.15\"\n network {\n pods \"10.244.0.0/16\"\n services \"10.96.0.0/12\"\n\
                           \x20domain \"cluster.local\"\n }\n}";
    const MACHINE: &str = "machine \"cp1\" {\n identity \"SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n role \"control-plane\"\n}";

    fn place(cluster: &str, machine: &str, addresses: &[&str]) -> Place {
        Place {
            cluster: ClusterConfig::parse("cluster.kdl", cluster).expect("because the document is good"),
            machine: MachineConfig::parse("machines/cp1.kdl", machine).expect("because the document is good"),
            access: AccessTable {
                cluster: ClusterId::from_bytes([7; 16]),
                seq: Seq(1),
                step: StepId::from_bytes([1; 32]),
                people: Default::default(),
                roles: Default::default(),
                machines: Default::default(),
                images: Default::default(),
            },
            addresses: addresses.iter().map(|text| text.parse().expect("because it is an address")).collect(),
            images: Default::default(),
            settled: true,
        }
    }

    #[test]
    fn only_what_it_was_started_with_starts_it_again() {
        let of = |cluster: &str, machine: &str, addresses: &[&str]| Start::of(&place(cluster, machine, addresses)).ok();
        let started = of(CLUSTER, MACHINE, &["10.0.2.15/24"]);
        assert!(started.is_some());
        let rollout = CLUSTER.replace("level 1", "level 1\n rollout deadline=\"90s\"");
        assert_eq!(of(&rollout, MACHINE, &["10.0.2.15/24"]), started, "a deadline is gitsync's");
        assert_eq!(of(CLUSTER, MACHINE, &["10.0.2.15/24", "10.0.3.15/24"]), started, "one address more");
        let others = [
            of(CLUSTER, MACHINE, &["10.0.2.16/24"]),
            of(&CLUSTER.replace("10.244", "10.245"), MACHINE, &["10.0.2.15/24"]),
            of(&CLUSTER.replace("cluster.local", "demo.local"), MACHINE, &["10.0.2.15/24"]),
            of(&CLUSTER.replace("endpoint \"10.0.2.15\"", "endpoint \"api.example.org\""), MACHINE, &["10.0.2.15/24"]),
            of(&CLUSTER.replace("bootstrap \"cp1\"", "bootstrap \"cp2\""), MACHINE, &["10.0.2.15/24"]),
            of(CLUSTER, &MACHINE.replace("control-plane", "worker"), &["10.0.2.15/24"]),
            of(CLUSTER, MACHINE, &[]),
        ];
        assert!(others.iter().all(|other| *other != started), "{others:?}");
    }

    #[test]
    fn the_documents_address_comes_before_one_that_dhcp_gave() {
        let both = &["10.0.2.15/24", "10.9.0.11/24"];
        let of = |machine: &str| own_address(&place(CLUSTER, machine, both)).map(|address| address.to_string());
        assert_eq!(of(MACHINE).as_deref(), Some("10.0.2.15"));
        let link = |address: &str| format!("network {{\n link \"eth1\" {{\n address \"{address}\"\n }}\n}}\n}}");
        let with = |address: &str| format!("{}{}", MACHINE.trim_end_matches('}'), link(address));
        assert_eq!(of(&with("10.9.0.11/24")).as_deref(), Some("10.9.0.11"));
        assert_eq!(of(&with("10.9.0.12/24")).as_deref(), Some("10.0.2.15"), "an address that it does not have yet");
    }
}
