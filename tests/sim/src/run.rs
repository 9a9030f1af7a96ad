//! One run: a cluster, clients and faults from one seed; then the faults end and the cluster must serve; then the invariants.

use crate::broken::Fault;
use crate::cluster::Cluster;
use crate::faults;
use crate::history::{History, Recorder};
use crate::invariants;
use crate::runtime::Sim;
use crate::traffic::{Client, watch_for_ever};
use anyhow::{Context, Result, bail, ensure};
use openraft::AsyncRuntime;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Clients of a run.
const CLIENTS: u32 = 6;
/// Watchers of a run.
const WATCHERS: u64 = 3;
/// Faults of a run.
const FAULTS: u32 = 40;
/// Within this simulated time after the last fault the cluster must take a write and all members must be equal. Election timeouts are
/// at most two seconds and back-offs of peers less, so some rounds fit.
const LIVENESS_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked at meanwhile.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Calls of clients.
    pub calls: usize,
    /// Revisions written.
    pub revisions: usize,
    /// Changes that watchers got.
    pub watched: usize,
    /// A digest of everything that was seen: equal for equal seeds.
    pub digest: u64,
}

/// Runs a seed; with a fault, on a store that is broken on purpose.
///
/// # Errors
/// When an invariant is broken, a member cannot start, or the cluster does not serve again in time.
pub fn run(seed: u64, fault: Option<Fault>) -> Result<Report> {
    let history = Sim::with_seed(seed).block_on(live(seed, fault))?;
    check(&history)?;
    let digest = fnv(format!("{:?}{:?}", history.calls, history.sights).as_bytes());
    let watched = history.watches.iter().map(|watched| watched.batches().count()).sum();
    Ok(Report { calls: history.calls.len(), revisions: history.changes().len(), watched, digest })
}

/// Checks every invariant; the error is the first that is broken.
fn check(history: &History) -> Result<()> {
    for (name, invariant) in invariants::ALL {
        invariant(history).map_err(|broken| anyhow::anyhow!("{name}: {broken}"))?;
    }
    Ok(())
}

async fn live(seed: u64, fault: Option<Fault>) -> Result<History> {
    let mut random = SmallRng::seed_from_u64(seed);
    let recorder = Recorder::default();
    let size = [1, 3, 3, 3, 5][random.random_range(0..5)];
    let mut cluster = Cluster::start(seed, size, recorder.clone(), fault).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..CLIENTS).map(|number| Client::new(number, seed, cluster.network(), recorder.clone()));
    let mut tasks: Vec<_> = clients.map(|client| Sim::spawn(client.run(Arc::clone(&stop)))).collect();
    tasks.extend((0..WATCHERS).map(|number| {
        let random = SmallRng::seed_from_u64(seed ^ (number << 16));
        Sim::spawn(watch_for_ever(random, cluster.network(), recorder.clone(), Arc::clone(&stop)))
    }));
    for _ in 0..FAULTS {
        faults::strike(&mut cluster, &mut random).await?;
        measure(&cluster, &recorder);
    }
    faults::heal(&mut cluster).await?;
    serve_again(Client::new(CLIENTS, seed, cluster.network(), recorder.clone())).await?;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.map_err(|gone| anyhow::anyhow!("a client ended badly: {gone}"))?;
    }
    settle(&cluster, &recorder).await?;
    Ok(recorder.history())
}

fn measure(cluster: &Cluster, recorder: &Recorder) {
    let disks = cluster.machines().into_iter().filter_map(|id| cluster.disk(id).map(crate::disk::Disk::bytes));
    let largest = disks.max().unwrap_or_default();
    recorder.note(|history| history.largest_disk = history.largest_disk.max(largest));
}

/// Waits until somebody takes a write.
async fn serve_again(mut client: Client) -> Result<()> {
    let waiting = async {
        while !client.write_somewhere().await {
            Sim::sleep(LOOK_PERIOD).await;
        }
    };
    let served = Sim::timeout(LIVENESS_LIMIT, waiting).await;
    served.ok().with_context(|| format!("the cluster took no write within {LIVENESS_LIMIT:?} after the last fault"))
}

/// Waits until all members are equal and their auditors have seen everything, and takes down what they hold.
async fn settle(cluster: &Cluster, recorder: &Recorder) -> Result<()> {
    let waiting = async {
        loop {
            Sim::sleep(Duration::from_secs(1)).await;
            let contents = cluster.contents().await?;
            let newest = contents.iter().map(|(_, held)| held.revision).max();
            let seen = recorder.note(|history| history.audits.iter().map(crate::history::Watched::through).max());
            let voters = cluster.voters();
            let there = |id| contents.iter().any(|(member, held)| *member == id && Some(held.revision) == newest);
            if seen == newest && !voters.is_empty() && voters.into_iter().all(there) {
                return Ok::<_, anyhow::Error>(contents);
            }
        }
    };
    match Sim::timeout(LIVENESS_LIMIT, waiting).await {
        Ok(contents) => {
            let contents = contents?;
            ensure!(!contents.is_empty(), "no member runs at the end");
            recorder.note(|history| history.ends = contents);
            Ok(())
        }
        Err(_) => bail!("the members were not equal within {LIVENESS_LIMIT:?} after the last fault"),
    }
}

/// FNV-1a: enough to see whether two runs are one.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
