//! The gate's decisions from values, and thousands of small worlds in which machines wish, go, fail and come back as they please.

use super::dice::Dice;
use super::plan::{
    DRAIN_PATIENCE, GRANT_LIFETIME, Held, Machine, Slot, Step, View, WISH_LIFETIME, keeps_quorum, plan, queued,
};
use super::record::{Answer, Phase, RESET, Wish, held as read, lease};
use super::{Voter, Voters};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("because the time is in range")
}

fn wish(boot: &str) -> Wish {
    Wish { boot: boot.to_owned(), reason: "reboot".to_owned(), asked: at(0), image: None }
}

fn machine(name: &str, wishes: bool) -> Machine {
    let boot = format!("{name}-1");
    let wish = wishes.then(|| wish(&boot));
    Machine { name: name.to_owned(), boot, ready: true, unschedulable: false, wish, answer: None }
}

/// Members by name; a `!` before it: it does not answer.
fn voters(names: &[&str]) -> Voters {
    let of = |name: &&str| {
        let answers = !name.starts_with('!');
        (name.trim_start_matches('!').to_owned(), Voter { votes: true, answers })
    };
    Voters { members: names.iter().map(of).collect(), changing: false, leader: Some("cp1".to_owned()) }
}

fn holds(name: &str, cordoned: bool) -> Held {
    let (machine, boot) = (name.to_owned(), format!("{name}-1"));
    Held { machine, boot, reason: "reboot".to_owned(), since: at(0), cordoned, granted_until: None }
}

fn pod(name: &str, more: Value) -> Arc<Pod> {
    let mut object =
        json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "status": {"phase": "Running"}});
    for (key, value) in more.as_object().into_iter().flatten() {
        object["metadata"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(object).expect("because the test wrote a pod"))
}

fn decide(machines: &[Machine], held: Option<&Held>, voters: &Voters, pods: &[Arc<Pod>], now: i64) -> Step {
    plan(&View { machines, held, voters, leaving: None, pods }, at(now))
}

#[test]
fn those_that_are_left_must_be_a_majority_that_answers() {
    let cases = [
        (&["cp1"][..], "cp1", true),
        (&["cp1", "cp2"], "cp2", false),
        (&["cp1", "cp2", "cp3"], "cp1", true),
        (&["cp1", "cp2", "!cp3"], "cp1", false),
        (&["cp1", "cp2", "!cp3"], "cp3", true),
        (&["cp1", "cp2", "cp3", "!cp4", "cp5"], "cp1", true),
        (&["cp1", "cp2", "!cp3", "!cp4", "cp5"], "cp1", false),
        (&["cp1", "cp2", "!cp3"], "w1", true),
    ];
    for (members, name, expected) in cases {
        assert_eq!(keeps_quorum(&voters(members), name).is_ok(), expected, "{name} of {members:?}");
    }
    let changing = Voters { changing: true, ..voters(&["cp1", "cp2", "cp3"]) };
    assert!(keeps_quorum(&changing, "cp1").is_err(), "nobody knows who decides next");
    assert!(keeps_quorum(&changing, "w1").is_ok());
}

#[test]
fn a_machine_goes_through_one_slot() {
    let voters = voters(&["cp1", "cp2", "cp3"]);
    for (name, expected) in [("cp1", Slot::ControlPlane), ("w1", Slot::Workers(0))] {
        let through: Vec<Slot> = Slot::all().filter(|slot| slot.has(name, &voters) && slot.within(1)).collect();
        assert_eq!(through, [expected]);
    }
}

#[test]
fn a_free_slot_goes_to_one_and_the_others_hear_of_it() {
    let machines = [machine("cp3", true), machine("cp1", false), machine("cp2", true)];
    let voters = voters(&["cp1", "cp2", "cp3"]);
    let Step::Begin(held) = decide(&machines, None, &voters, &[], 1) else { panic!("one begins") };
    assert_eq!((held.machine.as_str(), held.granted_until), ("cp2", None));
    let view = View { machines: &machines, held: Some(&held), voters: &voters, leaving: None, pods: &[] };
    let others = queued(&view, at(1));
    assert_eq!(others.len(), 1);
    assert_eq!((others[0].0.as_str(), others[0].1.phase), ("cp3", Phase::Waiting));
    assert!(others[0].1.message.contains("cp2 goes first"), "{}", others[0].1.message);
}

