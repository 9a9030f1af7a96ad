//! A replica through the [`Store`] interface, on real files.

use crate::{Alone, Folder, LEASES, Member, Options, Replica};
use bytes::Bytes;
use controlplane_store::{
    Condition, Consistency, LeaseId, LeaseProblem, Op, RangeRequest, Store, StoreError, Txn, prefix_end,
};
use machined_ids::{ClusterLevel, Revision};
use machined_reconcile::Supervisor;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

struct Running {
    replica: Arc<Replica>,
    supervisor: Supervisor,
}

impl Running {
    async fn open(dir: &Path) -> Self {
        let supervisor = Supervisor::new();
        let options = Options {
            files: Arc::new(Folder::create(dir).expect("because a directory can be made")),
            id: 1,
            member: Member::default(),
            bootstrap: true,
            peers: Arc::new(Alone),
            speaks: LEASES,
        };
        let replica = Replica::open(options).await.expect("because the directory is ours");
        replica.maintain(&supervisor);
        Running { replica, supervisor }
    }

    async fn close(self) {
        self.supervisor.stop(Duration::from_secs(5)).await;
        self.replica.close().await.expect("because the disk works");
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        let op = Op::Put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        let txn = Txn { then: vec![op], ..Txn::default() };
        self.replica.txn(txn).await.expect("because a put succeeds").revision
    }

    async fn values(&self, at: Option<Revision>) -> Result<Vec<String>, StoreError> {
        let request = RangeRequest { at, ..RangeRequest::new("/a/", prefix_end(b"/a/")) };
        let answer = self.replica.range(request, Consistency::Linearizable).await?;
        Ok(answer.entries.iter().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).collect())
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart_at_the_same_revisions() {
    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    let first = store.put("/a/x", "1").await;
    let second = store.put("/a/x", "2").await;
    store.close().await;

    let store = Running::open(dir.path()).await;
    assert_eq!(store.replica.revision(), second);
    assert_eq!(store.values(None).await, Ok(vec!["2".to_owned()]));
    assert_eq!(store.values(Some(first)).await, Ok(vec!["1".to_owned()]));
    assert_eq!(store.put("/a/y", "3").await, second.next());
    store.close().await;
}

#[tokio::test]
async fn concurrent_writers_of_one_key_lose_no_update() {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 20;
    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    let key = Bytes::from_static(b"/a/counter");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (replica, key) = (Arc::clone(&store.replica), key.clone());
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                increment(&*replica, &key).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("because no writer panics");
    }
    assert_eq!(store.values(None).await, Ok(vec![(WRITERS * ROUNDS).to_string()]));
    store.close().await;
}

async fn increment(store: &dyn Store, key: &Bytes) {
    loop {
        let read = store.range(RangeRequest::key(key.clone()), Consistency::Linearizable).await;
        let (count, modified) = match read.expect("because the store runs").entries.first() {
            None => (0, Revision(0)),
            Some(entry) => {
                let text = std::str::from_utf8(&entry.value).expect("because it is a number");
                (text.parse::<u64>().expect("because it is a number"), entry.modified)
            }
        };
        let txn = Txn {
            conditions: vec![Condition::Modified(key.clone(), modified)],
            then: vec![Op::Put(key.clone(), Bytes::from((count + 1).to_string()))],
            otherwise: Vec::new(),
        };
        if store.txn(txn).await.expect("because the store runs").succeeded {
            return;
        }
    }
}

