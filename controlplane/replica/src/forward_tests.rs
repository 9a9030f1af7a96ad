//! Requests at a member that follows: what it does with a leader that turns them away.

use crate::peers::{Alone, Led, Peer, Peers, SnapshotInFlight};
use crate::types::{Command, Member, MemberId, Reply, Types, Vote};
use crate::{Folder, Options, Replica};
use controlplane_store::{Answer, BoxFuture, Op, Store, Txn};
use machined_ids::{ClusterLevel, Revision};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A leader whose lease has run out for the first `turned_away` proposals. Nothing else reaches it.
#[derive(Clone)]
struct Starved {
    turned_away: u64,
    asked: Arc<AtomicU64>,
}

impl Peers for Starved {
    fn peer(&self, _: MemberId, _: &Member) -> Arc<dyn Peer> {
        Arc::new(self.clone())
    }
}

impl Peer for Starved {
    fn append(
        &self,
        request: AppendEntriesRequest<Types>,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<AppendEntriesResponse<Types>>> {
        Alone.append(request, limit)
    }

    fn vote(
        &self,
        request: VoteRequest<Types>,
        pre: bool,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<VoteResponse<Types>>> {
        Alone.vote(request, pre, limit)
    }

    fn snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotInFlight,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<SnapshotResponse<Types>>> {
        Alone.snapshot(vote, snapshot, limit)
    }

    fn transfer(
        &self,
        request: TransferLeaderRequest<Types>,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<TransferLeaderResponse<Types>>> {
        Alone.transfer(request, limit)
    }

    fn propose(&self, _: Command, _: Duration) -> BoxFuture<'_, io::Result<Led<Reply>>> {
        let leads = self.asked.fetch_add(1, Ordering::Relaxed) >= self.turned_away;
        let answer = Answer { succeeded: true, revision: Revision(4711), ops: Vec::new() };
        let led = if leads { Led::Done(Reply::Answer(answer)) } else { Led::Elsewhere };
        Box::pin(std::future::ready(Ok(led)))
    }

    fn read_index(&self, limit: Duration) -> BoxFuture<'_, io::Result<Led<u64>>> {
        Peer::<openraft::impls::TokioRuntime>::read_index(&Alone, limit)
    }
}

#[tokio::test]
async fn a_leader_that_turns_a_write_away_is_asked_again_though_nothing_changed() {
    let dir = TempDir::new().expect("because a temporary directory can be made");
    let asked = Arc::new(AtomicU64::new(0));
    let options = Options {
        files: Arc::new(Folder::create(dir.path()).expect("because a directory can be made")),
        id: 1,
        member: Member::default(),
        bootstrap: true,
        peers: Arc::new(Starved { turned_away: 3, asked: Arc::clone(&asked) }),
        speaks: ClusterLevel::FIRST,
    };
    let replica = Replica::open(options).await.expect("because the directory is ours");
    replica.raft().add_learner(2, Member::default(), false).await.expect("because it is alone");
    // The other leads from now on, as far as this member hears.
    replica.raft().runtime_config().elect(false);
    let heard = AppendEntriesRequest {
        vote: Vote::new_committed(1000, 2),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    replica.raft().append_entries(heard).await.expect("because the term is newer");
    let then = vec![Op::Put("/a/x".into(), "1".into())];
    let answered = replica.txn(Txn { then, ..Txn::default() }).await;
    assert_eq!(answered.map(|answer| answer.revision), Ok(Revision(4711)));
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    replica.close().await.expect("because the disk works");
}
