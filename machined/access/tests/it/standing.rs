//! How long somebody who was let in may stay.

use crate::login::{connection, good_login, machine_identity, name, now, table, token};
use jiff::{SignedDuration, Timestamp};
use machined_access::{
    Access, AccessTable, Denied, LeafKey, Lost, MachineRole, Peer, Proven, RoleEntry, Standing, Watched,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What a step makes of the table.
type Change = fn(&mut AccessTable);

/// Tables and times to come, one for each wait; the longest waits that were asked for.
struct Script<'a> {
    now: (Option<Arc<AccessTable>>, Timestamp),
    next: VecDeque<(Option<Arc<AccessTable>>, Timestamp)>,
    waits: &'a mut Vec<Duration>,
}

impl Watched for Script<'_> {
    fn table(&self) -> Option<Arc<AccessTable>> {
        self.now.0.clone()
    }
    fn now(&self) -> Timestamp {
        self.now.1
    }
    async fn changed(&mut self, longest: Duration) {
        self.waits.push(longest);
        self.now = self.next.pop_front().expect("because the standing is lost by then");
    }
}

async fn lost(
    standing: &Standing,
    script: impl IntoIterator<Item = (Option<AccessTable>, Timestamp)>,
) -> (Lost, Vec<Duration>) {
    let mut waits = Vec::new();
    let next = script.into_iter().map(|(table, at)| (table.map(Arc::new), at)).collect();
    let lost = standing.lost(Script { now: (Some(Arc::new(table())), now()), next, waits: &mut waits }).await;
    (lost, waits)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the script waits for nothing"),
    }
}

fn alice() -> Standing {
    let client = LeafKey::generate().expect("because there is randomness");
    let proven = connection(&client);
    proven.standing(&table(), Some(&token(good_login(&client))), now()).expect("because the login is good")
}

#[test]
fn t71_who_is_removed_loses_a_key_or_a_role_may_not_stay() {
    let without = |change: Change| {
        let mut table = table();
        change(&mut table);
        Some(table)
    };
    let cases: [(Change, &str); 4] = [
        (|table| drop(table.people.remove(&name("alice"))), "may not log in"),
        (|table| table.people.get_mut(&name("alice")).expect("because she is there").keys.clear(), "may not log in"),
        (
            |table| table.roles.values_mut().for_each(|role| *role = RoleEntry { access: Access::Reader }),
            "leaves alice less",
        ),
        (|table| table.roles.clear(), "no role with access"),
    ];
    for (change, reason) in cases {
        let (lost, waits) = run(lost(&alice(), [(without(change), now())]));
        assert!(lost.to_string().contains(reason), "{lost}");
        assert_eq!(waits.len(), 1, "it is noticed with the first change");
    }
    assert!(matches!(run(lost(&alice(), [(None, now())])).0, Lost::NoTable));
}

#[test]
fn more_rights_and_other_people_end_nothing_until_the_login_does() {
    let mut more = table();
    more.people.remove(&name("bob"));
    more.people.get_mut(&name("alice")).expect("because she is there").roles.insert(name("approvers"));
    let end = now() + SignedDuration::from_hours(8);
    let late = end - SignedDuration::from_secs(3);
    let script = [(Some(more.clone()), now()), (Some(more.clone()), late), (Some(more), end)];
    let (lost, waits) = run(lost(&alice(), script));
    assert!(matches!(lost, Lost::Denied(Denied::Expired)), "{lost}");
    assert_eq!(waits[2], Duration::from_secs(3), "the last wait ends with the login");
}

#[test]
fn t81_a_clock_that_jumps_forward_ends_a_stream_and_one_that_jumps_back_brings_none_back() {
    let jumped = now() + SignedDuration::from_hours(24);
    let (lost, waits) = run(lost(&alice(), [(Some(table()), jumped), (Some(table()), now())]));
    assert!(matches!(lost, Lost::Denied(Denied::Expired)), "{lost}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(30)), "{waits:?}");
}

#[test]
fn a_machine_stays_while_its_identity_and_its_part_stand() {
    let peer = Peer::Machine { identity: machine_identity(), service: "controlplane".to_owned() };
    let standing = Proven::new(peer).standing(&table(), None, now()).expect("because cp1 is known");
    let mut other = table();
    other.machines.values_mut().for_each(|machine| machine.role = MachineRole::Worker);
    let (lost, _) = run(lost(&standing, [(Some(table()), now()), (Some(other), now())]));
    assert!(matches!(lost, Lost::Less { .. }), "{lost}");
}
