//! Attacks by time and by keeping news back: beacons, clocks, marks.

use crate::lab::{CLUSTER, Lab, REF, time};
use gitsync_verify::statement::Beacon;
use gitsync_verify::{Clock, DeployRef, Freshness, Mark, Reason, SignedMark, Statement, TrustState, freshness};
use jiff::{SignedDuration, Timestamp};
use machined_access::IdentityKey;
use machined_ids::{ClusterId, Seq, StepId};

const NOON: &str = "2026-06-01T12:00:00Z";

fn noon() -> Timestamp {
    time(NOON)
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// A policy that asks for freshness, with a robot that signs beacons, at noon.
fn asking() -> (Lab, TrustState) {
    let lab = Lab::empty("sha1");
    let lab_policy = format!("freshness life=\"24h\"\n{}", lab.principal_kdl("robot", "fresh"));
    lab.found();
    lab.change("ada", "trust/root.kdl", &(lab.root_with("") + &lab_policy));
    lab.clock.set(Clock::at(noon()));
    let machine = lab.machine();
    (lab, machine)
}

/// The beacon that names a machine's accepted step.
fn beacon(machine: &TrustState, issued: Timestamp) -> Beacon {
    let accepted = machine.accepted();
    Beacon {
        cluster: ClusterId::parse(CLUSTER).expect("because it is hex"),
        deploy_ref: DeployRef::parse(REF).expect("because it is a branch"),
        epoch: machine.epoch(),
        seq: accepted.seq,
        step: accepted.step,
        issued,
        expires: issued + hours(24),
    }
}

/// A machine that follows the branch with a beacon for whatever is its tip.
fn informed(lab: &Lab, machine: &TrustState) -> TrustState {
    let mut ahead = machine.clone();
    let tip = lab.introduction(&lab.id(REF));
    let accepted = machine.accepted();
    let step = gitsync_verify::next_step(&accepted.step, &tip.tree);
    let named = Beacon { seq: accepted.seq.next(), step, ..beacon(machine, noon()) };
    lab.statements.replace(vec![lab.sign_statement("robot", &Statement::Beacon(named))]);
    lab.accepted(&mut ahead);
    ahead
}

#[test]
fn t49_a_fresh_machine_moves_only_with_a_current_beacon() {
    let (lab, mut machine) = asking();
    assert_eq!(freshness(&machine, lab.clock.get()), Freshness::Unproven);
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.refused(&mut machine, Reason::FreshnessUnproven);
    // A beacon for a step that the old history does not hold proves nothing of it.
    let newer = Beacon { seq: Seq(9), step: StepId::from_bytes([9; 32]), ..beacon(&machine, noon()) };
    lab.offer("robot", &Statement::Beacon(newer));
    lab.refused(&mut machine.clone(), Reason::FreshnessUnproven);
    let ahead = informed(&lab, &machine);
    assert_eq!(ahead.accepted().seq, Seq(1));
    assert_eq!(freshness(&ahead, lab.clock.get()), Freshness::Fresh { until: noon() + hours(24) });
}

#[test]
fn past_the_last_beacon_the_source_is_stale_and_the_applied_step_stays() {
    let (lab, machine) = asking();
    lab.offer("robot", &Statement::Beacon(beacon(&machine, noon())));
    let mut machine = machine;
    lab.accepted(&mut machine);
    let late = Clock::at(noon() + hours(25));
    assert_eq!(freshness(&machine, late), Freshness::Stale { since: noon() + hours(24) });
    assert_eq!(freshness(&machine, late).refusal().map(|refusal| refusal.reason), Some(Reason::SourceStale));
    lab.clock.set(late);
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.refused(&mut machine, Reason::FreshnessUnproven);
}

#[test]
fn t68_a_machine_off_for_months_does_not_take_a_fork_signed_by_a_removed_key() {
    let (lab, machine) = asking();
    let base = lab.head();
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    let mut asleep = informed(&lab, &machine);
    let before_removal = lab.head();
    let people = lab.people_kdl("commit", 1).lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
    lab.change("ada", "trust/people.kdl", &people.replace(" \"bob\"", ""));
    // Months later the host serves a fork by bob, who was removed, instead of that.
    lab.git(&["reset", "-q", "--hard", before_removal.as_str()]);
    lab.change("bob", "apps/a.yaml", "a: evil\n");
    lab.clock.set(Clock::at(noon() + hours(24 * 90)));
    lab.statements.borrow_mut().clear();
    lab.refused(&mut asleep, Reason::FreshnessUnproven);
    assert_ne!(base, before_removal);
}

#[test]
fn t68_without_a_policy_that_asks_for_freshness_the_fork_is_taken() {
    let lab = Lab::new();
    let mut asleep = lab.machine();
    let before_removal = lab.head();
    let people = lab.people_kdl("commit", 1).lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
    lab.change("ada", "trust/people.kdl", &people.replace(" \"bob\"", ""));
    lab.git(&["reset", "-q", "--hard", before_removal.as_str()]);
    lab.change("bob", "apps/a.yaml", "a: evil\n");
    assert!(lab.accepted(&mut asleep).is_some(), "as the chapter on trust says of a policy without freshness");
}

#[test]
fn t48_t81_a_clock_that_says_2099_and_then_is_right_again_moves_no_floor() {
    let (lab, mut machine) = asking();
    lab.offer("robot", &Statement::Beacon(beacon(&machine, noon())));
    lab.clock.set(Clock::at(time("2099-01-01T00:00:00Z")));
    assert_eq!(lab.ignored(&machine), [Reason::StaleBeacon]);
    assert_eq!(lab.sync(&mut machine), None);
    assert_eq!(machine.clock_floor(), None);
    lab.clock.set(Clock::at(noon()));
    lab.accepted(&mut machine);
    assert_eq!(machine.clock_floor(), Some(noon()));
    assert_eq!(freshness(&machine, lab.clock.get()), Freshness::Fresh { until: noon() + hours(24) });
}

#[test]
fn t48_t82_a_clock_below_the_floor_is_no_time_at_all() {
    let (lab, mut machine) = asking();
    lab.offer("robot", &Statement::Beacon(beacon(&machine, noon())));
    lab.accepted(&mut machine);
    let past = Clock::at(time("1970-01-01T00:00:10Z"));
    assert_eq!(freshness(&machine, past), Freshness::Stale { since: noon() + hours(24) });
    // A machine that never saw signed time has its image's.
    let mut fresh = lab.machine();
    fresh.image_was_built(noon());
    lab.clock.set(past);
    assert_eq!(lab.ignored(&fresh), [Reason::StaleBeacon]);
    assert_eq!(freshness(&fresh, past), Freshness::Unproven);
}

#[test]
fn t83_a_beacon_from_2099_is_not_believed() {
    let (lab, mut machine) = asking();
    lab.offer("robot", &Statement::Beacon(beacon(&machine, time("2099-01-01T00:00:00Z"))));
    for clock in [Clock::at(noon()), Clock::default()] {
        lab.clock.set(clock);
        assert_eq!(lab.ignored(&machine), [Reason::StaleBeacon]);
        assert_eq!(lab.sync(&mut machine), None);
        assert_eq!(machine.clock_floor(), None);
    }
    // Five minutes ahead are clocks that differ, six are not.
    for (minutes, counts) in [(5, true), (6, false)] {
        let issued = noon() + SignedDuration::from_mins(minutes);
        lab.statements.replace(vec![lab.sign_statement("robot", &Statement::Beacon(beacon(&machine, issued)))]);
        lab.clock.set(Clock::at(noon()));
        assert_eq!(lab.ignored(&machine).is_empty(), counts, "{minutes} minutes");
    }
}

#[test]
fn t84_a_beacon_for_something_else_or_by_somebody_else_is_worth_nothing() {
    let (lab, machine) = asking();
    let good = beacon(&machine, noon());
    let other_ref = DeployRef::parse("refs/heads/prod").expect("because it is a branch");
    for (signer, reason, beacon) in [
        ("robot", Reason::WrongTarget, Beacon { cluster: ClusterId::from_bytes([9; 16]), ..good.clone() }),
        ("robot", Reason::WrongTarget, Beacon { deploy_ref: other_ref, ..good.clone() }),
        ("robot", Reason::WrongTarget, Beacon { epoch: machined_ids::Epoch(1), ..good.clone() }),
        ("robot", Reason::StaleBeacon, Beacon { expires: noon() + hours(25), ..good.clone() }),
        ("robot", Reason::StaleBeacon, Beacon { expires: noon(), ..good.clone() }),
        ("ada", Reason::WrongUse, good.clone()),
        ("mallory", Reason::UnknownKey, good.clone()),
    ] {
        lab.statements.replace(vec![lab.sign_statement(signer, &Statement::Beacon(beacon))]);
        assert_eq!(lab.ignored(&machine), [reason], "{signer}");
    }
}

#[test]
fn t85_a_beacon_for_a_step_that_the_host_keeps_back_is_shown() {
    let (lab, mut machine) = asking();
    let base = lab.head();
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    let ahead = informed(&lab, &machine);
    let kept_back = lab.head();
    lab.git(&["reset", "-q", "--hard", base.as_str()]);
    assert_eq!(lab.accepted(&mut machine), None);
    let withheld = Freshness::Withheld { seq: ahead.accepted().seq, step: ahead.accepted().step };
    assert_eq!(freshness(&machine, lab.clock.get()), withheld);
    assert_eq!(withheld.refusal().map(|refusal| refusal.reason), Some(Reason::SourceWithheld));
    lab.git(&["reset", "-q", "--hard", kept_back.as_str()]);
    lab.accepted(&mut machine);
    assert!(matches!(freshness(&machine, lab.clock.get()), Freshness::Fresh { .. }), "the source delivered");
}

/// Documents of three control-plane machines; their identities.
fn control_plane(lab: &Lab) -> Vec<IdentityKey> {
    let keys: Vec<_> = (0..3).map(|_| IdentityKey::generate().expect("because there is randomness")).collect();
    for (number, key) in keys.iter().enumerate() {
        let identity = key.fingerprint();
        let text = format!("machine \"cp{number}\" {{\n    identity \"{identity}\"\n    role \"control-plane\"\n}}\n");
        lab.write(&format!("machines/cp{number}.kdl"), &text);
    }
    let rule = "rule \"machines\" { owns \"machines/**\"; approval role=\"dev\" threshold=1; }\n";
    lab.change("ada", "trust/machines.kdl", rule);
    keys
}

/// A machine's mark of what it accepted.
fn mark(key: &IdentityKey, state: &TrustState) -> SignedMark {
    let [.., parent, accepted] = state.history() else { panic!("there is no step yet") };
    let introduction = state.introduction();
    let mark = Mark {
        cluster: introduction.cluster,
        deploy_ref: introduction.deploy_ref.clone(),
        epoch: state.epoch(),
        seq: accepted.seq,
        parent: parent.step,
        step: accepted.step,
        commit: accepted.commit.clone(),
        machine: key.fingerprint(),
    };
    sign(key, &mark)
}

fn sign(key: &IdentityKey, mark: &Mark) -> SignedMark {
    let signature = key.sign(&mark.to_sign()).expect("because there is randomness");
    SignedMark::join(mark, &key.public_key(), &signature).expect("because it is its own")
}

#[test]
fn t50_a_member_that_was_cut_off_moves_along_the_majoritys_chain_only() {
    let (lab, _) = asking();
    let keys = control_plane(&lab);
    let mut minority = lab.machine();
    lab.own.replace(Some(keys[0].fingerprint()));
    let base = lab.head();
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    let majority = informed(&lab, &minority);
    let real = lab.head();
    lab.statements.borrow_mut().clear();
    lab.marks.replace(vec![mark(&keys[1], &majority), mark(&keys[2], &majority)]);
    // The fork: approved by somebody whose key was good then.
    lab.git(&["reset", "-q", "--hard", base.as_str()]);
    lab.change("bob", "apps/b.yaml", "b: evil\n");
    lab.refused(&mut minority, Reason::FreshnessUnproven);
    lab.git(&["reset", "-q", "--hard", real.as_str()]);
    // One of three is no majority, and its own word does not count.
    lab.marks.replace(vec![mark(&keys[1], &majority), mark(&keys[0], &majority)]);
    lab.own.replace(Some(keys[0].fingerprint()));
    lab.refused(&mut minority.clone(), Reason::FreshnessUnproven);
    lab.marks.replace(vec![mark(&keys[1], &majority), mark(&keys[2], &majority)]);
    assert!(lab.accepted(&mut minority).is_some());
}

#[test]
fn t92_two_documents_with_one_fingerprint_are_one_machine() {
    let (lab, _) = asking();
    let keys = control_plane(&lab);
    let twin = std::fs::read_to_string(lab.path().join("machines/cp1.kdl")).expect("because it was written");
    lab.change("ada", "machines/cp2.kdl", &twin.replace("\"cp1\"", "\"cp2\""));
    let mut machine = lab.machine();
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    let ahead = informed(&lab, &machine);
    lab.statements.borrow_mut().clear();
    lab.own.replace(Some(keys[0].fingerprint()));
    // Of two machines, one is no majority, however often it speaks.
    lab.marks.replace(vec![mark(&keys[1], &ahead), mark(&keys[1], &ahead)]);
    lab.refused(&mut machine, Reason::FreshnessUnproven);
}

#[test]
fn t79_a_mark_far_ahead_moves_nothing_and_holds_nothing_up() {
    let lab = Lab::new();
    let keys = control_plane(&lab);
    let mut machine = lab.machine();
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    let mut ahead = machine.clone();
    lab.accepted(&mut ahead);
    let far = mark(&keys[1], &ahead).mark().clone();
    let far = Mark { seq: Seq(1 << 63), parent: StepId::from_bytes([8; 32]), step: StepId::from_bytes([9; 32]), ..far };
    lab.marks.replace(vec![sign(&keys[1], &far)]);
    lab.own.replace(Some(keys[0].fingerprint()));
    assert!(lab.accepted(&mut machine).is_some(), "one peer's claim stops nobody");
    assert_eq!(machine.accepted().seq, Seq(1));
    // A mark of a machine that is none of the cluster is not even looked at.
    let stranger = IdentityKey::generate().expect("because there is randomness");
    let mark = mark(&stranger, &ahead).mark().clone();
    lab.marks.replace(vec![sign(&stranger, &Mark { step: StepId::from_bytes([7; 32]), ..mark })]);
    assert_eq!(lab.accepted(&mut machine), None);
    assert_eq!(machine.equivocation(), None);
}

#[test]
fn t45_an_old_copy_of_the_state_moves_only_to_where_the_machine_had_been() {
    let lab = Lab::new();
    let keys = control_plane(&lab);
    let mut machine = lab.machine();
    let (old, base) = (machine.clone(), lab.head());
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    // The disk is put back; a peer still has the mark that this machine gave.
    lab.marks.replace(vec![mark(&keys[0], &machine)]);
    lab.own.replace(Some(keys[0].fingerprint()));
    let mut restored = old.clone();
    let real = lab.head();
    lab.git(&["reset", "-q", "--hard", base.as_str()]);
    lab.refused(&mut restored, Reason::FreshnessUnproven);
    lab.git(&["reset", "-q", "--hard", real.as_str()]);
    assert!(lab.accepted(&mut restored).is_some(), "the source leads to where it had been");
}

#[test]
fn t60_two_steps_after_one_parent_stop_both_and_show_both() {
    let lab = Lab::new();
    let keys = control_plane(&lab);
    let mut machine = lab.machine();
    let (other, base) = (machine.clone(), lab.head());
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    let here = lab.head();
    lab.git(&["reset", "-q", "--hard", base.as_str()]);
    lab.change("bob", "apps/a.yaml", "a: other\n");
    let mut other = other;
    lab.accepted(&mut other);
    let there = lab.head();
    // Merely offered, the sibling is no more than that.
    lab.refused(&mut machine, Reason::NotDescendant);
    lab.git(&["reset", "-q", "--hard", here.as_str()]);
    lab.marks.replace(vec![mark(&keys[1], &other)]);
    let refusal = lab.refused(&mut machine, Reason::Equivocation);
    assert!(refusal.message.contains(here.short()) && refusal.message.contains(there.short()), "{}", refusal.message);
    // It was written down: nothing moves when the mark is kept back later.
    lab.marks.borrow_mut().clear();
    lab.change("ada", "apps/a.yaml", "a: 2\n");
    lab.refused(&mut machine, Reason::Equivocation);
    // Two marks tell a third machine.
    let mut third = lab.machine();
    lab.marks.replace(vec![mark(&keys[1], &other), {
        let state = {
            let mut state = other.clone();
            state.clone_from(&machine);
            state
        };
        mark(&keys[2], &state)
    }]);
    lab.refused(&mut third, Reason::Equivocation);
}
