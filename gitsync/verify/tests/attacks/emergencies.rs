//! Break-glass and recovery: what people may do when the ordinary way is closed, and what they still may not.

use crate::lab::{CLUSTER, Lab, Make, REF, target, time};
use gitsync_verify::statement::{Intent, Recovery, Release};
use gitsync_verify::{
    Clock, DeployRef, Offer, Presence, Reason, Statement, TrustState, Wanted, body_digest, commit_sha256, introduce,
    recall, verify,
};
use jiff::SignedDuration;
use machined_ids::{ClusterId, CommitId, Epoch, Seq};

const NOON: &str = "2026-06-01T12:00:00Z";

/// A rule for `apps/` that takes ada and bob, and a break-glass for oncall's olga.
fn oncall() -> (Lab, TrustState) {
    let lab = Lab::empty("sha1");
    lab.found();
    lab.change("ada", "trust/people.kdl", &lab.people_kdl("commit\" \"statement", 2));
    let oncall = format!(
        "{}role \"oncall\" {{ member \"olga\"; }}\n\
         break-glass role=\"oncall\" threshold=1 life=\"4h\" {{ owns \"apps/**\" \"trust/**\" \"machines/**\"; }}\n",
        lab.principal_kdl("olga", "statement")
    );
    lab.change("ada", "trust/root.kdl", &lab.root_with(&oncall));
    lab.clock.set(Clock::at(time(NOON)));
    let machine = lab.machine();
    (lab, machine)
}

fn breakglass(lab: &Lab, machine: &TrustState, hours: i64) {
    let end = time(NOON) + SignedDuration::from_hours(hours);
    let release = Release { not_after: Some(end), intent: Intent::Breakglass, ..lab.release(machine) };
    lab.offer("olga", &Statement::Release(release));
}

/// A file changed in a commit that nobody signed.
fn unsigned(lab: &Lab, path: &str, text: &str) -> CommitId {
    lab.write(path, text);
    lab.commit(&Make { signer: None, message: "urgent".into() })
}

#[test]
fn t59_a_break_glass_that_nobody_ratifies_is_taken_back() {
    let (lab, mut machine) = oncall();
    let before = machine.accepted().clone();
    unsigned(&lab, "apps/a.yaml", "a: urgent\n");
    lab.refused(&mut machine, Reason::UnderThreshold);
    breakglass(&lab, &machine, 4);
    lab.accepted(&mut machine).expect("because olga may");
    let glass = machine.break_glass().expect("because it is in force").clone();
    assert_eq!((glass.seq, &glass.base), (Seq(1), &before));
    assert_eq!(machine.overrides().len(), 1, "it is in the log");
    let again = recall(&machine, &lab.objects(), Seq(1)).expect("because it is accepted");
    assert_eq!(again.break_glass(), Some(&glass), "who renders it knows by what it came");
    assert!(matches!(machine.wanted(Clock::at(glass.until)), Wanted::Accepted(_)));
    let over = Clock::at(glass.until + SignedDuration::from_secs(1));
    for clock in [over, Clock::default()] {
        assert_eq!(machine.wanted(clock), Wanted::NotRatified(&before), "{clock:?}");
    }
    assert_eq!(machine.accepted().seq, Seq(1), "accepted does not move back");
}

#[test]
fn t74_an_ordinary_commit_that_touches_something_else_ratifies_nothing() {
    let (lab, mut machine) = oncall();
    unsigned(&lab, "apps/a.yaml", "a: urgent\n");
    breakglass(&lab, &machine, 4);
    lab.accepted(&mut machine);
    // Alone it would need ada only; since the last ordinary step there is apps/a.yaml as well.
    lab.change("ada", "trust/readme.kdl", "// nothing\n");
    let refusal = lab.refused(&mut machine, Reason::UnderThreshold);
    assert_eq!(refusal.path.as_deref(), Some("apps/a.yaml"));
    assert!(machine.break_glass().is_some());
    // With both, the whole difference is approved, and so is what came in by break-glass.
    lab.approve("bob", &machine);
    lab.accepted(&mut machine);
    assert_eq!(machine.break_glass(), None);
    let wanted = machine.wanted(Clock::at(time(NOON) + SignedDuration::from_hours(100)));
    assert_eq!(wanted, Wanted::Accepted(machine.accepted()));
}

