//! Who is in the group, how far each has come, and single changes of it. Deciding which is `controlplane/members`' part.

use crate::replica::{ELECTION_MAX_MS, Replica};
use crate::types::{Member, MemberId, Types};
use controlplane_store::StoreError;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::InstantOf;
use openraft::{AsyncRuntime, ChangeMembers, Instant, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The group as one member knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that decide.
    pub voters: BTreeMap<MemberId, Member>,
    /// Those that get the log and do not decide.
    pub learners: BTreeMap<MemberId, Member>,
    /// Whether a change is under way; another has to wait.
    pub changing: bool,
    /// Who leads, if that is known.
    pub leader: Option<MemberId>,
    /// The leader's term.
    pub term: u64,
    /// Index of the newest entry in this member's log.
    pub last: u64,
    /// Index of the newest entry that this member has applied.
    pub applied: u64,
    /// On the leader: how far each other member's log is known to be the same.
    pub matched: BTreeMap<MemberId, u64>,
    /// On the leader: other members that answered it within the time of an election.
    pub alive: BTreeSet<MemberId>,
}

/// One change of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new member gets the log.
    Add(MemberId, Member),
    /// A member that has the log decides from now on.
    Promote(MemberId),
    /// A member is elsewhere now.
    Move(MemberId, Member),
    /// A member is out, for good: its number is never used again.
    Remove(MemberId),
    /// Another member is to lead.
    Lead(MemberId),
}

impl<R: AsyncRuntime> Replica<R> {
    /// The group, now.
    #[must_use]
    pub fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let nodes = membership.nodes().map(|(id, member)| (*id, member.clone()));
        let (voters, learners) = nodes.partition(|(id, _)| voters.contains(id));
        let replication = metrics.replication.iter().flatten();
        let heard = |at: InstantOf<Types<R>>| R::Instant::now() <= at + Duration::from_millis(ELECTION_MAX_MS);
        let heartbeat = metrics.heartbeat.iter().flatten();
        Members {
            voters,
            learners,
            changing: membership.get_joint_config().len() > 1
                || metrics.membership_config != metrics.committed_membership_config,
            leader: metrics.current_leader,
            term: metrics.current_term,
            last: metrics.last_log_index.unwrap_or_default(),
            applied: metrics.last_applied.map_or(0, |id| id.index),
            matched: replication.filter_map(|(id, matched)| Some((*id, (*matched)?.index))).collect(),
            alive: heartbeat.filter(|(_, at)| at.as_ref().is_some_and(|at| heard(**at))).map(|(id, _)| *id).collect(),
        }
    }

    /// Waits until this member leads, or until it does not. Cancel-safe; never ends on a member that has stopped and so never will.
    pub async fn leading(&self, leads: bool) {
        let mut changes = self.raft.server_metrics();
        while (changes.borrow_watched().state == ServerState::Leader) != leads {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until a leader is known: for a new member, until somebody took it in. Cancel-safe.
    pub async fn led(&self) {
        let mut changes = self.raft.server_metrics();
        while changes.borrow_watched().current_leader.is_none() {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Makes one change of the group, on the leader; returns when the log has it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when this member does not lead, another change is under way, or no majority took it in.
    pub async fn change(&self, change: Change) -> Result<(), StoreError> {
        let failed = |error: &dyn std::fmt::Display| StoreError::Unavailable { reason: error.to_string(), sent: true };
        let change = match change {
            Change::Add(id, member) => ChangeMembers::AddNodes(BTreeMap::from([(id, member)])),
            Change::Promote(id) => ChangeMembers::AddVoterIds(BTreeSet::from([id])),
            Change::Move(id, member) => ChangeMembers::SetNodes(BTreeMap::from([(id, member)])),
            Change::Remove(id) if self.members().voters.contains_key(&id) => {
                ChangeMembers::RemoveVoters(BTreeSet::from([id]))
            }
            Change::Remove(id) => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
            Change::Lead(id) => {
                return self.raft.trigger().transfer_leader(id).await.map_err(|error| failed(&error));
            }
        };
        self.raft.change_membership(change, false).await.map(drop).map_err(|error| failed(&error))
    }
}
