//! Every member takes writes and fresh reads: one that does not lead passes them to the one that does.
//!
//! ```text
//! txn on a follower -> peer.propose -> the leader's log -> reply
//! read on a follower -> peer.read_index -> wait until that much is applied here -> this member's own state
//! ```
//! What was certainly not sent is tried again while a leader is looked for; what may have been sent never is. A leader whose lease
//! ran out (just elected, or starved for a second) turns requests away like one that does not lead.

use crate::peers::{Led, Peer};
use crate::replica::{HEARTBEAT_MS, Replica};
use crate::types::{Command, Reply, Types};
use controlplane_store::StoreError;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::{InstantOf, WatchReceiverOf};
use openraft::{AsyncRuntime, Instant, ReadPolicy};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a leader is looked for: two lost elections. Clients of Kubernetes wait longer.
const LEADER_LIMIT: Duration = Duration::from_secs(5);

/// How long the leader may take to order a command or to answer for a read, as in etcd; it needs a majority's disks.
const ANSWER_LIMIT: Duration = Duration::from_secs(7);

/// How long nothing has to change before a member that turned a request away is asked again: a heartbeat's answers give a leader
/// its lease back, and no metric shows that.
const ASK_AGAIN: Duration = Duration::from_millis(HEARTBEAT_MS);

impl<R: AsyncRuntime> Replica<R> {
    /// Orders a command if this member leads: what a peer asks of the leader.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it is not known whether the command takes effect.
    pub async fn lead(&self, command: Command) -> Result<Led<Reply>, StoreError> {
        self.covers(&command)?;
        let ordered = R::timeout(ANSWER_LIMIT, self.raft.client_write(command)).await;
        match ordered.map_err(|_| unavailable("no majority of the members answers".to_owned(), true))? {
            Ok(response) => Ok(Led::Done(response.data)),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader { .. }))) => Ok(Led::Elsewhere),
            Err(error) => Err(unavailable(error.to_string(), true)),
        }
    }

    /// Says, if this member leads, which log entry has to be applied where a read is to see everything acknowledged before now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no majority confirms that it leads.
    pub async fn read_index(&self) -> Result<Led<u64>, StoreError> {
        let asked = R::timeout(ANSWER_LIMIT, self.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await;
        match asked.map_err(|_| unavailable("no majority of the members answers".to_owned(), false))? {
            Ok(linearizer) => Ok(Led::Done(linearizer.read_log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(ForwardToLeader { .. }))) => {
                Ok(Led::Elsewhere)
            }
            Err(error) => Err(unavailable(error.to_string(), false)),
        }
    }

    /// Has the leader order a command, wherever it is.
    pub(crate) async fn propose(&self, command: Command) -> Result<Reply, StoreError> {
        self.covers(&command)?;
        let mut search = Search::new(self);
        loop {
            let led = match search.leader() {
                None => Led::Elsewhere,
                Some(Leader::Here) => self.lead(command.clone()).await?,
                Some(Leader::There(peer)) => match peer.propose(command.clone(), ANSWER_LIMIT).await {
                    Ok(led) => led,
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => Led::Elsewhere,
                    Err(error) => return Err(unavailable(format!("the leader gave no answer: {error}"), true)),
                },
            };
            match led {
                Led::Done(reply) => return Ok(reply),
                Led::Elsewhere => search.next().await?,
            }
        }
    }

    /// Waits until this member's state has everything that was acknowledged anywhere before now.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let mut search = Search::new(self);
        let index = loop {
            let led = match search.leader() {
                None => Led::Elsewhere,
                Some(Leader::Here) => self.read_index().await?,
                // A read may be asked for twice.
                Some(Leader::There(peer)) => peer.read_index(ANSWER_LIMIT).await.unwrap_or(Led::Elsewhere),
            };
            match led {
                Led::Done(index) => break index,
                Led::Elsewhere => search.next().await?,
            }
        };
        let mut applied = self.raft.watch_apply_progress();
        let there = applied.wait_until(move |applied| applied.as_ref().is_some_and(|last| last.index() >= index));
        match R::timeout(ANSWER_LIMIT, there).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(unavailable("this member is too far behind the leader".to_owned(), false)),
        }
    }
}

fn unavailable(reason: String, sent: bool) -> StoreError {
    StoreError::Unavailable { reason, sent }
}

fn stopped() -> StoreError {
    unavailable("the member has stopped".to_owned(), false)
}

enum Leader<R: AsyncRuntime> {
    Here,
    There(Arc<dyn Peer<R>>),
}

/// Looks for the leader, for a limited time.
struct Search<'a, R: AsyncRuntime> {
    replica: &'a Replica<R>,
    changes: WatchReceiverOf<Types<R>, RaftServerMetrics<Types<R>>>,
    until: InstantOf<Types<R>>,
}

impl<'a, R: AsyncRuntime> Search<'a, R> {
    fn new(replica: &'a Replica<R>) -> Self {
        let changes = replica.raft.server_metrics();
        Search { replica, changes, until: R::Instant::now() + LEADER_LIMIT }
    }

    /// Who leads, as far as this member knows now.
    fn leader(&self) -> Option<Leader<R>> {
        let (id, member) = {
            let metrics = self.changes.borrow_watched();
            let id = metrics.current_leader?;
            (id, metrics.membership_config.membership().get_node(&id).cloned())
        };
        if id == *self.replica.raft.node_id() {
            return Some(Leader::Here);
        }
        member.map(|member| Leader::There(self.replica.peers.peer(id, &member)))
    }

    /// Waits until somebody else may lead, or the one that does may do so again.
    async fn next(&mut self) -> Result<(), StoreError> {
        if R::Instant::now() >= self.until {
            return Err(unavailable("no member leads".to_owned(), false));
        }
        match R::timeout(ASK_AGAIN, self.changes.changed()).await {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(_)) => Err(stopped()),
        }
    }
}