#[test]
fn a_wish_of_another_boot_or_one_that_is_no_longer_asked_for_is_none() {
    let voters = voters(&["cp1", "cp2", "cp3"]);
    let mut one = machine("cp2", true);
    let late = WISH_LIFETIME.as_secs();
    assert_eq!(decide(std::slice::from_ref(&one), None, &voters, &[], late), Step::Wait(vec![]));
    one.boot = "cp2-2".to_owned();
    assert_eq!(decide(&[one], None, &voters, &[], 1), Step::Wait(vec![]));
}

#[test]
fn a_machine_without_which_nobody_could_decide_waits_and_is_told_why() {
    let voters = voters(&["cp1", "cp2", "!cp3"]);
    let Step::Wait(answers) = decide(&[machine("cp2", true)], None, &voters, &[], 1) else { panic!("it waits") };
    assert!(answers[0].1.message.contains("1 of 3 members"), "{}", answers[0].1.message);
    // The one that is down already costs nothing.
    assert!(matches!(decide(&[machine("cp3", true)], None, &voters, &[], 1), Step::Begin(_)));
}

#[test]
fn a_member_leaves_in_a_turn_of_its_own_and_nobody_goes_beside_it() {
    let three = voters(&["cp1", "cp2", "cp3"]);
    let machines = [machine("cp1", false), machine("cp2", true)];
    let decide = |held: Option<&Held>, voters: &Voters, leaving| {
        plan(&View { machines: &machines, held, voters, leaving, pods: &[] }, at(1))
    };
    let Step::Begin(held) = decide(None, &three, Some("cp3")) else { panic!("it goes before cp2") };
    assert_eq!((held.machine.as_str(), held.reason.as_str()), ("cp3", "removal"));
    assert_eq!(decide(Some(&held), &three, Some("cp3")), Step::LetLeave, "its machine may have no Node any more");
    let view = View { machines: &machines, held: Some(&held), voters: &three, leaving: Some("cp3"), pods: &[] };
    assert!(queued(&view, at(1))[0].1.message.contains("cp3 goes first (removal)"));
    for leaving in [None, Some("cp1")] {
        assert!(matches!(decide(Some(&held), &three, leaving), Step::End { uncordon: false, .. }), "{leaving:?}");
    }

    let away = Held { granted_until: Some(at(900)), ..holds("cp2", true) };
    assert_eq!(decide(Some(&away), &three, Some("cp3")), Step::Wait(vec![]), "cp2 is away: cp3 stays until it is back");
    let few = voters(&["cp1", "!cp2", "cp3"]);
    let Step::Begin(held) = decide(None, &few, Some("cp3")) else { panic!("cp2 is down, so its turn costs nothing") };
    assert_eq!(held.machine, "cp2", "without cp3 too, those that are left could not decide");
}

#[test]
fn granted_means_cordoned_and_drained() {
    let voters = voters(&["cp1", "cp2", "cp3"]);
    let mut machines = [machine("cp2", true)];
    assert_eq!(decide(&machines, Some(&holds("cp2", false)), &voters, &[], 1), Step::Cordon);
    assert_eq!(
        decide(&machines, Some(&holds("cp2", true)), &voters, &[], 1),
        Step::Cordon,
        "it was noted, and the write was cut off"
    );
    machines[0].unschedulable = true;
    let owned = |kind: &str| json!({"ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": "o", "uid": "o", "controller": true}]});
    let going = pod("going", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
    let pods = [
        pod("web", owned("ReplicaSet")),
        Arc::clone(&going),
        pod("log", owned("DaemonSet")),
        pod("static", owned("Node")),
        pod("mirror", json!({"annotations": {"kubernetes.io/config.mirror": "x"}})),
    ];
    let Step::Drain { evict, left } = decide(&machines, Some(&holds("cp2", true)), &voters, &pods, 1) else {
        panic!("it is drained")
    };
    assert_eq!(
        (evict, left),
        (vec![Arc::clone(&pods[0])], 2),
        "who is going already is waited for and not asked again"
    );
    let step = decide(&machines, Some(&holds("cp2", true)), &voters, &pods[2..], 1);
    let Step::Grant(held) = step else { panic!("nothing that must go is left: {step:?}") };
    assert_eq!(held.granted_until, Some(at(1) + GRANT_LIFETIME));
}

