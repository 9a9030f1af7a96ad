//! `controlplane machine`: runs what the applied step says that this machine is.
//!
//! Ends when the step changes something that cannot be changed while running; machined then starts it again.

use crate::audit::Audit;
use crate::leaf::LeafSource;
use crate::local::{Local, Place};
use crate::node::{self, NodeConfig, Places};
use crate::server::{Server, ServerConfig};
use crate::table::{Table, TableWriter, table};
use anyhow::{Context, Result, bail};
use controlplane_apiserver::Caller;
use machined_config::{Cidr, Role};
use machined_reconcile::Supervisor;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
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
    let leaf = local.leaf(leaf_names(&place), supervisor).await?;
    let audit = Audit::to_machined(local, supervisor);
    tracing::info!(machine = %place.machine.name, role = ?place.machine.role, "this machine's place in the cluster");
    let server = match place.machine.role {
        Role::ControlPlane => control_plane(&arguments, &place, table, leaf, audit, supervisor).await?,
        Role::Worker => bail!("workers cannot join yet: give this machine the role \"control-plane\""),
    };
    tokio::select! {
        ended = follow(&mut places, &place, &writer) => ended,
        reason = server.failed() => bail!("the store cannot go on: {reason}"),
    }
}

async fn control_plane(
    arguments: &MachineArguments,
    place: &Place,
    table: Table,
    leaf: LeafSource,
    audit: Audit,
    supervisor: &Supervisor,
) -> Result<Server> {
    let advertise = own_address(place).context("the machine has no IPv4 address yet")?;
    let services = place.cluster.network.services;
    let IpAddr::V4(base) = services.network() else { bail!("cluster.kdl: services must be an IPv4 network") };
    let mut names: Vec<String> = place.addresses.iter().map(|cidr| cidr.address().to_string()).collect();
    names.extend(place.cluster.endpoints.iter().cloned());
    names.push(place.machine.name.to_string());
    let config = ServerConfig {
        folder: arguments.data.clone(),
        bootstrap: place.cluster.bootstrap == place.machine.name,
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, API_PORT)),
        names,
        advertise: Some(advertise),
        services: (base, services.prefix()),
        domain: place.cluster.network.domain.clone(),
    };
    let server = Server::start(config, table.clone(), leaf.clone(), audit, supervisor).await?;
    server.run_controllers(place.machine.name.as_str(), supervisor);
    let transport = server.transport(Caller::node(place.machine.name.as_str(), ""));
    node::start(node_config(place, advertise)?, transport, table, leaf, supervisor).await?;
    Ok(server)
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

/// The address by which others reach this machine.
fn own_address(place: &Place) -> Option<Ipv4Addr> {
    let v4 = place.addresses.iter().filter_map(|cidr| match cidr.address() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    v4.filter(|ip| !ip.is_loopback() && !ip.is_link_local())
        .find(|ip| !place.cluster.network.pods.contains((*ip).into()))
}

fn leaf_names(place: &Place) -> Vec<String> {
    let mut names = vec![machined_access::tls::MACHINE_NAME.to_owned(), place.machine.name.to_string()];
    names.extend(place.addresses.iter().map(|cidr| cidr.address().to_string()));
    names
}

/// Passes on new access tables; returns when something else has changed.
async fn follow(places: &mut watch::Receiver<Place>, started: &Place, writer: &TableWriter) -> Result<()> {
    loop {
        if places.changed().await.is_err() {
            // The task that follows machined lives as long as the process.
            return Ok(());
        }
        let place = places.borrow_and_update().clone();
        writer.replace(place.access.clone());
        let same = place.cluster == started.cluster
            && place.machine.role == started.machine.role
            && place.machine.name == started.machine.name
            && own_address(&place) == own_address(started);
        if !same {
            tracing::info!("the machine's documents or address changed; starting again with them");
            return Ok(());
        }
    }
}
