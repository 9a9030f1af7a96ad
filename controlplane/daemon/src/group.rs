//! The store's members as the disruption gate sees them, and the hand-over of the lead before a machine goes.

use controlplane_controllers::{StoreGroup, Voter, Voters};
use controlplane_members::Departures;
use controlplane_replica::{Change, MemberId, Members, Replica};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// This process's member, and who is to leave.
pub(crate) struct Group {
    pub(crate) replica: Arc<Replica>,
    pub(crate) departures: Arc<Departures>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Group")
    }
}

impl StoreGroup for Group {
    fn voters(&self) -> Option<Voters> {
        let (own, members) = (*self.replica.raft().node_id(), self.replica.members());
        // Only a leader knows who answers.
        (self.replica.is_leader() && members.leader == Some(own)).then(|| voters(own, &members))
    }

    fn hand_over(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move {
            let (own, members) = (*self.replica.raft().node_id(), self.replica.members());
            let next = successor(own, &members).ok_or("no other member has everything")?;
            self.replica.change(Change::Lead(next)).await.map_err(|error| error.to_string())
        })
    }

    fn leaving(&self) -> watch::Receiver<Option<String>> {
        self.departures.wanted()
    }

    fn let_leave(&self, machine: &str) {
        self.departures.permit(machine);
    }
}

fn voters(own: MemberId, members: &Members) -> Voters {
    let of = |id: MemberId, machine: &str, votes: bool| {
        let answers = id == own || members.alive.contains(&id);
        (machine.to_owned(), Voter { votes, answers })
    };
    let learners = members.learners.iter().map(|(id, member)| of(*id, &member.machine, false));
    let all: BTreeMap<String, Voter> =
        learners.chain(members.voters.iter().map(|(id, member)| of(*id, &member.machine, true))).collect();
    let leader = members.leader.and_then(|id| members.voters.get(&id)).map(|member| member.machine.clone());
    Voters { members: all, changing: members.changing, leader }
}

/// Who leads next: of those that answer, the one that lacks least.
fn successor(own: MemberId, members: &Members) -> Option<MemberId> {
    let others = members.voters.keys().filter(|id| **id != own && members.alive.contains(id));
    others.max_by_key(|id| members.matched.get(id)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane_replica::Member;
    use std::collections::BTreeSet;

    fn members(alive: &[MemberId]) -> Members {
        let member = |id: MemberId| (id, Member { machine: format!("cp{id}"), address: String::new() });
        Members {
            voters: [1, 2, 3].map(member).into(),
            learners: [member(4)].into(),
            leader: Some(1),
            matched: [(2, 7), (3, 9)].into(),
            alive: alive.iter().copied().collect::<BTreeSet<_>>(),
            ..Members::default()
        }
    }

    #[test]
    fn the_leader_counts_itself_among_those_that_answer_and_learners_do_not_vote() {
        let found = voters(1, &members(&[3, 4]));
        let of = |name: &str| found.members.get(name).copied();
        assert_eq!(of("cp1"), Some(Voter { votes: true, answers: true }));
        assert_eq!(of("cp2"), Some(Voter { votes: true, answers: false }));
        assert_eq!(of("cp4"), Some(Voter { votes: false, answers: true }));
        assert_eq!(found.leader.as_deref(), Some("cp1"));
    }

    #[test]
    fn the_lead_goes_to_a_member_that_answers_and_lacks_least() {
        assert_eq!(successor(1, &members(&[2, 3])), Some(3));
        assert_eq!(successor(1, &members(&[2])), Some(2));
        assert_eq!(successor(1, &members(&[])), None);
    }
}
