//! Clients: Kubernetes-like traffic against whichever member they reach, and watchers that come back where they were.

use crate::history::{Note, Outcome, Recorder, Request, Watched};
use crate::network::{Network, Running};
use crate::runtime::{Process, Sim};
use bytes::Bytes;
use controlplane_replica::MemberId;
use controlplane_store::{
    BoxFuture, Condition, Consistency, Entry, Op, RangeRequest, Store, StoreError, Txn, Watcher, prefix_end,
};
use machined_ids::Revision;
use openraft::{AsyncRuntime, Instant};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where clients keep their objects.
pub(crate) const PREFIX: &[u8] = b"/registry/";

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Objects that all clients share; few, so that they get into each other's way.
const OBJECTS: u32 = 12;

/// Milliseconds between two calls of a client.
const PAUSE_MILLIS: std::ops::Range<u64> = 1..60;

/// Milliseconds after which a watcher hangs up and comes back, perhaps to another member.
const WATCH_MILLIS: std::ops::Range<u64> = 200..8000;

/// Somebody who uses the store.
pub(crate) struct Client {
    network: Arc<Network>,
    recorder: Recorder,
    random: SmallRng,
    number: u32,
    writes: u32,
    /// The member that answered last.
    favourite: Option<MemberId>,
}

impl Client {
    /// A client; what it does comes from `seed`.
    #[must_use]
    pub(crate) fn new(number: u32, seed: u64, network: Arc<Network>, recorder: Recorder) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ (u64::from(number) << 32));
        Client { network, recorder, random, number, writes: 0, favourite: None }
    }

    /// Calls until it is told to stop.
    pub(crate) async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            self.act().await;
            let pause = Duration::from_millis(self.random.random_range(PAUSE_MILLIS));
            Sim::sleep(pause).await;
        }
    }

    /// Writes once to every member until one takes it; says whether one did.
    pub(crate) async fn write_somewhere(&mut self) -> bool {
        for running in self.network.running() {
            let (key, value) = (self.key(), self.value());
            self.txn(&running, Txn { then: vec![Op::Put(key, value)], ..Txn::default() }).await;
            if self.favourite == Some(running.id) {
                return true;
            }
        }
        false
    }

    fn member(&mut self) -> Option<Running> {
        let running = self.network.running();
        let favourite = running.iter().find(|running| Some(running.id) == self.favourite);
        match favourite {
            Some(running) if self.random.random_bool(0.95) => Some(running.clone()),
            _ if running.is_empty() => None,
            _ => Some(running[self.random.random_range(0..running.len())].clone()),
        }
    }

    /// One thing that a client does: mostly read-and-update, as controllers do.
    async fn act(&mut self) {
        let Some(running) = self.member() else { return };
        let key = self.key();
        let read = RangeRequest::key(key.clone());
        match self.random.random_range(0..100) {
            0..10 => drop(self.read(&running, RangeRequest::new(PREFIX, prefix_end(PREFIX)), Consistency::Local).await),
            10..20 => {
                let all = RangeRequest::new(PREFIX, prefix_end(PREFIX));
                drop(self.read(&running, all, Consistency::Linearizable).await);
            }
            20..35 => {
                let value = self.value();
                self.txn(&running, Txn { then: vec![Op::Put(key, value)], ..Txn::default() }).await;
            }
            35..42 => self.txn(&running, Txn { then: vec![Op::Delete(key)], ..Txn::default() }).await,
            42..50 => {
                let (other, value, second) = (self.key(), self.value(), self.value());
                let mut then = vec![Op::Put(key.clone(), value)];
                if other != key {
                    then.push(Op::Put(other, second));
                }
                self.txn(&running, Txn { then, ..Txn::default() }).await;
            }
            _ => {
                if let Some(found) = self.read(&running, read, Consistency::Linearizable).await {
                    self.update(&running, key, found.first()).await;
                }
            }
        }
    }

    async fn update(&mut self, running: &Running, key: Bytes, found: Option<&Entry>) {
        let modified = found.map_or(Revision(0), |entry| entry.modified);
        let change = match found {
            Some(_) if self.random.random_bool(0.1) => Op::Delete(key.clone()),
            _ => Op::Put(key.clone(), self.value()),
        };
        let conditions = vec![Condition::Modified(key.clone(), modified)];
        self.txn(running, Txn { conditions, then: vec![change], otherwise: vec![Op::Get(key)] }).await;
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("/registry/pods/default/{:02}", self.random.random_range(0..OBJECTS)))
    }

    /// A value that is written once in the whole run, so that its origin is known.
    fn value(&mut self) -> Bytes {
        self.writes += 1;
        Bytes::from(format!("client {} write {}", self.number, self.writes))
    }

    async fn txn(&mut self, running: &Running, txn: Txn) {
        let call = self.recorder.sent(running.id, Request::Txn(txn.clone()));
        let store = Arc::clone(&running.store);
        let asked = running.process.run(async move { store.txn(txn).await });
        let outcome = match Sim::timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(answer))) => Outcome::Answered(answer, self.recorder.moment()),
            Ok(Ok(Err(StoreError::Unavailable { sent: true, .. }))) | Ok(Err(_)) | Err(_) => Outcome::Unknown,
            Ok(Ok(Err(refused))) => Outcome::Refused(refused),
        };
        self.settle(running.id, call, outcome);
    }

    async fn read(&mut self, running: &Running, request: RangeRequest, how: Consistency) -> Option<Vec<Entry>> {
        let asked = match how {
            Consistency::Linearizable => Request::Read(request.clone()),
            Consistency::Local => Request::LocalRead(request.clone()),
        };
        let call = self.recorder.sent(running.id, asked);
        let store = Arc::clone(&running.store);
        let asked = running.process.run(async move { store.range(request, how).await });
        let (outcome, entries) = match Sim::timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(answer))) => {
                let entries = answer.entries.clone();
                (Outcome::Read(answer, self.recorder.moment()), Some(entries))
            }
            Ok(Ok(Err(refused))) => (Outcome::Refused(refused), None),
            Ok(Err(_)) | Err(_) => (Outcome::Unknown, None),
        };
        self.settle(running.id, call, outcome);
        entries
    }

    fn settle(&mut self, member: MemberId, call: usize, outcome: Outcome) {
        self.favourite = match &outcome {
            Outcome::Answered(..) | Outcome::Read(..) => Some(member),
            Outcome::Refused(_) | Outcome::Unknown => None,
        };
        self.recorder.settle(call, outcome);
    }
}

