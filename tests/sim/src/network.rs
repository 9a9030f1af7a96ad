//! The network between members: delay, loss, duplicates, and directions that are cut.
//!
//! A message is a task in the receiver's process. What is lost is never answered; the sender's own limit ends the wait.

use crate::runtime::{Process, Sim};
use controlplane_replica::{Command, Led, Member, MemberId, Peer, Peers, Replica, Reply, SnapshotInFlight, Types};
use controlplane_store::{BoxFuture, Store};
use openraft::AsyncRuntime;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::alias::VoteOf;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How messages travel.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// Microseconds that a message takes one way. A wide range reorders.
    pub delay_micros: Range<u64>,
    /// Share of messages that are lost.
    pub loss: f64,
    /// Share of messages that arrive twice.
    pub duplicates: f64,
}

impl Weather {
    /// Members in one place.
    pub(crate) const FAIR: Weather = Weather { delay_micros: 100..1000, loss: 0.0, duplicates: 0.0 };
}

/// Who can be reached, and how.
pub(crate) struct Network(Mutex<State>);

struct State {
    random: SmallRng,
    weather: Weather,
    /// Directions in which nothing arrives.
    cut: BTreeSet<(MemberId, MemberId)>,
    running: BTreeMap<MemberId, Running>,
}

/// A member that runs.
#[derive(Clone)]
pub(crate) struct Running {
    /// Its number.
    pub id: MemberId,
    /// Where its tasks live.
    pub process: Process,
    /// The member.
    pub replica: Arc<Replica<Sim>>,
    /// The member as its clients meet it: itself, or broken on purpose.
    pub store: Arc<dyn Store>,
}

impl Network {
    /// A network without members; chance comes from `seed`.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Network(Mutex::new(State {
            random: SmallRng::seed_from_u64(seed),
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            running: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a member that runs.
    pub(crate) fn connect(&self, running: Running) {
        self.state().running.insert(running.id, running);
    }

    /// Forgets a member that does not run any more.
    pub(crate) fn disconnect(&self, id: MemberId) -> Option<Running> {
        self.state().running.remove(&id)
    }

    /// Who runs, by number.
    #[must_use]
    pub(crate) fn running(&self) -> Vec<Running> {
        self.state().running.values().cloned().collect()
    }

    /// Changes how messages travel.
    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Has nothing arrive in these directions; replaces what was cut before.
    pub(crate) fn cut(&self, directions: impl IntoIterator<Item = (MemberId, MemberId)>) {
        self.state().cut = directions.into_iter().collect();
    }

    /// Fair weather, nothing cut.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.weather = Weather::FAIR;
        state.cut.clear();
    }

    /// Takes a message one way; what is lost never arrives.
    async fn travel(&self, from: MemberId, to: MemberId) {
        let (delay, lost) = {
            let mut state = self.state();
            let Weather { delay_micros, loss, .. } = state.weather.clone();
            (Duration::from_micros(state.random.random_range(delay_micros)), state.random.random_bool(loss))
        };
        Sim::sleep(delay).await;
        if lost || self.state().cut.contains(&(from, to)) {
            pending::<()>().await;
        }
    }

    fn doubled(&self) -> bool {
        let mut state = self.state();
        let share = state.weather.duplicates;
        state.random.random_bool(share)
    }

    fn at(&self, id: MemberId) -> Option<Running> {
        self.state().running.get(&id).cloned()
    }
}

/// The network as one member uses it.
pub(crate) struct Cable {
    /// Whose end it is.
    pub from: MemberId,
    /// The network.
    pub network: Arc<Network>,
}

impl Peers<Sim> for Cable {
    fn peer(&self, id: MemberId, _: &Member) -> Arc<dyn Peer<Sim>> {
        Arc::new(Line { from: self.from, to: id, network: Arc::clone(&self.network) })
    }
}

struct Line {
    from: MemberId,
    to: MemberId,
    network: Arc<Network>,
}

impl Line {
    /// Sends a message and waits for the answer.
    fn call<T, E, F>(
        &self,
        limit: Duration,
        handle: impl FnOnce(Arc<Replica<Sim>>) -> F + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>>
    where
        T: Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (from, to, network) = (self.from, self.to, Arc::clone(&self.network));
        let exchange = async move {
            network.travel(from, to).await;
            let Some(receiver) = network.at(to) else {
                return Err(io::Error::from(io::ErrorKind::NotConnected));
            };
            let answer = receiver.process.run(handle(receiver.replica)).await;
            network.travel(to, from).await;
            answer.map_err(|gone| io::Error::other(gone.to_string()))?.map_err(io::Error::other)
        };
        Box::pin(
            async move { Sim::timeout(limit, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) },
        )
    }
}

impl Peer<Sim> for Line {
    fn append(
        &self,
        request: AppendEntriesRequest<Types<Sim>>,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<AppendEntriesResponse<Types<Sim>>>> {
        if self.network.doubled() {
            let again = request.clone();
            let second = self.call(limit, move |replica| async move { replica.raft().append_entries(again).await });
            drop(Sim::spawn(second));
        }
        self.call(limit, move |replica| async move { replica.raft().append_entries(request).await })
    }

    fn vote(
        &self,
        request: VoteRequest<Types<Sim>>,
        pre: bool,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<VoteResponse<Types<Sim>>>> {
        self.call(limit, move |replica| async move {
            if pre { replica.raft().pre_vote(request).await } else { replica.raft().vote(request).await }
        })
    }

    fn snapshot(
        &self,
        vote: VoteOf<Types<Sim>>,
        snapshot: SnapshotInFlight,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<SnapshotResponse<Types<Sim>>>> {
        self.call(limit, move |replica| async move {
            // As over a wire: taken apart, and gathered on the receiver's disk.
            let SnapshotInFlight { meta, snapshot: image } = snapshot;
            let mut gathering = replica.gather()?;
            image.pieces(|piece| gathering.add(&piece))?;
            let received = SnapshotInFlight { meta, snapshot: gathering.finish()? };
            replica.raft().install_full_snapshot(vote, received).await.map_err(io::Error::other)
        })
    }

    fn transfer(
        &self,
        request: TransferLeaderRequest<Types<Sim>>,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<TransferLeaderResponse<Types<Sim>>>> {
        self.call(limit, move |replica| async move { replica.raft().handle_transfer_leader(request).await })
    }

    fn propose(&self, command: Command, limit: Duration) -> BoxFuture<'_, io::Result<Led<Reply>>> {
        self.call(limit, move |replica| async move { replica.lead(command).await })
    }

    fn read_index(&self, limit: Duration) -> BoxFuture<'_, io::Result<Led<u64>>> {
        self.call(limit, move |replica| async move { replica.read_index().await })
    }
}