#[test]
fn the_leader_hands_over_before_it_goes_unless_it_is_alone() {
    let mut machines = [machine("cp1", true)];
    machines[0].unschedulable = true;
    let held = holds("cp1", true);
    assert_eq!(decide(&machines, Some(&held), &voters(&["cp1", "cp2", "cp3"]), &[], 1), Step::HandOver);
    assert!(matches!(decide(&machines, Some(&held), &voters(&["cp1"]), &[], 1), Step::Grant(_)));
}

#[test]
fn quorum_is_looked_at_again_when_the_machine_is_drained() {
    let mut machines = [machine("cp2", true)];
    machines[0].unschedulable = true;
    let step = decide(&machines, Some(&holds("cp2", true)), &voters(&["cp1", "cp2", "!cp3"]), &[], 60);
    assert!(matches!(step, Step::Wait(_)), "{step:?}");
}

#[test]
fn a_drain_that_a_budget_holds_up_expires_gives_the_machine_back_and_lets_others_go_first() {
    let voters = voters(&["cp1"]);
    let mut machines = [machine("w1", true), machine("w2", true)];
    machines[0].unschedulable = true;
    let late = DRAIN_PATIENCE.as_secs();
    for machine in &mut machines {
        machine.wish = Some(Wish { asked: at(late), ..wish(&machine.boot) });
    }
    let step = decide(&machines, Some(&holds("w1", true)), &voters, &[pod("web", json!({}))], late);
    let Step::End { uncordon: true, answer: Some(answer), .. } = step else { panic!("it expires: {step:?}") };
    assert_eq!(answer.phase, Phase::Expired);
    assert!(answer.message.contains("default/web"), "{}", answer.message);
    machines[0].answer = Some(answer);
    let Step::Begin(next) = decide(&machines, None, &voters, &[], late + 1) else { panic!("the next begins") };
    assert_eq!(next.machine, "w2");
}

#[test]
fn no_member_of_the_store_is_reset_while_there_are_others_and_a_permit_is_for_one_reason() {
    let resets = |name: &str| {
        let mut machine = machine(name, true);
        machine.wish.as_mut().expect("because it wishes").reason = RESET.to_owned();
        machine
    };
    let three = voters(&["cp1", "cp2", "cp3"]);
    let Step::Wait(answers) = decide(&[resets("cp2")], None, &three, &[], 1) else { panic!("it waits") };
    assert!(answers[0].1.message.contains("take machines/cp2.kdl out"), "{}", answers[0].1.message);
    assert!(matches!(decide(&[resets("cp1")], None, &voters(&["cp1"]), &[], 1), Step::Begin(_)), "the only one");
    assert!(matches!(decide(&[resets("w1")], None, &three, &[], 1), Step::Begin(_)), "a worker keeps no copy");
    // Drained and permitted for a restart, and then asked to forget.
    for granted_until in [None, Some(at(1800))] {
        let held = Held { granted_until, ..holds("cp2", true) };
        let step = decide(&[resets("cp2")], Some(&held), &three, &[], 1);
        assert!(matches!(step, Step::End { uncordon: true, answer: None, .. }), "{step:?}");
    }
}

#[test]
fn a_permit_ends_when_the_machine_is_back_and_ready_or_with_its_time() {
    let voters = voters(&["cp1"]);
    let held = Held { granted_until: Some(at(1800)), ..holds("w1", true) };
    let mut machines = [machine("w1", true)];
    assert_eq!(decide(&machines, Some(&held), &voters, &[], 10), Step::Wait(vec![]), "it has not gone yet");
    machines[0].ready = false;
    machines[0].boot = "w1-2".to_owned();
    assert_eq!(decide(&machines, Some(&held), &voters, &[], 60), Step::Wait(vec![]), "it is not ready yet");
    let step = decide(&machines, Some(&held), &voters, &[], 1800);
    let Step::End { uncordon: false, answer: Some(answer), .. } = step else { panic!("its time is over: {step:?}") };
    assert!(answer.cordoned && answer.phase == Phase::Expired, "{answer:?}");
    // Late, but it comes.
    machines[0].answer = Some(answer);
    machines[0].ready = true;
    assert_eq!(decide(&machines, None, &voters, &[], 4000), Step::Uncordon("w1".to_owned()));
    machines[0].answer = None;
    let step = decide(&machines, Some(&held), &voters, &[], 60);
    assert!(matches!(step, Step::End { uncordon: true, answer: None, .. }), "{step:?}");
}