#[test]
fn taking_a_break_glass_back_leaves_no_difference_to_approve() {
    let (lab, mut machine) = oncall();
    unsigned(&lab, "apps/web/deploy.yaml", "replicas: 9\n");
    lab.write("apps/new.yaml", "x: 1\n");
    lab.commit_index(&Make { signer: None, message: "urgent".into() }, &["--amend"]);
    breakglass(&lab, &machine, 4);
    lab.accepted(&mut machine);
    lab.change("bob", "apps/web/deploy.yaml", "replicas: 1\n");
    lab.refused(&mut machine, Reason::UnderThreshold);
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.git(&["revert", "--no-commit", "HEAD"]);
    lab.commit_index(&Make { signer: Some("bob"), message: format!("back\n\n{}\n", target()) }, &[]);
    lab.accepted(&mut machine);
    assert_eq!(machine.break_glass(), None);
}

#[test]
fn a_break_glass_is_limited_in_path_time_and_number() {
    let (lab, mut machine) = oncall();
    for path in ["trust/extra.kdl", "machines/cp9.kdl", "cluster.kdl", "apps2/x.yaml"] {
        lab.statements.borrow_mut().clear();
        unsigned(&lab, path, "// x\n");
        breakglass(&lab, &machine, 4);
        let refusal = lab.refused(&mut machine, Reason::OutOfReach);
        assert_eq!(refusal.path.as_deref(), Some(path));
        lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    }
    unsigned(&lab, "apps/a.yaml", "a: urgent\n");
    for (hours, clock) in [(5, time(NOON)), (4, time(NOON) + SignedDuration::from_hours(4))] {
        lab.statements.borrow_mut().clear();
        lab.clock.set(Clock::at(clock));
        breakglass(&lab, &machine, hours);
        lab.refused(&mut machine, Reason::Expired);
    }
    lab.clock.set(Clock::default());
    lab.refused(&mut machine, Reason::Expired);
    let never = Release { intent: Intent::Breakglass, ..lab.release(&machine) };
    lab.statements.replace(vec![lab.sign_statement("olga", &Statement::Release(never))]);
    lab.clock.set(Clock::at(time(NOON)));
    lab.refused(&mut machine, Reason::UnderThreshold);
    // bob is not of the role.
    let end = time(NOON) + SignedDuration::from_hours(1);
    let bobs = Release { not_after: Some(end), intent: Intent::Breakglass, ..lab.release(&machine) };
    lab.statements.replace(vec![lab.sign_statement("bob", &Statement::Release(bobs))]);
    lab.refused(&mut machine, Reason::UnderThreshold);
    // Nobody takes an emergency's approval away: not bob, not one of olga's own that has ended or never ends.
    breakglass(&lab, &machine, -1);
    let never = Release { intent: Intent::Breakglass, ..lab.release(&machine) };
    lab.offer("bob", &Statement::Release(never.clone()));
    lab.offer("olga", &Statement::Release(never));
    breakglass(&lab, &machine, 4);
    lab.accepted(&mut machine);
    unsigned(&lab, "apps/b.yaml", "b: urgent\n");
    breakglass(&lab, &machine, 4);
    lab.refused(&mut machine, Reason::UnderThreshold);
}

#[test]
fn an_ended_break_glass_is_history_once_it_was_ratified() {
    let (lab, machine) = oncall();
    let mut first = machine.clone();
    unsigned(&lab, "apps/a.yaml", "a: urgent\n");
    breakglass(&lab, &machine, 4);
    lab.accepted(&mut first);
    let mut late = machine.clone();
    lab.clock.set(Clock::at(time(NOON) + SignedDuration::from_hours(9)));
    lab.refused(&mut late, Reason::Expired);
    lab.change("bob", "apps/a.yaml", "a: calm\n");
    lab.approve("ada", &first);
    lab.accepted(&mut late);
    lab.accepted(&mut first);
    assert_eq!(late.accepted(), first.accepted(), "both come to the same step");
    assert_eq!(late.break_glass(), None);
}

