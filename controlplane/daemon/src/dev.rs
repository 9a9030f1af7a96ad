//! `controlplane dev`: the whole control plane in one process on a developer's host, without machined and without the image.
//!
//! What machined would give comes from the data folder: `access.json` (written by `cairnctl dev` from a checkout's trust/) and an
//! identity key; the store and the cluster's keys lie there too. People log in exactly as on a machine.

use crate::audit::Audit;
use crate::leaf::LeafSource;
use crate::member::{Levels, MemberConfig};
use crate::node::{self, NodeConfig, Places};
use crate::pki::write_secret;
use crate::server::{Server, ServerConfig};
use crate::table::{Table, TableWriter, table};
use anyhow::{Context, Result, bail};
use controlplane_agent::HostRoot;
use controlplane_apiserver::Caller;
use jiff::Timestamp;
use machined_access::{AccessTable, IdentityKey, LEAF_LIFETIME, LeafKey, MachineEntry, MachineRole};
use machined_ids::MachineName;
use machined_reconcile::{Restart, Stop, Supervisor};
use rustls::pki_types::CertificateDer;
use std::convert::Infallible;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// How often the access file is looked at; a developer who edits it does not wait longer than this.
const ACCESS_PERIOD: Duration = Duration::from_secs(2);

/// Range of cluster IPs, as on a machine.
const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 12);

/// The pod network, as on a machine.
const PODS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);

/// File in the access folder.
const ACCESS_FILE: &str = "access.json";

/// What the developer chose.
#[derive(Debug, clap::Args)]
pub(crate) struct DevArguments {
    /// Folder for the store, keys and identity; made when it is not there
    #[arg(long, value_name = "FOLDER", default_value = ".cairn/dev")]
    data: PathBuf,
    /// Folder with access.json, which `cairnctl dev` writes [default: the data folder]
    #[arg(long, value_name = "FOLDER")]
    access: Option<PathBuf>,
    /// Address and port of the Kubernetes API; pods reach it only when this is not loopback, as with 0.0.0.0:6443
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Name of the node
    #[arg(long, value_name = "NAME", default_value = "dev")]
    name: String,
    /// Run no node agent and no pod network
    #[arg(long)]
    server_only: bool,
    /// containerd's socket
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,
    /// The pause program, built with `cargo build -p controlplane-agent --bin pause`
    #[arg(long, value_name = "FILE", default_value = "/usr/libexec/cairn/pause")]
    pause: PathBuf,
    /// Folder of OCI archives that are used before any registry; may be given several times
    #[arg(long, value_name = "FOLDER")]
    images: Vec<PathBuf>,
    /// Address of the node [default: the one that this host sends from]
    #[arg(long, value_name = "ADDRESS")]
    node_address: Option<IpAddr>,
}

/// Runs until the process is told to end, or the store cannot go on.
pub(crate) async fn run(arguments: DevArguments, supervisor: &Supervisor) -> Result<()> {
    let name = MachineName::parse(&arguments.name)?;
    fs::create_dir_all(&arguments.data).with_context(|| format!("cannot make {}", arguments.data.display()))?;
    let identity = Arc::new(identity(&arguments.data.join("identity.pem"))?);
    let file = arguments.access.as_ref().unwrap_or(&arguments.data).join(ACCESS_FILE);
    let first = read_table(&file, &name, &identity)?;
    let (writer, table) = table(first);
    follow(supervisor, file, name.clone(), Arc::clone(&identity), writer);
    let leaf = leaf(supervisor, Arc::clone(&identity), &arguments.listen)?;
    tracing::info!(identity = %identity.fingerprint(), "this development machine's identity");
    serve(&arguments, &name, table, leaf, supervisor).await
}

async fn serve(
    arguments: &DevArguments,
    name: &MachineName,
    table: Table,
    leaf: LeafSource,
    supervisor: &Supervisor,
) -> Result<()> {
    // Pods reach the API at the address of the `kubernetes` Service's endpoint: never loopback, which is each pod's own.
    let advertise = match (arguments.listen.ip(), arguments.node_address.map_or_else(routed_address, Ok)) {
        (IpAddr::V4(any), Ok(IpAddr::V4(own))) if any.is_unspecified() => Some(own),
        (IpAddr::V4(one), _) if !one.is_unspecified() && !one.is_loopback() => Some(one),
        (IpAddr::V4(_) | IpAddr::V6(_), _) => None,
    };
    let addresses = [arguments.listen.ip().to_string(), name.to_string()].into_iter();
    let (_, levels) = watch::channel(Levels { allowed: Levels::SPOKEN, settled: true });
    let config = ServerConfig {
        folder: arguments.data.clone(),
        bootstrap: true,
        member: MemberConfig { machine: name.clone(), address: None, others: Vec::new(), levels },
        listen: arguments.listen,
        names: addresses.chain(advertise.map(|own| own.to_string())).collect(),
        advertise,
        services: SERVICES,
        pods: PODS,
        domain: "cluster.local".into(),
    };
    let server = Server::start(config, table.clone(), leaf.clone(), Audit::default(), supervisor).await?;
    server.run_controllers(name.as_str(), supervisor);
    if !arguments.server_only {
        let transport = server.transport(Caller::node(name.as_str(), ""));
        node::start(node_config(arguments, name)?, transport, table, leaf, supervisor).await?;
    }
    println!("Kubernetes API at https://{}", server.address);
    // The tasks do the work from here on.
    let reason = server.failed().await;
    bail!("the store cannot go on: {reason}")
}

