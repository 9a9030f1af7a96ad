//! Keeps the group as the repository wants it: on the leader, one change at a time, each only when the one before is done.
//!
//! ```text
//! who is a member + who is on record + who may be + who is how far -> plan -> Replica::change
//! ```
//!
//! A member that answers is taken out only in its turn, which the disruption gate gives ([`Departures`]).

use crate::departures::Departures;
use crate::level;
use crate::records::{self, Birth, Record};
use crate::{Roster, Trust};
use controlplane_replica::{Change, Member, MemberId, Members, Replica};
use controlplane_store::StoreError;
use machined_reconcile::Stop;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How often the leader looks. A new member waits no longer than this for its first entry.
const PERIOD: Duration = Duration::from_secs(1);

/// Log entries that a learner may lack when it becomes a voter: what it gets in the time of a heartbeat or two.
const LAG_MAX: u64 = 256;

/// Runs until the process stops; does something only while this member leads.
///
/// # Errors
/// None; what fails is tried again.
pub async fn run(
    replica: Arc<Replica>,
    trust: Arc<dyn Trust>,
    departures: Arc<Departures>,
    mut stop: Stop,
) -> Result<(), Infallible> {
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = stop.requested() => return Ok(()),
        }
        if !replica.is_leader() {
            departures.none();
            continue;
        }
        if let Err(error) = look(&replica, &*trust, &departures).await {
            tracing::warn!(%error, "the store's members stay as they are for now");
        }
    }
}

async fn look(replica: &Replica, trust: &dyn Trust, departures: &Departures) -> Result<(), StoreError> {
    let records = records::all(replica).await?;
    let (members, roster) = (replica.members(), trust.roster());
    let step = plan(*replica.raft().node_id(), &members, &records, &roster);
    match leaver(&step, &members) {
        Some(machine) if !departures.ask(machine) => return Ok(()),
        Some(_permitted) => {}
        None => departures.none(),
    }
    match step {
        Step::Nothing => level::look(replica, trust, &members, &records).await,
        Step::Change(change) => {
            tracing::info!(?change, "changing the store's members");
            replica.change(change).await
        }
        Step::Forget(birth) => records::forget(replica, birth).await,
    }
}

/// The machine of a member that answers and is about to be taken out. One that does not answer is missing already: taking it out
/// costs nobody anything, and must not wait for a turn.
fn leaver<'a>(step: &Step, members: &'a Members) -> Option<&'a str> {
    match step {
        Step::Change(Change::Remove(id)) if members.alive.contains(id) => {
            members.voters.get(id).map(|member| member.machine.as_str())
        }
        Step::Change(_) | Step::Nothing | Step::Forget(_) => None,
    }
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Nothing,
    Change(Change),
    /// A birth that is neither a member nor may become one.
    Forget(Birth),
}

/// The next step of the leader `own`.
fn plan(own: MemberId, members: &Members, records: &[(Birth, Record)], roster: &Roster) -> Step {
    if members.changing || members.leader != Some(own) {
        return Step::Nothing;
    }
    let known: BTreeMap<MemberId, &Record> = records.iter().map(|(_, record)| (record.id, record)).collect();
    let wanted = |record: &Record| stands(record, roster) && newest(record, &known);
    let all: BTreeMap<MemberId, &Member> =
        members.voters.iter().chain(&members.learners).map(|(id, one)| (*id, one)).collect();
    // Out first: a machine that lost its data counts among those that do not answer until it is.
    let gone = all.keys().copied().find(|id| known.get(id).is_some_and(|record| !wanted(record)));
    if let Some(id) = gone {
        return leave(id, own, members);
    }
    let moved = all.iter().find_map(|(id, member)| {
        let record = known.get(id)?;
        let member = Member { address: record.address.clone(), ..(*member).clone() };
        (record.address != all[id].address).then_some((*id, member))
    });
    if let Some((id, member)) = moved {
        return Step::Change(Change::Move(id, member));
    }
    let close = |id: &MemberId| members.matched.get(id).is_some_and(|matched| matched + LAG_MAX >= members.last);
    if let Some(id) = members.learners.keys().find(|id| close(id)) {
        return Step::Change(Change::Promote(*id));
    }
    // One at a time: a second learner waits until the first decides.
    if members.learners.is_empty()
        && let Some(record) = known.values().find(|record| !all.contains_key(&record.id) && wanted(record))
    {
        let member = Member { machine: record.machine.to_string(), address: record.address.clone() };
        return Step::Change(Change::Add(record.id, member));
    }
    let left = records.iter().find(|(_, record)| !all.contains_key(&record.id) && !wanted(record));
    left.map_or(Step::Nothing, |(birth, _)| Step::Forget(*birth))
}

