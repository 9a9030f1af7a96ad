//! This machine's member of the store: as it was, as the first of a new cluster, or as a new one that the others take in.
//!
//! ```text
//! member.json has a number       -> open it
//! nobody answers, may bootstrap  -> number 1, a new group, new keys
//! somebody answers               -> the number and the keys that it gives
//! ```
//! A folder without a number never becomes part of two groups: its birth is drawn and kept before anybody is asked.

use crate::leaf::LeafSource;
use crate::pki::{Bundle, Pki, PkiError, write_secret};
use crate::table::Table;
use controlplane_members::{
    AnnounceError, Announcement, Birth, Departures, Dialler, Exposure, FIRST, JoinError, Keyring, PORT, Roster, Trust,
    announce, ask_to_join, keep_keys, keep_membership, serve,
};
use controlplane_replica::{Alone, Folder, Member, MemberId, OpenError, Options, Peers, Replica};
use controlplane_store::StoreError;
use jiff::Timestamp;
use machined_access::{Leaf, MachineRole};
use machined_config::CLUSTER_LEVEL;
use machined_ids::{ClusterLevel, MachineName};
use machined_reconcile::{Restart, Stop, Supervisor};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// File in the store's folder: who this member is.
const FILE: &str = "member.json";

/// Pause between two rounds of asking to be taken in.
const JOIN_PAUSE: Duration = Duration::from_secs(3);

/// What a machine's member is to be.
#[derive(Debug, Clone)]
pub(crate) struct MemberConfig {
    /// The machine.
    pub(crate) machine: MachineName,
    /// Where the others reach it; `None` for a group of one that nobody joins.
    pub(crate) address: Option<Ipv4Addr>,
    /// Where other members may be found: `host:port`.
    pub(crate) others: Vec<String>,
    /// What may be spoken.
    pub(crate) levels: watch::Receiver<Levels>,
}

/// How far this machine's release and the repository let the cluster's level go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Levels {
    /// The newest level that the repository allows.
    pub(crate) allowed: ClusterLevel,
    /// Whether the running image stays: it is not on trial, and none is about to be.
    pub(crate) settled: bool,
}

impl Levels {
    /// What this release speaks.
    pub(crate) const SPOKEN: ClusterLevel = ClusterLevel(CLUSTER_LEVEL);
}

