//! What goes wrong in a run: a seeded choice every now and then, on a cluster that clients use.

use crate::cluster::Cluster;
use crate::disk::Disk;
use crate::network::Weather;
use crate::runtime::Sim;
use anyhow::Result;
use controlplane_replica::MemberId;
use controlplane_store::Store;
use machined_ids::Revision;
use openraft::AsyncRuntime;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::time::Duration;

/// Milliseconds between two faults.
const PAUSE_MILLIS: std::ops::Range<u64> = 50..3000;

/// How long the harness waits for what it asks of a member; the next fault may be the one that ends the wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// Revisions of history that are kept when the harness compacts; little, so that watchers meet the edge.
const KEPT: u64 = 300;

/// The largest group.
const MEMBERS_MAX: usize = 5;

/// Does one thing wrong, or puts one right.
///
/// # Errors
/// When a member says that it cannot start from what it finds on its disk.
pub(crate) async fn strike(cluster: &mut Cluster, random: &mut SmallRng) -> Result<()> {
    Sim::sleep(Duration::from_millis(random.random_range(PAUSE_MILLIS))).await;
    restart_failed(cluster, random).await?;
    let machines = cluster.machines();
    let id = machines[random.random_range(0..machines.len())];
    match random.random_range(0..100) {
        0..16 => cluster.kill(id),
        16..30 => cluster.cut_power(id),
        30..38 => cluster.disk(id).into_iter().for_each(|disk| disk.die_within(1..200)),
        38..46 => pause(cluster, id, random),
        46..58 => partition(cluster, &machines, random),
        58..66 => cluster.network().set_weather(weather(random)),
        66..72 => slow_disk(cluster, id, random),
        72..75 => cluster.disk(id).into_iter().for_each(|disk| disk.fail_syncs()),
        75..78 => cluster.disk(id).into_iter().for_each(|disk| disk.fill_up()),
        78..84 => compact(cluster).await,
        84..88 => snapshot(cluster, id).await,
        88..94 => change_members(cluster, random).await?,
        _ => cluster.network().heal(),
    }
    Ok(())
}

/// Starts what is dead, mostly: some stay down for another round.
async fn restart_failed(cluster: &mut Cluster, random: &mut SmallRng) -> Result<()> {
    stop_failed(cluster);
    for id in cluster.dead() {
        if random.random_bool(0.6) {
            restart(cluster, id).await?;
        }
    }
    Ok(())
}

/// Ends members that say that they cannot go on.
fn stop_failed(cluster: &mut Cluster) {
    for id in cluster.failed() {
        cluster.kill(id);
    }
}

async fn restart(cluster: &mut Cluster, id: MemberId) -> Result<()> {
    drop(cluster.network().disconnect(id));
    if cluster.disk(id).is_some_and(Disk::lost_changes) {
        // The machine restarts: what a failed sync lost is still in its page cache, and would be taken for what is on the disk.
        cluster.cut_power(id);
    }
    cluster.disk(id).into_iter().for_each(|disk| disk.heal());
    cluster.boot(id, false).await
}

fn pause(cluster: &Cluster, id: MemberId, random: &mut SmallRng) {
    if let Some(process) = cluster.process(id).cloned() {
        let time = Duration::from_millis(random.random_range(100..30_000));
        process.pause();
        drop(Sim::spawn(async move {
            Sim::sleep(time).await;
            process.resume();
        }));
    }
}

/// Cuts the cluster into two sides, in both directions or in one.
fn partition(cluster: &Cluster, machines: &[MemberId], random: &mut SmallRng) {
    let (left, right): (Vec<MemberId>, Vec<MemberId>) = machines.iter().partition(|_| random.random_bool(0.4));
    let pairs = left.iter().flat_map(|from| right.iter().map(|to| (*from, *to)));
    let directions: Vec<_> = match random.random_range(0..3) {
        0 => pairs.collect(),
        1 => pairs.map(|(from, to)| (to, from)).collect(),
        _ => pairs.flat_map(|(from, to)| [(from, to), (to, from)]).collect(),
    };
    cluster.network().cut(directions);
}

fn weather(random: &mut SmallRng) -> Weather {
    Weather {
        delay_micros: 100..random.random_range(1_000..200_000),
        loss: if random.random_bool(0.5) { random.random_range(0.0..0.3) } else { 0.0 },
        duplicates: if random.random_bool(0.5) { random.random_range(0.0..0.2) } else { 0.0 },
    }
}

fn slow_disk(cluster: &Cluster, id: MemberId, random: &mut SmallRng) {
    if let Some(process) = cluster.process(id) {
        let slowest = random.random_range(10_000..7_000_000);
        process.set_disk_micros(random.random_bool(0.5).then_some(1000..slowest));
    }
}

async fn compact(cluster: &Cluster) {
    if let Some(leader) = cluster.leader() {
        let replica = leader.replica;
        let oldest = Revision(replica.revision().0.saturating_sub(KEPT));
        let compacting = leader.process.run(async move { replica.compact(oldest).await });
        // Refused without a leader, lost with its process, waiting while it is cut off: then history is longer for a while.
        let _compacted_or_not = Sim::timeout(PATIENCE, compacting).await;
    }
}

async fn snapshot(cluster: &Cluster, id: MemberId) {
    if let Some(running) = cluster.network().running().into_iter().find(|running| running.id == id) {
        let raft = running.replica.raft().clone();
        let asking = running.process.run(async move { raft.trigger().snapshot().await.is_ok() });
        // Its process may be paused, or killed.
        let _asked_or_gone = Sim::timeout(PATIENCE, asking).await;
    }
}

/// Replaces, adds or takes out a member. Refusals are part of life: there may be no leader.
async fn change_members(cluster: &mut Cluster, random: &mut SmallRng) -> Result<()> {
    let voters = cluster.voters();
    let grow = voters.len() < 2 || (voters.len() < MEMBERS_MAX && random.random_bool(0.6));
    if grow && cluster.machines().len() < MEMBERS_MAX + 1 {
        let id = cluster.add_machine();
        cluster.boot(id, false).await?;
        if cluster.grow(id).await.is_err() && !cluster.voters().contains(&id) {
            // It may have become a voter without anybody knowing, so its machine stays.
            return Ok(());
        }
    } else if let Some(id) = voters.iter().nth(random.random_range(0..voters.len().max(1))).copied()
        && voters.len() > 1
        && cluster.shrink(id).await.is_ok()
        && !cluster.voters().contains(&id)
    {
        cluster.remove_machine(id);
    }
    Ok(())
}

/// Ends every fault: fair weather, healthy disks, everybody runs.
///
/// # Errors
/// When a member cannot start.
pub(crate) async fn heal(cluster: &mut Cluster) -> Result<()> {
    cluster.network().heal();
    for id in cluster.machines() {
        cluster.disk(id).into_iter().for_each(|disk| disk.heal());
        if let Some(process) = cluster.process(id) {
            process.set_disk_micros(None);
            process.resume();
        }
    }
    stop_failed(cluster);
    for id in cluster.dead() {
        restart(cluster, id).await?;
    }
    Ok(())
}