#[tokio::test]
async fn a_watch_sees_each_write_once_and_ends_with_the_store() {
    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    let first = store.put("/a/x", "1").await;
    store.put("/a/x", "2").await;
    let watched = store.replica.watch(Bytes::from_static(b"/a/"), prefix_end(b"/a/"), first).await;
    let mut watcher = watched.expect("because the revision is kept");
    store.put("/a/x", "3").await;
    for expected in [first.0 + 1, first.0 + 2] {
        assert_eq!(watcher.next().await.expect("because it is there").revision, Revision(expected));
    }
    store.close().await;
    assert!(matches!(watcher.next().await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_compaction_goes_through_the_log_and_holds_after_a_restart() {
    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    let first = store.put("/a/x", "1").await;
    let second = store.put("/a/x", "2").await;
    store.replica.compact(second).await.expect("because the store runs");
    store.replica.sweep().await.expect("because the disk works");
    store.close().await;

    let store = Running::open(dir.path()).await;
    assert_eq!(store.values(Some(first)).await, Err(StoreError::Compacted { asked: first, oldest: second }));
    assert_eq!(store.values(Some(second)).await, Ok(vec!["2".to_owned()]));
    store.close().await;
}

#[tokio::test]
async fn a_snapshot_carries_the_whole_state_to_another_member() {
    use crate::disk::StateDisk;
    use crate::machine::Machine;
    use controlplane_store::Hub;
    use openraft::storage::RaftStateMachine;

    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    store.put("/a/x", "1").await;
    let last = store.put("/a/y", "2").await;
    store.replica.raft().trigger().snapshot().await.expect("because the store runs");
    let wait = store.replica.raft().wait(None);
    let built = wait.metrics(|metrics| metrics.snapshot.is_some(), "a snapshot is built").await;
    built.expect("because the store runs");
    let snapshot = store.replica.raft().get_snapshot().await.expect("because the store runs");
    let snapshot = snapshot.expect("because one was built");

    let other = Folder::create(dir.path().join("other")).expect("because a directory can be made");
    let other = Arc::new(StateDisk::open(&other).expect("because the file is new"));
    let hub = Hub::new(Revision(1));
    let mut machine: Machine = Machine::new(Arc::clone(&other), Arc::clone(&hub), LEASES);
    machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.expect("because the disk works");
    assert_eq!(hub.published(), last);
    let applied = machine.applied_state().await.expect("because the disk works");
    assert_eq!(applied, (snapshot.meta.last_log_id, snapshot.meta.last_membership));
    let view = other.snapshot().expect("because the disk works");
    let answer = controlplane_store::machine::range(&view, &RangeRequest::new("/a/", prefix_end(b"/a/")));
    assert_eq!(answer.expect("because the disk works").entries.len(), 2);
    store.close().await;
}

#[tokio::test]
async fn a_lease_that_nobody_renews_takes_its_keys_with_it() {
    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    let (short, long) = (LeaseId(1), LeaseId(2));
    let early = StoreError::Level { needed: LEASES, level: ClusterLevel::FIRST };
    assert_eq!(store.replica.grant(short, 1).await, Err(early), "a member may not know leases");
    store.replica.raise(LEASES, &[]).await.expect("because its release speaks it");
    store.replica.grant(short, 1).await.expect("because it is new");
    store.replica.grant(long, 3600).await.expect("because it is new");
    let put = |key: &'static str, lease| Op::PutLeased(key.into(), "1".into(), lease);
    let then = vec![put("/a/x", short), put("/a/y", long), put("/a/z", short)];
    let put = store.replica.txn(Txn { then, ..Txn::default() }).await.expect("because both leases are there").revision;
    let watched = store.replica.watch(Bytes::from_static(b"/a/"), prefix_end(b"/a/"), put).await;
    let ended = watched.expect("because the revision is kept").next().await.expect("because the lease ends");
    let gone: Vec<&[u8]> = ended.events.iter().map(|event| event.key().as_ref()).collect();
    assert_eq!(gone, [b"/a/x", b"/a/z"]);
    let leases = store.replica.leases().await.expect("because the store runs");
    assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [long]);
    let missing = StoreError::Lease { lease: short, problem: LeaseProblem::Missing };
    assert_eq!(store.replica.renew(short).await, Err(missing.clone()));
    let then = vec![Op::PutLeased("/a/x".into(), "2".into(), short)];
    assert_eq!(store.replica.txn(Txn { then, ..Txn::default() }).await, Err(missing));
    store.close().await;

    let store = Running::open(dir.path()).await;
    let status = store.replica.lease(long).await.expect("because the store runs").expect("because it has an hour");
    assert_eq!((status.keys, status.lease.seconds), (vec![Bytes::from_static(b"/a/y")], 3600));
    store.close().await;
}

#[tokio::test]
async fn a_lease_with_many_keys_ends_in_steps_and_none_is_left() {
    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    let lease = LeaseId(7);
    store.replica.raise(LEASES, &[]).await.expect("because its release speaks it");
    store.replica.grant(lease, 3600).await.expect("because it is new");
    for round in 0..7 {
        let put = |key: i32| Op::PutLeased(format!("/a/{round}{key:03}").into(), "1".into(), lease);
        let txn = Txn { then: (0..100).map(put).collect(), ..Txn::default() };
        store.replica.txn(txn).await.expect("because the lease is there");
    }
    let before = store.replica.revision();
    store.replica.revoke(lease).await.expect("because it is there");
    assert_eq!(store.values(None).await, Ok(Vec::new()));
    assert_eq!(store.replica.revision(), Revision(before.0 + 3), "700 keys in steps of 256");
    assert_eq!(store.replica.leases().await, Ok(Vec::new()));
    store.close().await;
}

#[tokio::test]
async fn a_member_that_has_stopped_says_so_and_takes_no_writes() {
    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    let replica = Arc::clone(&store.replica);
    let watching = tokio::spawn(async move { replica.failed().await });
    store.replica.close().await.expect("because the disk works");
    assert!(!watching.await.expect("because nothing panics").is_empty());
    let put = Op::Put(Bytes::from_static(b"/a/x"), Bytes::from_static(b"1"));
    let refused = store.replica.txn(Txn { then: vec![put], ..Txn::default() }).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_message_to_a_follower_is_bounded_whatever_the_log_holds() {
    use crate::log::LogStore;
    use openraft::RaftLogReader;
    use openraft::impls::TokioRuntime;

    let dir = TempDir::new().expect("because a temporary directory can be made");
    let store = Running::open(dir.path()).await;
    for number in 0..8 {
        store.put(&format!("/a/{number}"), &"x".repeat(1_500_000)).await;
    }
    let last = store.replica.members().last;
    store.close().await;
    let folder = Folder::create(dir.path()).expect("because the directory is there");
    let mut log = LogStore::<TokioRuntime>::open(&folder).expect("because the file is there");
    let (mut next, mut messages) = (0, Vec::new());
    while next <= last {
        let entries = log.limited_get_log_entries(next, last + 1).await.expect("because the file is whole");
        next += entries.len() as u64;
        messages.push(entries.len());
        assert!(entries.len() <= 5, "4 MiB have room for two of the eight large entries, and the first small ones");
    }
    assert!(messages.len() >= 4, "{messages:?}");
    let all = log.try_get_log_entries(0..=last).await.expect("because the file is whole");
    assert_eq!(all.len() as u64, last + 1, "reading the log itself has no such limit");
    log.close().await;
}