/// Whether the roster has the machine, or is older than the one that had it.
fn stands(record: &Record, roster: &Roster) -> bool {
    roster.machines.contains_key(&record.machine) || roster.seq < record.seq
}

/// Whether no later birth is of the same machine: a machine has one data directory.
fn newest(record: &Record, known: &BTreeMap<MemberId, &Record>) -> bool {
    !known.values().any(|other| other.machine == record.machine && other.id > record.id)
}

/// Takes a member out, unless those that are left could not decide anything; whoever leads has another lead first.
fn leave(id: MemberId, own: MemberId, members: &Members) -> Step {
    let left = || members.voters.keys().filter(|other| **other != id);
    let answering = left().filter(|other| **other == own || members.alive.contains(other)).count();
    if members.voters.contains_key(&id) && answering * 2 <= left().count() {
        return Step::Nothing;
    }
    if id != own {
        return Step::Change(Change::Remove(id));
    }
    let next = left().filter(|other| members.alive.contains(other)).max_by_key(|other| members.matched.get(other));
    // The last member holds everything: it stays until another is there.
    next.map_or(Step::Nothing, |other| Step::Change(Change::Lead(*other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_ids::{Fingerprint, MachineName, Seq};

    fn name(text: &str) -> MachineName {
        MachineName::parse(text).expect("because it is a label")
    }

    fn roster(seq: u64, machines: &[&str]) -> Roster {
        let machines = machines.iter().map(|text| (name(text), Fingerprint::from_sha256(&[1; 32])));
        Roster { seq: Seq(seq), machines: machines.collect() }
    }

    fn record(id: MemberId, machine: &str, seq: u64) -> (Birth, Record) {
        let birth = Birth([u8::try_from(id).expect("because the tests have few members"); 16]);
        (birth, Record { id, machine: name(machine), address: format!("10.0.0.{id}:2380"), seq: Seq(seq) })
    }

    fn member(id: MemberId, machine: &str) -> (MemberId, Member) {
        (id, Member { machine: machine.to_owned(), address: format!("10.0.0.{id}:2380") })
    }

    /// Member 1 leads; everybody has everything.
    fn members(voters: &[(MemberId, &str)], learners: &[(MemberId, &str)]) -> Members {
        let of = |list: &[(MemberId, &str)]| list.iter().map(|(id, machine)| member(*id, machine)).collect();
        Members {
            voters: of(voters),
            learners: of(learners),
            leader: Some(1),
            last: 1000,
            matched: voters.iter().chain(learners).map(|(id, _)| (*id, 1000)).collect(),
            alive: voters.iter().chain(learners).map(|(id, _)| *id).collect(),
            ..Members::default()
        }
    }

    #[test]
    fn a_machine_on_record_becomes_a_learner_and_then_a_voter() {
        let records = [record(1, "cp1", 1), record(2, "cp2", 2)];
        let roster = roster(2, &["cp1", "cp2"]);
        let (id, second) = member(2, "cp2");
        let alone = members(&[(1, "cp1")], &[]);
        assert_eq!(plan(1, &alone, &records, &roster), Step::Change(Change::Add(id, second)));
        let learning = members(&[(1, "cp1")], &[(2, "cp2")]);
        assert_eq!(plan(1, &learning, &records, &roster), Step::Change(Change::Promote(2)));
        let behind = Members { matched: BTreeMap::from([(2, 1000 - LAG_MAX - 1)]), ..learning };
        assert_eq!(plan(1, &behind, &records, &roster), Step::Nothing);
        let both = members(&[(1, "cp1"), (2, "cp2")], &[]);
        assert_eq!(plan(1, &both, &records, &roster), Step::Nothing);
    }

    #[test]
    fn changes_come_one_at_a_time_and_from_the_leader() {
        let records = [record(1, "cp1", 1), record(2, "cp2", 2), record(3, "cp3", 2)];
        let roster = roster(2, &["cp1", "cp2", "cp3"]);
        let behind = Members { matched: BTreeMap::new(), ..members(&[(1, "cp1")], &[(2, "cp2")]) };
        assert_eq!(plan(1, &behind, &records, &roster), Step::Nothing, "a second learner waits");
        let changing = Members { changing: true, ..members(&[(1, "cp1")], &[]) };
        assert_eq!(plan(1, &changing, &records, &roster), Step::Nothing);
        assert_eq!(plan(2, &members(&[(1, "cp1")], &[]), &records, &roster), Step::Nothing, "member 1 leads");
    }

    #[test]
    fn a_machine_that_left_the_repository_is_taken_out_but_not_by_an_older_step() {
        let records = [record(1, "cp1", 1), record(2, "cp2", 5)];
        let both = members(&[(1, "cp1"), (2, "cp2")], &[]);
        assert_eq!(plan(1, &both, &records, &roster(6, &["cp1"])), Step::Change(Change::Remove(2)));
        assert_eq!(plan(1, &both, &records, &roster(4, &["cp1"])), Step::Nothing);
        let alone = members(&[(1, "cp1")], &[]);
        assert_eq!(plan(1, &alone, &records, &roster(6, &["cp1"])), Step::Forget(Birth([2; 16])));
    }

    #[test]
    fn only_a_voter_that_answers_waits_for_its_turn() {
        let all = members(&[(1, "cp1"), (2, "cp2")], &[(3, "cp3")]);
        let out = |id| Step::Change(Change::Remove(id));
        assert_eq!(leaver(&out(2), &all), Some("cp2"));
        assert_eq!(leaver(&out(3), &all), None, "a learner decides nothing");
        assert_eq!(leaver(&Step::Change(Change::Promote(3)), &all), None);
        let silent = Members { alive: [1].into(), ..all };
        assert_eq!(leaver(&out(2), &silent), None, "it is missing already");
    }

    #[test]
    fn a_leader_that_has_to_go_has_another_lead_and_the_last_member_stays() {
        let records = [record(1, "cp1", 1), record(2, "cp2", 1)];
        let both = members(&[(1, "cp1"), (2, "cp2")], &[]);
        assert_eq!(plan(1, &both, &records, &roster(6, &["cp2"])), Step::Change(Change::Lead(2)));
        let alone = members(&[(1, "cp1")], &[]);
        assert_eq!(plan(1, &alone, &records[..1], &roster(6, &["cp2"])), Step::Nothing);
    }

    #[test]
    fn nobody_is_taken_out_when_the_others_could_not_decide_without() {
        let records = [record(1, "cp1", 1), record(2, "cp2", 1), record(3, "cp3", 1)];
        let all = members(&[(1, "cp1"), (2, "cp2"), (3, "cp3")], &[]);
        let third_is_away = Members { alive: [1, 2].into(), ..all };
        let without_the_second = roster(6, &["cp1", "cp3"]);
        assert_eq!(plan(1, &third_is_away, &records, &without_the_second), Step::Nothing);
        let without_the_third = roster(6, &["cp1", "cp2"]);
        assert_eq!(plan(1, &third_is_away, &records, &without_the_third), Step::Change(Change::Remove(3)));
    }

    #[test]
    fn a_machine_that_lost_its_data_is_out_before_it_is_in_again() {
        let records = [record(1, "cp1", 1), record(2, "cp2", 1), record(3, "cp3", 1), record(4, "cp2", 1)];
        let roster = roster(1, &["cp1", "cp2", "cp3"]);
        let three = members(&[(1, "cp1"), (2, "cp2"), (3, "cp3")], &[]);
        assert_eq!(plan(1, &three, &records, &roster), Step::Change(Change::Remove(2)));
        let two = members(&[(1, "cp1"), (3, "cp3")], &[]);
        let (id, again) = member(4, "cp2");
        assert_eq!(plan(1, &two, &records, &roster), Step::Change(Change::Add(id, again)));
        let back = members(&[(1, "cp1"), (3, "cp3"), (4, "cp2")], &[]);
        assert_eq!(plan(1, &back, &records, &roster), Step::Forget(Birth([2; 16])));
    }

    #[test]
    fn a_member_that_has_another_address_is_reached_there() {
        let records = [record(1, "cp1", 1), record(2, "cp2", 1)];
        let mut both = members(&[(1, "cp1"), (2, "cp2")], &[]);
        both.voters.get_mut(&2).expect("because it is a voter").address = "10.0.0.9:2380".to_owned();
        let (id, there) = member(2, "cp2");
        assert_eq!(plan(1, &both, &records, &roster(1, &["cp1", "cp2"])), Step::Change(Change::Move(id, there)));
    }
}