/// A policy with a recovery of two vaults, who wait a day.
fn recoverable() -> (Lab, TrustState) {
    let lab = Lab::empty("sha1");
    lab.found();
    let vaults = format!(
        "recovery threshold=2 delay=\"24h\" {{ member \"vault1\" \"vault2\"; }}\n{}{}",
        lab.principal_kdl("vault1", "recovery"),
        lab.principal_kdl("vault2", "recovery")
    );
    lab.change("ada", "trust/root.kdl", &lab.root_with(&vaults));
    lab.clock.set(Clock::at(time(NOON)));
    let machine = lab.machine();
    (lab, machine)
}

/// A new history whose root is `root`, unrelated to the old one; the branch is there.
fn begin_again(lab: &Lab, root: &str) -> CommitId {
    lab.git(&["checkout", "-q", "--orphan", &format!("again-{root}")]);
    lab.write("trust/root.kdl", &lab.root_kdl(&[root]).replace("\"commit\" ", "\"commit\" \"statement\" "));
    lab.write("trust/people.kdl", &lab.people_kdl("commit", 1).replace("\"ada\"", &format!("\"{root}\"")));
    let id = lab.commit(&Make { signer: None, message: "begin again".into() });
    lab.git(&["update-ref", REF, id.as_str()]);
    lab.git(&["symbolic-ref", "HEAD", REF]);
    id
}

fn recovery(lab: &Lab, commit: &CommitId, new_epoch: u64) -> Recovery {
    Recovery {
        cluster: ClusterId::parse(CLUSTER).expect("because it is hex"),
        old_epoch: Epoch(0),
        new_epoch: Epoch(new_epoch),
        commit: commit.clone(),
        commit_sha256: commit_sha256(&lab.raw(commit)),
        deploy_ref: DeployRef::parse(REF).expect("because it is a branch"),
        policy: lab.introduction(commit).policy,
    }
}

fn sign_recovery(lab: &Lab, recovery: &Recovery) {
    for vault in ["vault1", "vault2"] {
        lab.offer(vault, &Statement::Recovery(recovery.clone()));
    }
}

fn day_later(lab: &Lab) {
    lab.clock.set(Clock::at(time(NOON) + SignedDuration::from_hours(24)));
}

#[test]
fn a_recovery_waits_its_delay_and_begins_a_new_epoch() {
    let (lab, mut machine) = recoverable();
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    let commit = begin_again(&lab, "carol");
    sign_recovery(&lab, &recovery(&lab, &commit, 1));
    lab.refused(&mut machine, Reason::NotDescendant);
    assert_eq!(machine.pending_recoveries().len(), 1, "its time runs");
    lab.statements.borrow_mut().clear();
    day_later(&lab);
    let first = lab.accepted(&mut machine).expect("because a day has passed");
    assert!(first.is_recovery());
    assert_eq!((machine.epoch(), machine.accepted().seq), (Epoch(1), Seq(0)));
    // The old keys are nobody's now, the new root goes on.
    lab.change("bob", "apps/a.yaml", "a: 2\n");
    assert!(lab.accepted(&mut machine).is_some(), "bob is of the new policy, too");
    lab.change("ada", "apps/a.yaml", "a: 3\n");
    lab.refused(&mut machine, Reason::UnknownKey);
}

#[test]
fn with_somebody_at_the_machine_a_recovery_does_not_wait() {
    let (lab, mut machine) = recoverable();
    let commit = begin_again(&lab, "carol");
    sign_recovery(&lab, &recovery(&lab, &commit, 1));
    lab.presence.set(true);
    lab.accepted(&mut machine);
    assert_eq!(machine.epoch(), Epoch(1));
    // Steps of the new epoch are not those of another one with the same tree.
    let other = introduce(&lab.introduction(&commit), &lab.objects()).expect("because it is good").0;
    assert_ne!(machine.accepted().step, other.accepted().step);
}

