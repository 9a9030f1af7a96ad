//! One member of the store: openraft over the log and the state file, behind the [`Store`] trait.

use crate::disk::StateDisk;
use crate::files::Files;
use crate::image::Gathering;
use crate::leases::{self, Deadlines};
use crate::level;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::maintenance;
use crate::peers::{Network, Peers};
use crate::types::{Command, Member, MemberId, Reply, Types};
use bytes::Bytes;
use controlplane_store::{
    Answer, BoxFuture, CatchUp, Consistency, Disk, DiskError, Hub, RangeAnswer, RangeRequest, Store, StoreError, Txn,
    Watcher, check, machine,
};
use machined_ids::{ClusterLevel, Revision};
use machined_reconcile::{Restart, Supervisor};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::impls::TokioRuntime;
use openraft::type_config::alias::InstantOf;
use openraft::{AsyncRuntime, Config, Instant, Raft, RaftState, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a lone member may take to apply what its log holds; the log is bounded by the snapshot policy.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// Log entries between two snapshots. A snapshot is one synced commit, so it is cheap; the log before it can go.
const SNAPSHOT_PERIOD: u64 = 5000;

/// Log entries kept before a snapshot for followers that are a little behind.
const LOG_KEPT: u64 = 1000;

/// Milliseconds between heartbeats, and bounds of the election timeout: etcd's defaults, for members in one place.
pub(crate) const HEARTBEAT_MS: u64 = 100;
const ELECTION_MIN_MS: u64 = 1000;
pub(crate) const ELECTION_MAX_MS: u64 = 2000;

/// Milliseconds in which a whole snapshot has to be with a member and installed: 8 GiB at 100 Mbit/s take that long.
const SNAPSHOT_LIMIT_MS: u64 = 15 * 60 * 1000;

/// Changes that one step of a sweep looks at: some milliseconds during which writes wait.
const SWEEP_LIMIT: usize = 1000;

/// How a member is opened.
pub struct Options<R: AsyncRuntime = TokioRuntime> {
    /// Where its files are.
    pub files: Arc<dyn Files>,
    /// Its number.
    pub id: MemberId,
    /// What the log says of it when it makes a new group.
    pub member: Member,
    /// Whether it makes a new group of one when its directory is empty. Wrong for a member that is to join others.
    pub bootstrap: bool,
    /// The way to the others.
    pub peers: Arc<dyn Peers<R>>,
    /// The newest level that this release speaks.
    pub speaks: ClusterLevel,
}

/// The member could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("cannot use the store's directory {place}")]
    Directory {
        /// Which.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state file cannot be used.
    #[error("cannot open the store's state in {place}")]
    State {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: DiskError,
    },
    /// The log file cannot be used.
    #[error("cannot open the store's log in {place}")]
    Log {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// openraft did not start or did not recover.
    #[error("cannot start the store's member {id}: {reason}")]
    Raft {
        /// Which member.
        id: MemberId,
        /// Why, as openraft says it.
        reason: String,
    },
}

/// A running member.
pub struct Replica<R: AsyncRuntime = TokioRuntime> {
    pub(crate) raft: Raft<Types<R>, Machine<R>>,
    pub(crate) disk: Arc<StateDisk>,
    hub: Arc<Hub>,
    log: LogStore<R>,
    pub(crate) peers: Arc<dyn Peers<R>>,
    files: Arc<dyn Files>,
    /// When leases end, as far as this member saw them renewed.
    pub(crate) deadlines: Mutex<Deadlines>,
    /// From when on its deadlines count.
    pub(crate) opened: InstantOf<Types<R>>,
    pub(crate) speaks: ClusterLevel,
}

impl Replica {
    /// Keeps its history bounded and ends leases from now on: the tasks `store maintenance` and `store leases` under `supervisor`.
    pub fn maintain(self: &Arc<Self>, supervisor: &Supervisor) {
        let (maintained, ended) = (Arc::clone(self), Arc::clone(self));
        supervisor
            .spawn("store maintenance", Restart::Always, move |stop| maintenance::run(Arc::clone(&maintained), stop));
        supervisor.spawn("store leases", Restart::Always, move |stop| leases::run(Arc::clone(&ended), stop));
    }
}

impl<R: AsyncRuntime> Replica<R> {
    /// Opens a member and brings it to where it was. Alone in its group, it leads and has recovered when this returns.
    ///
    /// Tasks: openraft's own, and the log's writer.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(options: Options<R>) -> Result<Arc<Self>, OpenError> {
        let Options { files, id, member, bootstrap, peers, speaks } = options;
        let (disk, log) = open_files(&*files)?;
        let raft_failed = |reason: String| OpenError::Raft { id, reason };
        let disk = Arc::new(disk);
        let position = (|| machine::position(&*disk.view()?))()
            .map_err(|source| OpenError::State { place: files.place(), source })?;
        disk.view()
            .and_then(|view| level::check(&*view, speaks))
            .map_err(|source| OpenError::State { place: files.place(), source })?;
        let hub = Hub::new(position.revision);
        let config = config().validate().map_err(|error| raft_failed(error.to_string()))?;
        let machine = Machine::new(Arc::clone(&disk), Arc::clone(&hub), speaks);
        let raft = Raft::new(id, Arc::new(config), Network(Arc::clone(&peers)), log.clone(), machine)
            .await
            .map_err(|error| raft_failed(error.to_string()))?;
        let deadlines = Mutex::default();
        let opened = R::Instant::now();
        let replica = Arc::new(Replica { raft, disk, hub, log, peers, files, deadlines, opened, speaks });
        replica.start(id, member, bootstrap).await.map_err(raft_failed)?;
        Ok(replica)
    }

    async fn start(&self, id: MemberId, member: Member, bootstrap: bool) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        if self.raft.is_initialized().await.map_err(|error| text(&error))? {
            let voters = |state: &RaftState<Types<R>>| state.membership_state.effective().voter_ids().collect();
            let voters: Vec<MemberId> = self.raft.with_raft_state(voters).await.map_err(|error| text(&error))?;
            if voters != [id] {
                return Ok(());
            }
            // Nobody else can lead, so there is no election timeout to wait for.
            self.raft.trigger().elect(false).await.map_err(|error| text(&error))?;
        } else if bootstrap {
            self.raft.initialize(BTreeMap::from([(id, member)])).await.map_err(|error| text(&error))?;
        } else {
            return Ok(());
        }
        let wait = self.raft.wait(Some(RECOVERY_LIMIT));
        wait.state(ServerState::Leader, "a lone member leads").await.map_err(|error| text(&error))?;
        self.raft.wait_for_recovery(Some(RECOVERY_LIMIT)).await.map_err(|error| text(&error))?;
        Ok(())
    }

    /// Begins to receive a snapshot, beside this member's files. Blocks on the disk. One at a time.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn gather(&self) -> io::Result<Gathering> {
        Gathering::begin(Arc::clone(&self.files))
    }

    /// Whether this member leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// The raft handle: how a server hands in what peers sent, and how members are added.
    #[must_use]
    pub fn raft(&self) -> &Raft<Types<R>, Machine<R>> {
        &self.raft
    }

    /// The oldest revision that can still be read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the disk fails.
    pub fn oldest(&self) -> Result<Revision, StoreError> {
        Ok(machine::position(&*self.disk.view()?)?.oldest)
    }

    /// Refuses reads older than `oldest` from now on, on every member. Going back changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no leader takes it.
    pub async fn compact(&self, oldest: Revision) -> Result<(), StoreError> {
        self.propose(Command::Compact(oldest)).await.map(drop)
    }

    /// Waits until the member cannot go on, and says why: a file could not be written, or it was closed. Nothing but opening it
    /// again helps, so the process should end.
    pub async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "its raft task is gone".to_owned();
            }
        }
    }

    /// Stops the member: no more writes, everything synced. Watches end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the disk fails.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.hub.close("the store is stopping");
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(error = %error, "the store's raft task ended badly");
        }
        self.log.close().await;
        Ok(self.disk.sync()?)
    }

    /// Removes what compaction made superfluous, in steps between which writes get their turn.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the disk fails.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        loop {
            let disk = Arc::clone(&self.disk);
            let step = R::spawn_blocking(move || {
                disk.commit(redb::Durability::None, |batch| machine::sweep(batch, SWEEP_LIMIT))
            });
            let swept =
                step.await.map_err(|error| StoreError::Unavailable { reason: error.to_string(), sent: false })??;
            // Whoever waited for the file while this step had it goes first.
            if swept == machine::Swept::All {
                return Ok(());
            }
        }
    }

    async fn read(&self, request: RangeRequest, consistency: Consistency) -> Result<RangeAnswer, StoreError> {
        if consistency == Consistency::Linearizable {
            self.catch_up().await?;
        }
        // Inline: the pages are in redb's or the kernel's cache, and a list is some milliseconds at worst.
        machine::range(&*self.disk.view()?, &request)
    }
}

