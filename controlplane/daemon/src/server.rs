//! The server role: keys, store, API server, listener. Everything that talks to the API in this process gets a transport from it.
//!
//! Tasks: `api listener` and one `api connection` for each, `leaf renewal`, `event expiry`, `api endpoints`, `controllers`, and those of
//! the store, all under the Supervisor.

use crate::agents::Agents;
use crate::audit::Audit;
use crate::group::Group;
use crate::in_process::InProcess;
use crate::leaf::LeafSource;
use crate::listener::Listener;
use crate::member::{self, MemberConfig, MemberError, Opened};
use crate::pki::PkiError;
use crate::table::Table;
use controlplane_apiserver::{ApiServer, Caller, Failure, Options};
use controlplane_client::Transport;
use controlplane_controllers::{Settings, StoreGroup};
use controlplane_members::{Departures, Exposure};
use controlplane_replica::{Member, Members, Replica};
use controlplane_store::Store;
use machined_access::tls::{self, ServerKeys};
use machined_reconcile::{Restart, Stop, Supervisor};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What a server is to be.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    /// Data directory: `store/` and `pki/` below it.
    pub(crate) folder: PathBuf,
    /// Whether keys and store may be made where there are none.
    pub(crate) bootstrap: bool,
    /// This machine's member of the store.
    pub(crate) member: MemberConfig,
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Names and addresses for the server certificate.
    pub(crate) names: Vec<String>,
    /// Address of this machine for the `kubernetes` Service.
    pub(crate) advertise: Option<Ipv4Addr>,
    /// Range of cluster IPs.
    pub(crate) services: (Ipv4Addr, u8),
    /// The pod network.
    pub(crate) pods: (Ipv4Addr, u8),
    /// DNS domain of the cluster.
    pub(crate) domain: String,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the cluster's keys cannot be used")]
    Pki(#[from] PkiError),
    #[error("this machine is no member of the store")]
    Member(#[from] MemberError),
    #[error("the first objects could not be written")]
    Bootstrap(#[source] Failure),
    #[error("the certificates cannot be served")]
    Tls(#[from] rustls::Error),
    #[error("cannot listen on {address}; another program may have the port")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// A running server.
pub(crate) struct Server {
    api: ApiServer,
    store: Arc<Replica>,
    authorities: watch::Receiver<String>,
    exposure: Option<watch::Receiver<Option<Exposure>>>,
    departures: Arc<Departures>,
    pods: (Ipv4Addr, u8),
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Opens everything and begins to serve.
    pub(crate) async fn start(
        config: ServerConfig,
        table: Table,
        leaf: LeafSource,
        audit: Audit,
        supervisor: &Supervisor,
    ) -> Result<Server, StartError> {
        let opened =
            member::open(&config.folder, config.bootstrap, &config.member, table.clone(), leaf.clone(), supervisor);
        let Opened { replica: store, pki, exposure, departures } = opened.await?;
        let socket = TcpListener::bind(config.listen).await;
        let socket = socket.map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address = socket.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
        let agents = Agents { table: table.clone(), leaf: leaf.clone(), supervisor: supervisor.clone() };
        let options = Options {
            service_range: config.services,
            advertise: config.advertise.map(|ip| (ip, address.port())),
            ca_pem: Some(pki.authorities()),
            nodes: Some(Arc::new(agents)),
            supervisor: supervisor.clone(),
            tokens: Some(pki.service_accounts()),
        };
        let api = ApiServer::new(Arc::clone(&store) as Arc<dyn Store>, options);
        // A new member has nothing to serve before the others took it in.
        store.led().await;
        if let Some(mut exposure) = exposure.clone() {
            // Nor before it has the keys that the others sign with now. The sender lives as long as the process.
            let _known = exposure.wait_for(Option::is_some).await;
        }
        api.bootstrap().await.map_err(StartError::Bootstrap)?;
        let keys = ServerKeys::new(leaf.current())?;
        pki.show(Arc::clone(&keys), server_names(&config))?;
        let tls = Arc::new(tls::server_config(Arc::clone(&keys), &["h2", "http/1.1"])?);
        let listener = Listener { api: api.clone(), tls, table, audit, supervisor: supervisor.clone() };
        let socket = Arc::new(socket);
        supervisor.spawn("api listener", Restart::Always, move |stop| listener.clone().run(Arc::clone(&socket), stop));
        let expiring = api.clone();
        supervisor.spawn("event expiry", Restart::Always, move |stop| expire_events(expiring.clone(), stop));
        supervisor.spawn("leaf renewal", Restart::Always, move |stop| renew(Arc::clone(&keys), leaf.clone(), stop));
        if let Some(own) = config.advertise {
            let (advertising, members) = (api.clone(), Arc::clone(&store));
            supervisor.spawn("api endpoints", Restart::Always, move |stop| {
                advertise(advertising.clone(), Arc::clone(&members), own, stop)
            });
        }
        tracing::info!(%address, "the Kubernetes API is served");
        Ok(Server { api, store, authorities: pki.authorities(), exposure, departures, pods: config.pods, address })
    }

    /// Runs the scheduler and the other controllers while this member of the store leads, so that one process of a cluster does.
    ///
    /// Two may for a moment when the lead changes: each write has the precondition that what it was computed from still stands.
    pub(crate) fn run_controllers(&self, machine: &str, supervisor: &Supervisor) {
        let (instance, pods) = (machine.to_owned(), self.pods);
        let group: Arc<dyn StoreGroup> =
            Arc::new(Group { replica: Arc::clone(&self.store), departures: Arc::clone(&self.departures) });
        let settings = Arc::new(move |root_ca| {
            let (instance, group) = (instance.clone(), Arc::clone(&group));
            Settings { instance, root_ca, pods, group }
        });
        let (transport, store) = (self.transport(Caller::controllers()), Arc::clone(&self.store));
        let authorities = self.authorities.clone();
        supervisor.spawn("controllers", Restart::Always, move |stop| {
            let settings = Arc::clone(&settings) as Arc<dyn Fn(String) -> Settings + Send + Sync>;
            control(Arc::clone(&store), Arc::clone(&transport), settings, authorities.clone(), stop)
        });
    }

    /// Who left the control plane and knows keys that are believed; `None` on a development machine, which nobody leaves.
    pub(crate) fn exposure(&self) -> Option<watch::Receiver<Option<Exposure>>> {
        self.exposure.clone()
    }

    /// The store, to ask who leads.
    pub(crate) fn store(&self) -> Arc<Replica> {
        Arc::clone(&self.store)
    }

    /// Waits until the store cannot go on, and says why. The process should end then: opened again, the store recovers.
    pub(crate) async fn failed(&self) -> String {
        self.store.failed().await
    }

    /// A transport for a caller in this process.
    pub(crate) fn transport(&self, caller: Caller) -> Arc<dyn Transport> {
        Arc::new(InProcess::new(self.api.clone(), caller))
    }
}

/// How long controllers have to end when the lead is lost.
const CONTROLLERS_GRACE: Duration = Duration::from_secs(5);

async fn control(
    store: Arc<Replica>,
    transport: Arc<dyn Transport>,
    settings: Arc<dyn Fn(String) -> Settings + Send + Sync>,
    mut authorities: watch::Receiver<String>,
    mut stop: Stop,
) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            () = store.leading(true) => {}
            () = stop.requested() => return Ok(()),
        }
        tracing::info!("this machine runs the controllers");
        let controllers = Supervisor::new();
        let root_ca = authorities.borrow_and_update().clone();
        controlplane_controllers::run(Arc::clone(&transport), &controllers, settings(root_ca));
        tokio::select! {
            () = store.leading(false) => tracing::info!("another machine runs the controllers"),
            // Rare: they put the new authorities into every namespace when they start.
            () = other(&mut authorities) => tracing::info!("clients are to trust other authorities: the controllers start again"),
            () = stop.requested() => {}
        }
        controllers.stop(CONTROLLERS_GRACE).await;
    }
}

/// Waits until clients are to trust other authorities. Cancel-safe.
async fn other(authorities: &mut watch::Receiver<String>) {
    if authorities.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The names that clients use: those of the machine, and those that pods know.
fn server_names(config: &ServerConfig) -> Vec<String> {
    let mut names = config.names.clone();
    let domain = &config.domain;
    names.extend(
        ["localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from),
    );
    names.push(format!("kubernetes.default.svc.{domain}"));
    // The first address of the range is the `kubernetes` Service.
    names.push(Ipv4Addr::from(u32::from(config.services.0) + 1).to_string());
    names.sort();
    names.dedup();
    names
}

/// How often the leader looks at which members answer. Connections of pods to one that was lost fail for about this long.
const ADVERTISE_PERIOD: Duration = Duration::from_secs(2);

/// The same although nothing changed: somebody may have written to the slice.
const ADVERTISE_AGAIN: Duration = Duration::from_secs(60);

/// On the leader: has the `kubernetes` Service lead to the API servers of all members that answer.
async fn advertise(api: ApiServer, store: Arc<Replica>, own: Ipv4Addr, mut stop: Stop) -> Result<(), Failure> {
    let mut period = tokio::time::interval(ADVERTISE_PERIOD);
    let mut written: Option<(BTreeSet<Ipv4Addr>, tokio::time::Instant)> = None;
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = stop.requested() => return Ok(()),
        }
        if !store.is_leader() {
            written = None;
            continue;
        }
        let addresses = serving(&store.members(), own);
        let fresh = |(known, at): &(BTreeSet<Ipv4Addr>, tokio::time::Instant)| {
            *known == addresses && at.elapsed() < ADVERTISE_AGAIN
        };
        if !written.as_ref().is_some_and(fresh) {
            api.advertise(&addresses).await?;
            written = Some((addresses, tokio::time::Instant::now()));
        }
    }
}

/// Where the members that answer the leader are, and the leader itself.
fn serving(members: &Members, own: Ipv4Addr) -> BTreeSet<Ipv4Addr> {
    let answering = members.voters.iter().filter(|(id, _)| members.alive.contains(id));
    let address = |member: &Member| match member.address.parse::<SocketAddr>().ok()?.ip() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    };
    answering.filter_map(|(_, member)| address(member)).chain([own]).collect()
}

/// How often old events are looked for; each looks at all of them.
const EXPIRY_PERIOD: Duration = Duration::from_secs(300);

async fn expire_events(api: ApiServer, mut stop: Stop) -> Result<(), Failure> {
    let mut period = tokio::time::interval(EXPIRY_PERIOD);
    loop {
        tokio::select! {
            _ = period.tick() => {
                let gone = api.expire_events(jiff::Timestamp::now()).await?;
                tracing::debug!(events = gone, "old events removed");
            }
            () = stop.requested() => return Ok(()),
        }
    }
}

/// Shows each new leaf of the machine; connections that stand keep the old one.
async fn renew(keys: Arc<ServerKeys>, mut leaf: LeafSource, mut stop: Stop) -> Result<(), rustls::Error> {
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