/// Why this machine has no member.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemberError {
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the cluster's keys cannot be used")]
    Pki(#[from] PkiError),
    #[error("the keys that another machine gave cannot be read")]
    Keys(#[source] serde_json::Error),
    #[error("the store did not open")]
    Open(#[from] OpenError),
    #[error("this member cannot be put on record")]
    Record(#[from] AnnounceError),
    #[error("the cluster's level cannot be written")]
    Level(#[source] StoreError),
    #[error("the store knows this member as number {known}, its folder says {own}: restore one of them from a backup")]
    Number { known: MemberId, own: MemberId },
    #[error("cannot listen on port {PORT}; another program may have it")]
    Listen(#[source] io::Error),
}

/// Who this folder's member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    birth: Birth,
    /// None until somebody gave one.
    id: Option<MemberId>,
}

impl Identity {
    /// Reads it, or makes one that is kept before this returns.
    fn open(folder: &Path) -> Result<Identity, MemberError> {
        let path = folder.join(FILE);
        let failed = |source| MemberError::File { path: path.clone(), source };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder).map_err(failed)?;
                let mut birth = [0; 16];
                getrandom::fill(&mut birth).map_err(|error| failed(io::Error::other(error)))?;
                // A store that is there already was made by the release that knew groups of one only.
                let id = folder.join("state.redb").exists().then_some(FIRST);
                let identity = Identity { birth: Birth(birth), id };
                identity.keep(folder)?;
                Ok(identity)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn keep(&self, folder: &Path) -> Result<(), MemberError> {
        let path = folder.join(FILE);
        let text = serde_json::to_string(self)
            .map_err(|error| MemberError::File { path: path.clone(), source: error.into() })?;
        Ok(write_secret(&path, &text)?)
    }
}

/// The members of the cluster, by the access table.
struct Circle {
    table: Table,
    leaf: LeafSource,
    machine: MachineName,
    levels: watch::Receiver<Levels>,
}

impl Trust for Circle {
    fn roster(&self) -> Roster {
        let table = self.table.current();
        let members = table.machines.iter().filter(|(_, machine)| machine.role == MachineRole::ControlPlane);
        let machines = members.map(|(name, machine)| (name.clone(), machine.identity.clone())).collect();
        Roster { seq: table.seq, machines }
    }

    fn allowed_level(&self) -> ClusterLevel {
        self.levels.borrow().allowed
    }

    fn leaf(&self) -> Leaf {
        self.leaf.current()
    }

    fn machine(&self) -> MachineName {
        self.machine.clone()
    }
}

/// A member that runs, and the cluster's keys.
pub(crate) struct Opened {
    pub(crate) replica: Arc<Replica>,
    pub(crate) pki: Arc<Pki>,
    /// Who knows keys and left; `None` until this member's keys are those of the cluster, and nothing may be served before. A group of
    /// one that nobody joins has none.
    pub(crate) exposure: Option<watch::Receiver<Option<Exposure>>>,
    /// Whose member is to leave.
    pub(crate) departures: Arc<Departures>,
}

/// Opens the member in `folder`. Where it is a new one of an old cluster, waits until somebody takes it in.
///
/// Tasks: those of the store, `store peers`, `store membership`, `store record` and `cluster keys`.
pub(crate) async fn open(
    folder: &Path,
    bootstrap: bool,
    config: &MemberConfig,
    table: Table,
    leaf: LeafSource,
    supervisor: &Supervisor,
) -> Result<Opened, MemberError> {
    let (store, keys) = (folder.join("store"), folder.join("pki"));
    let trust: Arc<dyn Trust> =
        Arc::new(Circle { table, leaf, machine: config.machine.clone(), levels: config.levels.clone() });
    let mut identity = Identity::open(&store)?;
    let own = config.address.map(|ip| SocketAddr::from((ip, PORT)));
    let mut first = false;
    let id = match identity.id {
        Some(id) => id,
        None => {
            let (id, welcome) = place(&trust, config, own, identity.birth, bootstrap).await;
            first = welcome.is_none();
            if let Some(bundle) = welcome {
                let bundle: Bundle = serde_json::from_slice(&bundle).map_err(MemberError::Keys)?;
                bundle.keep(&keys)?;
            }
            identity.id = Some(id);
            id
        }
    };
    let pki = Arc::new(Pki::open(&keys, first)?);
    identity.keep(&store)?;
    let files = Folder::create(&store).map_err(|source| MemberError::File { path: store.clone(), source })?;
    let member =
        Member { machine: config.machine.to_string(), address: own.map(|own| own.to_string()).unwrap_or_default() };
    let peers: Arc<dyn Peers> = match own {
        Some(_) => Dialler::new(Arc::clone(&trust)),
        None => Arc::new(Alone),
    };
    let options = Options { files: Arc::new(files), id, member, bootstrap: id == FIRST, peers, speaks: Levels::SPOKEN };
    let replica = Replica::open(options).await?;
    replica.maintain(supervisor);
    let (mut exposure, departures) = (None, Arc::new(Departures::default()));
    if own.is_none() {
        // Nobody else ever has to understand it.
        replica.raise(Levels::SPOKEN, &[]).await.map_err(MemberError::Level)?;
    }
    if let Some(own) = own {
        let (machine, levels) = (config.machine.clone(), config.levels.clone());
        let record = On { birth: identity.birth, id, machine, address: own, levels };
        connect(&replica, &trust, &pki, record, &departures, supervisor).await?;
        exposure = Some(follow_keys(&replica, &trust, &pki, supervisor));
    }
    Ok(Opened { replica, pki, exposure, departures })
}

fn follow_keys(
    replica: &Arc<Replica>,
    trust: &Arc<dyn Trust>,
    pki: &Arc<Pki>,
    supervisor: &Supervisor,
) -> watch::Receiver<Option<Exposure>> {
    let (sender, exposure) = watch::channel(None);
    let (replica, trust, pki, sender) = (Arc::clone(replica), Arc::clone(trust), Arc::clone(pki), Arc::new(sender));
    supervisor.spawn("cluster keys", Restart::Always, move |stop| {
        let ring = Arc::clone(&pki) as Arc<dyn Keyring>;
        keep_keys(Arc::clone(&replica), Arc::clone(&trust), ring, Arc::new(Timestamp::now), Arc::clone(&sender), stop)
    });
    exposure
}

/// Finds this machine's place: a number with the keys of the cluster that took it in, or the first number of a new one.
async fn place(
    trust: &Arc<dyn Trust>,
    config: &MemberConfig,
    own: Option<SocketAddr>,
    birth: Birth,
    bootstrap: bool,
) -> (MemberId, Option<Vec<u8>>) {
    let Some(own) = own.map(|own| own.to_string()) else { return (FIRST, None) };
    loop {
        let alone = trust.roster().machines.keys().all(|machine| *machine == config.machine);
        if alone && bootstrap {
            return (FIRST, None);
        }
        let others: Vec<String> = config.others.iter().filter(|one| **one != own).cloned().collect();
        match ask_to_join(trust, &others, birth, &own, Levels::SPOKEN).await {
            Ok(joined) => return (joined.id, Some(joined.welcome)),
            Err(error) if bootstrap => {
                tracing::info!(reason = describe(&error), "no cluster answers: this machine makes it");
                return (FIRST, None);
            }
            Err(error) => tracing::warn!(
                reason = describe(&error),
                "this machine is not a member of the store yet; `cluster.kdl` names where others are asked as `endpoint`"
            ),
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

fn describe(error: &JoinError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// What the store is told of this member.
#[derive(Clone)]
struct On {
    birth: Birth,
    id: MemberId,
    machine: MachineName,
    address: SocketAddr,
    levels: watch::Receiver<Levels>,
}

impl On {
    /// Puts this member on record; says what was told of its image.
    async fn record(&mut self, replica: &Replica, trust: &dyn Trust) -> Result<bool, MemberError> {
        let settled = self.levels.borrow_and_update().settled;
        let from = Announcement {
            birth: self.birth,
            machine: self.machine.clone(),
            address: self.address.to_string(),
            seq: trust.roster().seq,
            speaks: Levels::SPOKEN,
            settled,
        };
        let known = announce(replica, &from).await?;
        if known == self.id { Ok(settled) } else { Err(MemberError::Number { known, own: self.id }) }
    }

    /// Tells the store of this member, and again whenever its image went on trial or stays.
    async fn keep(mut self, replica: Arc<Replica>, trust: Arc<dyn Trust>, mut stop: Stop) -> Result<(), MemberError> {
        loop {
            let settled = tokio::select! {
                () = replica.led() => self.record(&replica, &*trust).await?,
                () = stop.requested() => return Ok(()),
            };
            tokio::select! {
                // Whoever tells is gone only when the process ends.
                Ok(_) = self.levels.wait_for(|levels| levels.settled != settled) => {}
                () = stop.requested() => return Ok(()),
            }
        }
    }
}

/// Speaks with the others from now on.
async fn connect(
    replica: &Arc<Replica>,
    trust: &Arc<dyn Trust>,
    pki: &Arc<Pki>,
    mut on: On,
    departures: &Arc<Departures>,
    supervisor: &Supervisor,
) -> Result<(), MemberError> {
    let socket = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.map_err(MemberError::Listen)?;
    if replica.members().voters.keys().eq([&on.id]) {
        // Before anybody else can ask for a number.
        on.record(replica, &**trust).await?;
    }
    let (told, believed) = (Arc::clone(replica), Arc::clone(trust));
    supervisor.spawn("store record", Restart::Always, move |stop| {
        on.clone().keep(Arc::clone(&told), Arc::clone(&believed), stop)
    });
    let socket = Arc::new(socket);
    let (served, believed, pki) = (Arc::clone(replica), Arc::clone(trust), Arc::clone(pki));
    supervisor.spawn("store peers", Restart::Always, move |stop| {
        let ring = Arc::clone(&pki) as Arc<dyn Keyring>;
        serve(Arc::clone(&socket), Arc::clone(&served), Arc::clone(&believed), ring, stop)
    });
    let (replica, trust, departures) = (Arc::clone(replica), Arc::clone(trust), Arc::clone(departures));
    supervisor.spawn("store membership", Restart::Always, move |stop| {
        keep_membership(Arc::clone(&replica), Arc::clone(&trust), Arc::clone(&departures), stop)
    });
    Ok(())
}