/// Watches some objects, hangs up now and then, and goes on where it was, at any member.
pub(crate) async fn watch_for_ever(
    mut random: SmallRng,
    network: Arc<Network>,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
) {
    let mut seen = Revision(0);
    while !stop.load(Ordering::Relaxed) {
        let running = network.running();
        let limit = Duration::from_millis(random.random_range(WATCH_MILLIS));
        if running.is_empty() {
            Sim::sleep(limit).await;
            continue;
        }
        let running = running[random.random_range(0..running.len())].clone();
        let from = format!("/registry/pods/default/{:02}", random.random_range(0..OBJECTS / 2)).into_bytes();
        let range = (from, prefix_end(PREFIX).to_vec());
        seen = match begin(&running.process, Arc::clone(&running.store), &range, seen).await {
            Ok((watcher, after)) => {
                let watched = follow(&running, watcher, Watched::new(running.id, range, after), limit).await;
                let through = watched.through();
                recorder.note(|history| history.watches.push(watched));
                through
            }
            // The window has gone on, or this member is not there yet: list, that is, begin at what it has.
            Err(StoreError::Compacted { .. }) => Revision(0),
            Err(_) => seen,
        };
        Sim::sleep(Duration::from_millis(random.random_range(PAUSE_MILLIS))).await;
    }
}

type Begun = (Box<dyn Watcher>, Revision);

/// Begins a watch after `after`, or after what the member has when that is zero.
async fn begin(
    process: &Process,
    store: Arc<dyn Store>,
    range: &(Vec<u8>, Vec<u8>),
    after: Revision,
) -> Result<Begun, StoreError> {
    let range = range.clone();
    let asked: BoxFuture<'static, _> = Box::pin(async move {
        let after = if after == Revision(0) { store.revision() } else { after };
        Ok((store.watch(range.0.into(), range.1.into(), after).await?, after))
    });
    match Sim::timeout(PATIENCE, process.run(asked)).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable { reason: "no answer".to_owned(), sent: false }),
    }
}

/// Reads a watch until it ends, or for `limit`.
async fn follow(running: &Running, mut watcher: Box<dyn Watcher>, watched: Watched, limit: Duration) -> Watched {
    let notes = Arc::new(Mutex::new(watched));
    let written = Arc::clone(&notes);
    let end = <Sim as AsyncRuntime>::Instant::now() + limit;
    let reading = running.process.run(async move {
        while let Ok(Ok(batch)) = Sim::timeout_at(end, watcher.next()).await {
            let progress = Note::Progress(watcher.progress());
            let mut watched = written.lock().unwrap_or_else(PoisonError::into_inner);
            watched.notes.extend([Note::Batch(batch), progress]);
        }
    });
    // However it ends, what came before stands.
    let _ended = reading.await;
    let watched = notes.lock().unwrap_or_else(PoisonError::into_inner);
    watched.clone()
}

/// Takes down everything that one running member publishes after `after`, until it stops; gives back how far it came.
pub(crate) async fn audit(running: &Running, recorder: &Recorder, after: Revision) -> Revision {
    let range = (Vec::new(), vec![0xff]);
    match begin(&running.process, Arc::clone(&running.replica) as Arc<dyn Store>, &range, after).await {
        Ok((watcher, after)) => {
            let watched = Watched::new(running.id, range, after);
            let watched = follow(running, watcher, watched, Duration::from_millis(500)).await;
            let through = watched.through();
            recorder.note(|history| history.audits.push(watched));
            through
        }
        Err(StoreError::Compacted { oldest, .. }) => oldest,
        Err(_) => after,
    }
}