#[test]
fn somebody_at_the_machine_vouches_for_one_recovery_and_no_other() {
    let (lab, machine) = recoverable();
    let commit = begin_again(&lab, "carol");
    let (ours, other) = (recovery(&lab, &commit, 1), recovery(&lab, &commit, 2));
    sign_recovery(&lab, &ours);
    let digest = |recovery: &Recovery| body_digest(&Statement::Recovery(recovery.clone()).body());
    for (confirmed, epoch) in [(digest(&other), Epoch(0)), (digest(&ours), Epoch(1))] {
        let (tip, objects, statements) = (lab.head(), lab.objects(), lab.statements.borrow().clone());
        let presence = Presence::For(&confirmed);
        let offer = Offer { statements: &statements, presence, ..Offer::of(&tip, &objects) };
        let mut judged = machine.clone();
        judged.learn(&verify(&judged, &offer).expect("because the recovery waits, or is taken"));
        assert_eq!(judged.epoch(), epoch);
        assert_eq!(judged.pending_recoveries().len(), usize::from(epoch == Epoch(0)));
    }
}

#[test]
fn a_recovery_takes_its_threshold_its_commit_and_the_floors() {
    let (lab, machine) = recoverable();
    lab.presence.set(true);
    let commit = begin_again(&lab, "carol");
    let good = recovery(&lab, &commit, 1);
    // One of two, root instead of recovery, for another epoch or cluster.
    let other = Recovery { cluster: ClusterId::from_bytes([9; 16]), ..good.clone() };
    let past = Recovery { old_epoch: Epoch(3), new_epoch: Epoch(4), ..good.clone() };
    for (signers, recovery) in [
        (["vault1", "vault1"], &good),
        (["vault1", "ada"], &good),
        (["vault1", "vault2"], &other),
        (["vault1", "vault2"], &past),
    ] {
        lab.statements
            .replace(signers.map(|name| lab.sign_statement(name, &Statement::Recovery(recovery.clone()))).into());
        lab.refused(&mut machine.clone(), Reason::NotDescendant);
    }
    let wrong = Recovery { commit_sha256: machined_ids::Digest::from_bytes([1; 32]), ..good.clone() };
    lab.statements.borrow_mut().clear();
    sign_recovery(&lab, &wrong);
    lab.refused(&mut machine.clone(), Reason::IdMismatch);
    lab.statements.borrow_mut().clear();
    sign_recovery(&lab, &good);
    assert!(lab.accepted(&mut machine.clone()).is_some());
}

#[test]
fn t86_two_re_introductions_of_one_epoch_stop() {
    let (lab, mut machine) = recoverable();
    let (one, other) = (begin_again(&lab, "carol"), begin_again(&lab, "dave"));
    sign_recovery(&lab, &recovery(&lab, &one, 1));
    sign_recovery(&lab, &recovery(&lab, &other, 1));
    lab.presence.set(true);
    let refusal = lab.refused(&mut machine, Reason::Equivocation);
    assert!(refusal.message.contains(one.short()) && refusal.message.contains(other.short()), "{}", refusal.message);
    // One of them is kept back later: it was written down.
    lab.statements.borrow_mut().clear();
    sign_recovery(&lab, &recovery(&lab, &other, 1));
    lab.refused(&mut machine, Reason::Equivocation);
    // A higher epoch ends it, and waits like any other.
    lab.presence.set(false);
    sign_recovery(&lab, &recovery(&lab, &other, 2));
    lab.refused(&mut machine, Reason::Equivocation);
    day_later(&lab);
    lab.accepted(&mut machine);
    assert_eq!((machine.epoch(), machine.equivocation()), (Epoch(2), None));
}

#[test]
fn t86_a_second_re_introduction_after_the_first_took_effect_stops_as_well() {
    let (lab, mut machine) = recoverable();
    let (other, one) = (begin_again(&lab, "dave"), begin_again(&lab, "carol"));
    lab.presence.set(true);
    sign_recovery(&lab, &recovery(&lab, &one, 1));
    lab.accepted(&mut machine);
    sign_recovery(&lab, &recovery(&lab, &other, 1));
    lab.refused(&mut machine, Reason::Equivocation);
    assert!(machine.equivocation().is_some());
}