#[test]
fn somebody_elses_cordon_stays() {
    let mut machines = [machine("w1", true)];
    machines[0].unschedulable = true;
    let Step::Grant(held) = decide(&machines, Some(&holds("w1", false)), &voters(&["cp1"]), &[], 1) else {
        panic!("it is drained")
    };
    machines[0].boot = "w1-2".to_owned();
    let step = decide(&machines, Some(&held), &voters(&["cp1"]), &[], 60);
    assert!(matches!(step, Step::End { uncordon: false, .. }), "{step:?}");
}

#[test]
fn a_slot_is_read_as_it_was_written_and_a_lease_of_somebody_else_is_nobodys() {
    let held = Held { granted_until: Some(at(5)), ..holds("cp2", true) };
    let mut written = lease(Slot::ControlPlane, None, Some(&held));
    assert_eq!(read(&written), Some(held));
    written.spec.as_mut().expect("because it has one").holder_identity = Some("cp3".to_owned());
    assert_eq!(read(&written), None);
    assert_eq!(read(&lease(Slot::ControlPlane, Some(&written), None)), None);
}

/// Control-plane machines that all want to go all the time.
struct World {
    machines: Vec<Machine>,
    /// Crashed, or on their way through a restart.
    down: BTreeSet<usize>,
    held: Option<Held>,
    /// Those that were told that they may go, and have not gone yet.
    granted: BTreeSet<usize>,
    pods: usize,
    now: i64,
    boots: usize,
}

impl World {
    fn new(size: usize) -> Self {
        let machines = (1..=size).map(|n| machine(&format!("cp{n}"), true)).collect();
        World { machines, down: BTreeSet::new(), held: None, granted: BTreeSet::new(), pods: 2, now: 0, boots: 1 }
    }

    fn voters(&self, dice: &mut Dice) -> Voters {
        let members = self
            .machines
            .iter()
            .enumerate()
            .map(|(n, machine)| (machine.name.clone(), Voter { votes: true, answers: !self.down.contains(&n) }));
        let up: Vec<&Machine> =
            self.machines.iter().enumerate().filter(|(n, _)| !self.down.contains(n)).map(|(_, it)| it).collect();
        let leader = (!up.is_empty()).then(|| {
            let index = usize::try_from(dice.roll(up.len() as u64)).expect("because it is small");
            up[index].name.clone()
        });
        Voters { members: members.collect(), changing: dice.roll(20) == 0, leader }
    }

    fn index(&self, name: &str) -> usize {
        self.machines.iter().position(|machine| machine.name == name).expect("because it is one of them")
    }

    /// What else happens: crashes, returns, and permitted machines that go.
    fn happens(&mut self, dice: &mut Dice) {
        self.now += i64::try_from(dice.roll(90)).expect("because it is small");
        let n = usize::try_from(dice.roll(self.machines.len() as u64)).expect("because it is small");
        match dice.roll(8) {
            0 => drop(self.down.insert(n)),
            1 | 2 if self.down.remove(&n) => {
                self.boots += 1;
                self.machines[n].boot = format!("boot{}", self.boots);
            }
            _ if self.granted.remove(&n) => drop(self.down.insert(n)),
            _ => self.pods = self.pods.saturating_sub(1),
        }
        for n in 0..self.machines.len() {
            let up = !self.down.contains(&n);
            self.machines[n].ready = up;
            if up {
                self.machines[n].wish = Some(Wish { asked: at(self.now), ..wish(&self.machines[n].boot) });
            }
        }
    }

    /// Does as the gate says, and checks what must never be.
    fn step(&mut self, dice: &mut Dice, story: &str) {
        let voters = self.voters(dice);
        self.follow(&voters, dice, story);
    }