fn node_config(arguments: &DevArguments, name: &MachineName) -> Result<NodeConfig> {
    let address = match arguments.node_address {
        Some(address) => address,
        None => routed_address().context("this host has no default route; name an address with --node-address")?,
    };
    let places = Places {
        containerd: arguments.containerd.clone(),
        pause: arguments.pause.clone(),
        images: arguments.images.clone(),
        shim_cgroup: None,
        host: HostRoot::Own,
        ..Places::default()
    };
    Ok(NodeConfig {
        name: name.to_string(),
        addresses: vec![address],
        pods: PODS,
        services: SERVICES,
        mirrors: vec![],
        places,
    })
}

/// The address that this host sends from: where the kernel would route a packet to anywhere. Nothing is sent.
fn routed_address() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // An address that is nobody's (RFC 5737).
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The identity key of this development machine, made on the first start.
fn identity(file: &Path) -> Result<IdentityKey> {
    if !file.exists() {
        let key = IdentityKey::generate()?;
        write_secret(file, &key.to_pem().expect("because it was not made in a TPM"))?;
    }
    let pem = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    IdentityKey::from_pem(&pem)
        .with_context(|| format!("{} is no identity key; remove it to get a new one", file.display()))
}

/// Reads the access table and adds this machine, which no repository names.
fn read_table(file: &Path, name: &MachineName, identity: &IdentityKey) -> Result<AccessTable> {
    let text = fs::read(file).with_context(|| format!("cannot read {}; `cairnctl dev` writes it", file.display()))?;
    let mut table: AccessTable =
        serde_json::from_slice(&text).with_context(|| format!("{} is no access table", file.display()))?;
    let entry = MachineEntry { identity: identity.fingerprint(), role: MachineRole::ControlPlane };
    table.machines.insert(name.clone(), entry);
    Ok(table)
}

/// Reads the table again when its file changes. A file that cannot be read keeps the table as it is.
fn follow(supervisor: &Supervisor, file: PathBuf, name: MachineName, identity: Arc<IdentityKey>, writer: TableWriter) {
    let (name, writer) = (Arc::new(name), Arc::new(writer));
    supervisor.spawn("access table", Restart::Always, move |mut stop| {
        let (file, name, identity, writer) =
            (file.clone(), Arc::clone(&name), Arc::clone(&identity), Arc::clone(&writer));
        async move {
            let mut seen = changed_at(&file);
            let mut period = tokio::time::interval(ACCESS_PERIOD);
            loop {
                tokio::select! {
                    _ = period.tick() => {}
                    () = stop.requested() => return Ok::<_, Infallible>(()),
                }
                let now = changed_at(&file);
                if now == seen {
                    continue;
                }
                seen = now;
                match read_table(&file, &name, &identity) {
                    Ok(next) => writer.replace(next),
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "the access table stays as it was"),
                }
            }
        }
    });
}

fn changed_at(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

/// A leaf from the own identity, renewed at two thirds of its life.
fn leaf(supervisor: &Supervisor, identity: Arc<IdentityKey>, listen: &SocketAddr) -> Result<LeafSource> {
    let key = Arc::new(LeafKey::generate()?);
    let names = [machined_access::tls::MACHINE_NAME.to_owned(), listen.ip().to_string()];
    let chain = identity.issue_leaf(&key.spki(), crate::identify::SERVICE, &names, Timestamp::now())?;
    let (sender, receiver) = watch::channel(chain);
    let sender = Arc::new(sender);
    let spki = key.spki();
    supervisor.spawn("leaf", Restart::Always, move |stop| {
        renew(Arc::clone(&identity), spki.clone(), names.clone(), Arc::clone(&sender), stop)
    });
    Ok(LeafSource::new(key, receiver))
}

async fn renew(
    identity: Arc<IdentityKey>,
    spki: Vec<u8>,
    names: [String; 2],
    sender: Arc<watch::Sender<Vec<CertificateDer<'static>>>>,
    mut stop: Stop,
) -> Result<(), machined_access::IdentityError> {
    let two_thirds = LEAF_LIFETIME.unsigned_abs() * 2 / 3;
    loop {
        tokio::select! {
            () = tokio::time::sleep(two_thirds) => {}
            () = stop.requested() => return Ok(()),
        }
        sender.send_replace(identity.issue_leaf(&spki, crate::identify::SERVICE, &names, Timestamp::now())?);
    }
}
