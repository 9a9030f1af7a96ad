//! How a member talks to the others: traits that `controlplane/members` implements with gRPC and the simulator with a function call.

use crate::image::Image;
use crate::types::{Command, Member, MemberId, Reply, Types, Vote};
use controlplane_store::BoxFuture;
use openraft::async_runtime::Select2;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::TokioRuntime;
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{AsyncRuntime, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot on its way: what it is of, and its content.
pub type SnapshotInFlight = Snapshot<openraft::type_config::alias::CommittedLeaderIdOf<Types>, MemberId, Member, Image>;

/// Reaches members.
pub trait Peers<R: AsyncRuntime = TokioRuntime>: Send + Sync + 'static {
    /// A connection to a member; it may be made when it is first used, and again after it broke.
    fn peer(&self, id: MemberId, member: &Member) -> Arc<dyn Peer<R>>;
}

/// One other member. Every call fails after `limit`; it is then unknown whether the member got it.
pub trait Peer<R: AsyncRuntime = TokioRuntime>: Send + Sync + 'static {
    /// Sends log entries, or a heartbeat.
    fn append(
        &self,
        request: AppendEntriesRequest<Types<R>>,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<AppendEntriesResponse<Types<R>>>>;

    /// Asks for a vote; `pre` asks only whether it would be given.
    fn vote(
        &self,
        request: VoteRequest<Types<R>>,
        pre: bool,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<VoteResponse<Types<R>>>>;

    /// Sends a whole snapshot.
    fn snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotInFlight,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<SnapshotResponse<Types<R>>>>;

    /// Tells that the leader steps back for a member.
    fn transfer(
        &self,
        request: TransferLeaderRequest<Types<R>>,
        limit: Duration,
    ) -> BoxFuture<'_, io::Result<TransferLeaderResponse<Types<R>>>>;

    /// Has the leader order a command, as [`Replica::lead`](crate::Replica::lead) answers. An error of the kind
    /// [`NotConnected`](io::ErrorKind::NotConnected) says that it was never sent.
    fn propose(&self, command: Command, limit: Duration) -> BoxFuture<'_, io::Result<Led<Reply>>>;

    /// Asks the leader how far a read has to wait, as [`Replica::read_index`](crate::Replica::read_index) answers.
    fn read_index(&self, limit: Duration) -> BoxFuture<'_, io::Result<Led<u64>>>;
}

/// What a member that is taken for the leader says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Led<T> {
    /// It led, and this is the answer.
    Done(T),
    /// It does not lead. Nothing happened.
    Elsewhere,
}

/// The peers of a group of one: there are none, so nobody is reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl<R: AsyncRuntime> Peers<R> for Alone {
    fn peer(&self, _: MemberId, _: &Member) -> Arc<dyn Peer<R>> {
        Arc::new(Alone)
    }
}

fn alone<T>() -> BoxFuture<'static, io::Result<T>>
where
    T: Send + 'static,
{
    let error = io::Error::new(io::ErrorKind::NotConnected, "this member knows no way to others");
    Box::pin(std::future::ready(Err(error)))
}

impl<R: AsyncRuntime> Peer<R> for Alone {
    fn append(
        &self,
        _: AppendEntriesRequest<Types<R>>,
        _: Duration,
    ) -> BoxFuture<'_, io::Result<AppendEntriesResponse<Types<R>>>> {
        alone()
    }

    fn vote(
        &self,
        _: VoteRequest<Types<R>>,
        _: bool,
        _: Duration,
    ) -> BoxFuture<'_, io::Result<VoteResponse<Types<R>>>> {
        alone()
    }

    fn snapshot(
        &self,
        _: Vote,
        _: SnapshotInFlight,
        _: Duration,
    ) -> BoxFuture<'_, io::Result<SnapshotResponse<Types<R>>>> {
        alone()
    }

    fn transfer(
        &self,
        _: TransferLeaderRequest<Types<R>>,
        _: Duration,
    ) -> BoxFuture<'_, io::Result<TransferLeaderResponse<Types<R>>>> {
        alone()
    }

    fn propose(&self, _: Command, _: Duration) -> BoxFuture<'_, io::Result<Led<Reply>>> {
        alone()
    }

    fn read_index(&self, _: Duration) -> BoxFuture<'_, io::Result<Led<u64>>> {
        alone()
    }
}

/// [`Peers`] as openraft wants them.
pub(crate) struct Network<R: AsyncRuntime>(pub(crate) Arc<dyn Peers<R>>);

impl<R: AsyncRuntime> RaftNetworkFactory<Types<R>> for Network<R> {
    type Network = Connection<R>;

    async fn new_client(&mut self, target: MemberId, node: &Member) -> Connection<R> {
        Connection(self.0.peer(target, node))
    }
}

/// A [`Peer`] as openraft wants it.
pub(crate) struct Connection<R: AsyncRuntime>(Arc<dyn Peer<R>>);

fn unreachable<R: AsyncRuntime>(error: &io::Error) -> RPCError<Types<R>> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl<R: AsyncRuntime> RaftNetworkV2<Types<R>> for Connection<R> {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        self.0.append(rpc, option.hard_ttl()).await.map_err(|error| unreachable(&error))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        self.0.vote(rpc, false, option.hard_ttl()).await.map_err(|error| unreachable(&error))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        self.0.vote(rpc, true, option.hard_ttl()).await.map_err(|error| unreachable(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotInFlight,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        match R::select2(cancel, self.0.snapshot(vote, snapshot, option.hard_ttl())).await {
            Select2::First(closed) => Err(StreamingError::Closed(closed)),
            Select2::Second(sent) => sent.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error))),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        self.0.transfer(rpc, option.hard_ttl()).await.map_err(|error| unreachable(&error))
    }
}
