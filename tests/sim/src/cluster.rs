//! The machines of a simulated cluster: what starts, kills, pauses and cuts them, and how their number changes.

use crate::broken::{Broken, Fault};
use crate::disk::Disk;
use crate::history::{Recorder, Sight};
use crate::network::{Cable, Network, Running};
use crate::runtime::{Process, Sim};
use crate::traffic;
use anyhow::{Context, Result, bail};
use controlplane_replica::{LEASES, Member, MemberId, Options, Replica};
use controlplane_store::{Consistency, RangeRequest, Store};
use machined_ids::Revision;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{AsyncRuntime, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked at how members stand.
const SIGHT_PERIOD: Duration = Duration::from_millis(20);

/// How long a change of the members may take before the harness goes on; it may still happen.
const MEMBERSHIP_LIMIT: Duration = Duration::from_secs(10);

fn member(id: MemberId) -> Member {
    Member { machine: format!("machine-{id}"), address: format!("member-{id}") }
}

/// Machines, by member number, and what connects them.
pub(crate) struct Cluster {
    seed: u64,
    network: Arc<Network>,
    recorder: Recorder,
    machines: BTreeMap<MemberId, Machine>,
    /// Numbers are never used twice.
    next: MemberId,
    fault: Option<Fault>,
}

struct Machine {
    disk: Disk,
    process: Process,
}

impl Cluster {
    /// A cluster of `size` members that serves; with a fault, each of them has it.
    ///
    /// # Errors
    /// When it does not come up in fair weather.
    pub(crate) async fn start(seed: u64, size: u64, recorder: Recorder, fault: Option<Fault>) -> Result<Self> {
        let network = Network::new(seed);
        let mut cluster = Cluster { seed, network, recorder, machines: BTreeMap::new(), next: 1, fault };
        let first = cluster.add_machine();
        cluster.boot(first, true).await.context("the first member starts")?;
        for _ in 1..size {
            let id = cluster.add_machine();
            cluster.boot(id, false).await.context("a further member starts")?;
            cluster.grow(id).await?;
        }
        Ok(cluster)
    }

    /// The network, for clients and weather.
    #[must_use]
    pub(crate) fn network(&self) -> Arc<Network> {
        Arc::clone(&self.network)
    }

    /// All machines, running or not.
    #[must_use]
    pub(crate) fn machines(&self) -> Vec<MemberId> {
        self.machines.keys().copied().collect()
    }

    /// A machine's disk.
    #[must_use]
    pub(crate) fn disk(&self, id: MemberId) -> Option<&Disk> {
        self.machines.get(&id).map(|machine| &machine.disk)
    }

    /// A machine's process.
    #[must_use]
    pub(crate) fn process(&self, id: MemberId) -> Option<&Process> {
        self.machines.get(&id).map(|machine| &machine.process)
    }

    /// Brings an empty machine.
    pub(crate) fn add_machine(&mut self) -> MemberId {
        let id = self.next;
        self.next += 1;
        let machine = Machine { disk: Disk::new(self.seed ^ (id << 48)), process: Process::start() };
        self.machines.insert(id, machine);
        id
    }

    /// Starts a member on its machine's disk. One that dies while it starts is no error: it was killed.
    ///
    /// # Errors
    /// When it says that it cannot start.
    pub(crate) async fn boot(&mut self, id: MemberId, bootstrap: bool) -> Result<()> {
        let machine = self.machines.get_mut(&id).context("there is such a machine")?;
        machine.process = Process::start();
        let process = machine.process.clone();
        let options = Options {
            files: Arc::new(machine.disk.mount(&process)),
            id,
            member: member(id),
            bootstrap,
            peers: Arc::new(Cable { from: id, network: Arc::clone(&self.network) }),
            speaks: LEASES,
        };
        let opened = process.run(Replica::<Sim>::open(options)).await;
        let replica = match opened {
            Ok(Ok(replica)) => replica,
            Ok(Err(_)) | Err(_) if !process.alive() => return Ok(()),
            Ok(Err(error)) => return Err(error).context(format!("member {id} cannot start")),
            Err(gone) => bail!("member {id} did not start: {gone}"),
        };
        let shipped = Arc::clone(&replica) as Arc<dyn Store>;
        let store = match self.fault {
            Some(fault) => Arc::new(Broken::new(shipped, fault)),
            None => shipped,
        };
        let running = Running { id, process, replica, store };
        self.network.connect(running.clone());
        self.recorder_tasks(running);
        Ok(())
    }

    /// Takes down what the member publishes and how it stands, as long as it runs.
    fn recorder_tasks(&self, running: Running) {
        let (recorder, audited) = (self.recorder.clone(), running.clone());
        let begin = recorder.note(|history| {
            let before = history.audits.iter().filter(|audit| audit.member == running.id);
            before.map(crate::history::Watched::through).max().unwrap_or(Revision(1))
        });
        drop(Sim::spawn(async move {
            let mut after = begin;
            while audited.process.alive() {
                after = traffic::audit(&audited, &recorder, after).await;
                Sim::sleep(SIGHT_PERIOD).await;
            }
        }));
        let recorder = self.recorder.clone();
        drop(Sim::spawn(async move {
            let metrics = running.replica.raft().metrics();
            while running.process.alive() {
                let seen = metrics.borrow_watched().clone();
                let sight = Sight {
                    member: running.id,
                    term: seen.current_term,
                    leads: seen.state == ServerState::Leader,
                    last: seen.last_log_index.unwrap_or_default(),
                    applied: seen.last_applied.map(|id| (id.leader_id.term, id.leader_id.node_id, id.index)),
                };
                recorder.note(|history| history.sights.push(sight));
                Sim::sleep(SIGHT_PERIOD).await;
            }
        }));
    }

    /// Ends a member's process as SIGKILL does; the disk keeps what was written.
    pub(crate) fn kill(&mut self, id: MemberId) {
        if let Some(machine) = self.machines.get(&id) {
            machine.process.kill();
            drop(self.network.disconnect(id));
        }
    }

    /// Cuts the power of a machine.
    pub(crate) fn cut_power(&mut self, id: MemberId) {
        self.kill(id);
        if let Some(machine) = self.machines.get(&id) {
            machine.disk.cut_power();
        }
    }

    /// Machines whose process is dead.
    #[must_use]
    pub(crate) fn dead(&self) -> Vec<MemberId> {
        self.machines.iter().filter(|(_, machine)| !machine.process.alive()).map(|(id, _)| *id).collect()
    }

    /// Members that say themselves that they cannot go on; a supervisor would start them again.
    #[must_use]
    pub(crate) fn failed(&self) -> Vec<MemberId> {
        let failed = |running: &Running| running.replica.raft().metrics().borrow_watched().running_state.is_err();
        self.network.running().iter().filter(|running| failed(running)).map(|running| running.id).collect()
    }

    /// Who leads, as far as a running member knows of itself.
    #[must_use]
    pub(crate) fn leader(&self) -> Option<Running> {
        self.network.running().into_iter().find(|running| running.replica.is_leader())
    }

    /// The voters, as the leader has them.
    #[must_use]
    pub(crate) fn voters(&self) -> BTreeSet<MemberId> {
        self.leader().map(|leader| leader.replica.raft().voter_ids().collect()).unwrap_or_default()
    }

    /// Makes a running member a learner, then a voter.
    ///
    /// # Errors
    /// When there is no leader, or it does not happen in time.
    pub(crate) async fn grow(&self, id: MemberId) -> Result<()> {
        let leader = self.leader().context("somebody leads")?;
        let raft = leader.replica.raft().clone();
        let member = member(id);
        let change = leader.process.run(async move {
            raft.add_learner(id, member, true).await.map_err(|error| error.to_string())?;
            let add = openraft::ChangeMembers::AddVoterIds(BTreeSet::from([id]));
            raft.change_membership(add, false).await.map_err(|error| error.to_string())
        });
        self.finish(change).await
    }

    /// Takes a voter out.
    ///
    /// # Errors
    /// When there is no leader, or it does not happen in time.
    pub(crate) async fn shrink(&self, id: MemberId) -> Result<()> {
        let leader = self.leader().context("somebody leads")?;
        let raft = leader.replica.raft().clone();
        let change = leader.process.run(async move {
            let remove = openraft::ChangeMembers::RemoveVoters(BTreeSet::from([id]));
            raft.change_membership(remove, false).await.map_err(|error| error.to_string())
        });
        self.finish(change).await
    }

    async fn finish<T>(&self, change: crate::runtime::Handle<Result<T, String>>) -> Result<()>
    where
        T: Send + 'static,
    {
        match Sim::timeout(MEMBERSHIP_LIMIT, change).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(reason))) => bail!("the change of members was refused: {reason}"),
            Ok(Err(gone)) => bail!("the leader is gone: {gone}"),
            Err(_) => bail!("the change of members did not end in time"),
        }
    }

    /// Takes a machine away for good.
    pub(crate) fn remove_machine(&mut self, id: MemberId) {
        self.kill(id);
        self.machines.remove(&id);
    }

    /// What each running member holds, read from itself.
    pub(crate) async fn contents(&self) -> Result<Vec<(MemberId, controlplane_store::RangeAnswer)>> {
        let mut contents = Vec::new();
        for running in self.network.running() {
            let replica = Arc::clone(&running.replica);
            let all = RangeRequest::new(&b""[..], &b"\xff"[..]);
            let read = running.process.run(async move { replica.range(all, Consistency::Local).await });
            let answer = read.await.map_err(|gone| anyhow::anyhow!("{gone}"))??;
            contents.push((running.id, answer));
        }
        Ok(contents)
    }
}