    fn follow(&mut self, voters: &Voters, dice: &mut Dice, story: &str) {
        let pods: Vec<Arc<Pod>> = (0..self.pods).map(|n| pod(&format!("p{n}"), json!({}))).collect();
        match decide(&self.machines, self.held.as_ref(), voters, &pods, self.now) {
            Step::Begin(held) => {
                assert!(self.held.is_none(), "{story}: a slot that somebody has is given away");
                self.pods = usize::try_from(dice.roll(4)).expect("because it is small");
                self.held = Some(held);
            }
            Step::Grant(held) => {
                let n = self.index(&held.machine);
                assert_eq!(self.pods, 0, "{story}: granted means drained");
                assert!(self.machines[n].unschedulable, "{story}: granted means cordoned");
                assert!(self.granted.is_empty(), "{story}: two machines may go at once");
                let others = (0..self.machines.len()).filter(|other| *other != n && !self.down.contains(other)).count();
                let total = self.machines.len();
                assert!(total == 1 || others > total / 2, "{story}: {others} of {total} are left");
                self.granted.insert(n);
                self.held = Some(held);
            }
            Step::Cordon => {
                let held = self.held.as_mut().expect("because only a holder is cordoned");
                held.cordoned = true;
                let name = held.machine.clone();
                let n = self.index(&name);
                self.machines[n].unschedulable = true;
            }
            Step::End { uncordon, answer, .. } => {
                let held = self.held.take().expect("because only a holder ends");
                let n = self.index(&held.machine);
                self.granted.remove(&n);
                self.machines[n].unschedulable &= !uncordon;
                self.machines[n].answer = answer;
            }
            Step::Uncordon(name) => {
                let n = self.index(&name);
                (self.machines[n].unschedulable, self.machines[n].answer) = (false, None::<Answer>);
            }
            Step::LetLeave => panic!("{story}: nobody is to leave"),
            Step::Wait(_) | Step::Drain { .. } | Step::HandOver => {}
        }
    }
}

#[test]
fn in_no_world_do_two_go_at_once_or_too_few_stay() {
    let mut granted = 0;
    for seed in 1..=600_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut world = World::new(1 + usize::try_from(seed % 5).expect("because it is small"));
        for turn in 0..200 {
            world.happens(&mut dice);
            let before = world.granted.len();
            world.step(&mut dice, &format!("seed {seed}, turn {turn}"));
            granted += usize::from(world.granted.len() > before);
        }
    }
    assert!(granted > 600, "permits are given, too: {granted}");
}

#[test]
fn every_machine_gets_its_turn_and_its_cordon_is_taken_away() {
    let mut world = World::new(3);
    let voters = voters(&["cp1", "cp2", "cp3"]);
    let mut order = Vec::new();
    for _ in 0..60 {
        world.now += 5;
        for machine in &mut world.machines {
            let first = machine.boot.ends_with("-1");
            machine.wish = first.then(|| Wish { asked: at(world.now), ..wish(&machine.boot) });
        }
        world.pods = 0;
        match decide(&world.machines, world.held.as_ref(), &voters, &[], world.now) {
            // cp1 leads; the next leader finds the same slot.
            Step::HandOver => {
                let step = decide(
                    &world.machines,
                    world.held.as_ref(),
                    &Voters { leader: Some("cp2".to_owned()), ..voters.clone() },
                    &[],
                    world.now,
                );
                let Step::Grant(held) = step else { panic!("drained, and another leads: {step:?}") };
                order.push(held.machine.clone());
                world.held = Some(held);
            }
            Step::Grant(held) => {
                order.push(held.machine.clone());
                world.held = Some(held);
            }
            Step::Wait(_) if world.held.as_ref().is_some_and(|held| held.granted_until.is_some()) => {
                let n = world.index(&world.held.as_ref().expect("because it was just there").machine.clone());
                world.machines[n].boot = format!("cp{}-2", n + 1);
            }
            _other => {
                world.follow(&voters, &mut Dice(1), "in turn");
            }
        }
    }
    assert_eq!(order, ["cp1", "cp2", "cp3"]);
    assert!(world.held.is_none() && world.machines.iter().all(|machine| !machine.unschedulable));
    let patience = SignedDuration::from_mins(15);
    assert_eq!(DRAIN_PATIENCE, patience, "docs/operating/disruption.md names it");
}