fn open_files<R: AsyncRuntime>(files: &dyn Files) -> Result<(StateDisk, LogStore<R>), OpenError> {
    let place = || files.place();
    let disk = StateDisk::open(files).map_err(|source| OpenError::State { place: place(), source })?;
    let log = LogStore::open(files).map_err(|source| OpenError::Log { place: place(), source })?;
    // The names of new files are on disk only when their directory is.
    files.sync_names().map_err(|source| OpenError::Directory { place: place(), source })?;
    Ok((disk, log))
}

fn config() -> Config {
    Config {
        cluster_name: "cairn".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_PERIOD),
        max_in_snapshot_log_to_keep: LOG_KEPT,
        install_snapshot_timeout: SNAPSHOT_LIMIT_MS,
        // A member that was cut off asks first, and so does not depose a leader that the others still hear.
        enable_pre_vote: Some(true),
        // The state file lags behind the log after a crash. A leader that came back without an election would take what it has
        // applied for all that was committed, and answer reads from it: the simulator's seed 2 showed that.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}

impl<R: AsyncRuntime> Store for Replica<R> {
    fn range(&self, request: RangeRequest, consistency: Consistency) -> BoxFuture<'_, Result<RangeAnswer, StoreError>> {
        Box::pin(self.read(request, consistency))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Answer, StoreError>> {
        Box::pin(async move {
            check(&txn)?;
            match self.propose(Command::Txn(txn)).await? {
                Reply::Answer(answer) => Ok(answer),
                Reply::Refused(lease, problem) => Err(StoreError::Lease { lease, problem }),
                Reply::Applied | Reply::More => unreachable!("a transaction is answered with an answer"),
            }
        })
    }

    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watcher>, StoreError>> {
        let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as Arc<dyn Disk>;
        let watcher = CatchUp::begin(disk, &self.hub, start, end, after);
        Box::pin(std::future::ready(watcher.map(|watcher| Box::new(watcher) as Box<dyn Watcher>)))
    }

    fn revision(&self) -> Revision {
        self.hub.published()
    }
}
