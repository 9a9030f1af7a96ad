//! Attacks on what is remembered: anchors, revocations, floors, going back.

use crate::lab::{Lab, Make, REF, target, time};
use gitsync_verify::statement::Revoke;
use gitsync_verify::{
    Action, Clock, Introduction, Order, Reason, Statement, TrustState, Wanted, access_table, introduce, recall,
};
use jiff::SignedDuration;
use machined_ids::{ClusterId, Epoch, Fingerprint, Seq};
use std::collections::BTreeMap;

#[test]
fn t69_a_join_works_from_the_anchor_when_everything_else_has_ended() {
    let lab = Lab::with_policy("");
    let introduction = lab.introduction(&lab.head());
    let mut machine = lab.machine();
    lab.write("apps/a.yaml", "a: 1\n");
    lab.commit(&Make { signer: None, message: "x".into() });
    let end = time("2026-01-01T00:00:00Z");
    let release = gitsync_verify::statement::Release { not_after: Some(end), ..lab.release(&machine) };
    lab.offer("bob", &Statement::Release(release));
    lab.clock.set(Clock::at(end));
    lab.accepted(&mut machine);
    // A year later: from the introduction the step cannot be accepted, from the anchor it need not be.
    lab.clock.set(Clock::at(time("2027-01-01T00:00:00Z")));
    lab.refused(&mut introduce(&introduction, &lab.objects()).expect("because it is good").0, Reason::Expired);
    let anchored = introduction.anchored(&machine);
    let anchored = Introduction::from_json(anchored.to_json().as_bytes()).expect("because it was just written");
    let (mut joined, first) = introduce(&anchored, &lab.objects()).expect("because the anchor is good");
    assert_eq!((joined.accepted().seq, joined.accepted().step), (Seq(1), machine.accepted().step));
    assert_eq!(first.position().commit, lab.head());
    lab.change("bob", "apps/a.yaml", "a: 2\n");
    lab.accepted(&mut joined);
    lab.accepted(&mut machine);
    assert_eq!(joined.accepted().step, machine.accepted().step, "both count the same steps");
}

#[test]
fn an_anchor_to_other_bytes_is_a_conflict() {
    let lab = Lab::new();
    let machine = lab.machine();
    let mut introduction = machine.introduction().anchored(&machine);
    let anchor = introduction.anchor.as_mut().expect("because it was just anchored");
    anchor.commit_sha256 = machined_ids::Digest::from_bytes([0; 32]);
    let refusal = introduce(&introduction, &lab.objects()).expect_err("because the hash differs");
    assert_eq!(refusal.reason, Reason::IntroductionConflict);
}

#[test]
fn t49_history_below_the_anchor_is_no_history() {
    let lab = Lab::new();
    let (old, mut machine) = (lab.head(), lab.machine());
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    let introduction = machine.introduction().anchored(&machine);
    let mut joined = introduce(&introduction, &lab.objects()).expect("because the anchor is good").0;
    lab.git(&["update-ref", REF, old.as_str()]);
    lab.refused(&mut joined, Reason::NotDescendant);
}

#[test]
fn t87_another_introduction_later_is_a_conflict_and_a_newer_anchor_is_none() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let first = machine.introduction().clone();
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    let other = lab.introduction(&lab.head());
    assert_eq!(machine.check_introduction(&other).map_err(|refusal| refusal.reason), Err(Reason::IntroductionConflict));
    assert_eq!(machine.check_introduction(&first.anchored(&machine)), Ok(()));
}

fn fingerprint(lab: &Lab, name: &str) -> Fingerprint {
    let key = ssh_key::PublicKey::from_openssh(&lab.public_key(name)).expect("because ssh-keygen wrote it");
    machined_access::ssh_fingerprint(key.key_data())
}

fn revoke(lab: &Lab, name: &str, last_good: u64) -> Revoke {
    Revoke {
        cluster: ClusterId::parse(crate::lab::CLUSTER).expect("because it is hex"),
        epoch: Epoch(0),
        key: fingerprint(lab, name),
        last_good: Seq(last_good),
        issued: time("2026-06-01T12:00:00Z"),
    }
}

#[test]
fn t17_a_revoked_key_signs_nothing_new_not_even_on_a_fork_from_before() {
    let lab = Lab::with_policy("");
    let mut machine = lab.machine();
    let base = lab.head();
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    let mut behind = machine.clone();
    lab.accepted(&mut machine);
    lab.offer("ada", &Statement::Revoke(revoke(&lab, "bob", 1)));
    assert_eq!(lab.accepted(&mut machine), None, "what is accepted stays");
    assert_eq!(machine.accepted().seq, Seq(1));
    // The statement is kept back from now on; it was recorded.
    let statements = lab.statements.replace(Vec::new());
    lab.change("bob", "apps/a.yaml", "a: 2\n");
    lab.refused(&mut machine, Reason::Revoked);
    // A machine that lies behind is offered a fork from before the revocation.
    lab.git(&["reset", "-q", "--hard", base.as_str()]);
    lab.change("bob", "apps/b.yaml", "b: evil\n");
    lab.statements.replace(statements);
    lab.refused(&mut behind, Reason::Revoked);
    lab.git(&["reset", "-q", "--hard", base.as_str()]);
    lab.change("ada", "apps/a.yaml", "a: 3\n");
    assert!(lab.accepted(&mut behind).is_some(), "others go on");
}

#[test]
fn t17_an_accepted_policy_revokes_as_well_and_for_ever() {
    let lab = Lab::with_policy("");
    let mut machine = lab.machine();
    // A policy that asks for bob and then revokes bob's only key could not be met; ada is enough.
    let revoked = format!("revoked \"{}\" last-good=0\n", fingerprint(&lab, "bob"));
    lab.change("ada", "trust/revoked.kdl", &revoked);
    let mut at_once = machine.clone();
    lab.accepted(&mut machine);
    lab.remove("trust/revoked.kdl");
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    lab.change("bob", "apps/a.yaml", "a: 2\n");
    lab.refused(&mut machine, Reason::Revoked);
    // A machine that judges all of it at once comes to the same.
    let refusal = lab.sync(&mut at_once).expect("because bob's key was revoked on the way");
    assert_eq!((refusal.reason, at_once.accepted()), (Reason::Revoked, machine.accepted()));
}

#[test]
fn t80_a_forged_revocation_stops_nobody() {
    let lab = Lab::with_policy("");
    let mut machine = lab.machine();
    let other = Revoke { cluster: ClusterId::from_bytes([9; 16]), ..revoke(&lab, "ada", 0) };
    let epoch = Revoke { epoch: Epoch(7), ..revoke(&lab, "ada", 0) };
    for (signer, reason, statement) in [
        ("bob", Reason::RootThreshold, revoke(&lab, "ada", 0)),
        ("mallory", Reason::UnknownKey, revoke(&lab, "ada", 0)),
        ("ada", Reason::WrongTarget, other),
        ("ada", Reason::WrongTarget, epoch),
    ] {
        lab.statements.replace(vec![lab.sign_statement(signer, &Statement::Revoke(statement))]);
        assert_eq!(lab.ignored(&machine), [reason], "{signer}");
    }
    // A thief of bob's key may end that key, and no other.
    lab.offer("bob", &Statement::Revoke(revoke(&lab, "bob", 0)));
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    assert!(lab.accepted(&mut machine).is_some());
    assert_eq!(machine.revocations().keys().collect::<Vec<_>>(), [&fingerprint(&lab, "bob")]);
}

#[test]
fn what_counted_is_handed_out_to_be_served_and_nothing_else_is() {
    let lab = Lab::with_policy("");
    let machine = lab.machine();
    let thief = lab.sign_statement("bob", &Statement::Revoke(revoke(&lab, "ada", 0)));
    let own = lab.sign_statement("bob", &Statement::Revoke(revoke(&lab, "bob", 0)));
    let root = lab.sign_statement("ada", &Statement::Revoke(revoke(&lab, "bob", 0)));
    lab.statements.replace(vec![thief, own.clone(), root.clone()]);
    let counted = lab.judge(&machine).expect("because the branch is where it was").counted;
    assert_eq!(counted.len(), 2);
    assert!(counted.contains(&own) && counted.contains(&root));
}

fn healthy(machine: &mut TrustState) {
    let step = machine.accepted().step;
    machine.activate(&step).expect("because it is accepted");
    assert!(machine.healthy());
}

#[test]
fn what_a_revoked_key_signed_after_its_last_good_step_is_not_gone_back_to() {
    let lab = Lab::with_policy("");
    let mut machine = lab.machine();
    for (signer, text) in [("bob", "a: 1\n"), ("bob", "a: 2\n"), ("ada", "a: 3\n")] {
        lab.change(signer, "apps/a.yaml", text);
        lab.accepted(&mut machine);
        healthy(&mut machine);
    }
    assert_eq!(machine.last_good().map(|position| position.seq), Some(Seq(2)));
    lab.offer("ada", &Statement::Revoke(revoke(&lab, "bob", 1)));
    lab.accepted(&mut machine);
    assert_eq!(machine.may_revert(Seq(2)).map_err(|refusal| refusal.reason), Err(Reason::Revoked));
    assert_eq!(machine.last_good().map(|position| position.seq), Some(Seq(1)));
}

#[test]
fn t73_somebody_who_was_removed_stays_out_when_health_goes_back() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    healthy(&mut machine);
    let people = lab.people_kdl("commit", 1).lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
    lab.change("ada", "trust/people.kdl", &people.replace(" \"bob\"", ""));
    lab.accepted(&mut machine);
    let from = machine.accepted().step;
    let order = Order {
        action: Action::Revert { from, to: Seq(0) },
        by: "health".into(),
        until: None,
        reason: "the API server does not answer".into(),
    };
    machine.order(order, Clock::default()).expect("because step 0 was healthy");
    assert!(matches!(machine.wanted(Clock::default()), Wanted::Overridden(position, _) if position.seq == Seq(0)));
    assert_eq!(machine.accepted().step, from, "accepted never moves back");
    let accepted = recall(&machine, &lab.objects(), machine.accepted().seq).expect("because it is accepted");
    let table = access_table(accepted.cluster(), accepted.position(), accepted.policy(), BTreeMap::new());
    assert!(table.people.keys().all(|name| name.as_str() != "bob"), "people are read from accepted");
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.refused(&mut machine, Reason::UnknownKey);
    // The next step ends the revert.
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    assert!(matches!(machine.wanted(Clock::default()), Wanted::Accepted(_)));
}

#[test]
fn t58_a_floor_only_rises_and_nothing_below_it_is_gone_back_to() {
    let lab = Lab::with_policy("floor image=3\n");
    let mut machine = lab.machine();
    healthy(&mut machine);
    assert_eq!(machine.floors().image, 3);
    for lower in ["floor image=2\n", ""] {
        lab.change("ada", "trust/root.kdl", &lab.root_with(lower));
        lab.refused(&mut machine, Reason::BelowFloor);
        lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    }
    lab.change("ada", "trust/root.kdl", &lab.root_with("floor image=4 seq=1\n"));
    lab.accepted(&mut machine);
    // Dressed as a revert: the commit that takes the change back, and going back to what was before it.
    lab.git(&["revert", "--no-commit", "HEAD"]);
    lab.commit_index(&Make { signer: Some("ada"), message: format!("revert\n\n{}\n", target()) }, &[]);
    lab.refused(&mut machine, Reason::BelowFloor);
    assert_eq!(machine.may_revert(Seq(0)).map_err(|refusal| refusal.reason), Err(Reason::BelowFloor));
}

#[test]
fn holds_and_pins_end_and_are_kept_as_a_chain_of_hashes() {
    let lab = Lab::with_policy("");
    let mut machine = lab.machine();
    healthy(&mut machine);
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    healthy(&mut machine);
    let noon = time("2026-06-01T12:00:00Z");
    let order = |action, until| Order { action, until, by: "bob".into(), reason: "bad config".into() };
    for until in [None, Some(noon), Some(noon + SignedDuration::from_hours(7 * 24 + 1))] {
        let refused =
            machine.clone().order(order(Action::Hold, until), Clock::at(noon)).expect_err("because of its end");
        assert_eq!(refused.reason, Reason::Limit);
    }
    let end = noon + SignedDuration::from_hours(4);
    machine.order(order(Action::Pin { seq: Seq(0) }, Some(end)), Clock::at(noon)).expect("because step 0 is good");
    let seq = |machine: &TrustState, clock| machine.wanted(clock).position().seq;
    assert_eq!(seq(&machine, Clock::at(noon)), Seq(0));
    assert_eq!(seq(&machine, Clock::default()), Seq(0), "what an operator stopped does not start by itself");
    assert_eq!(seq(&machine, Clock::at(end)), Seq(1));
    machine.order(order(Action::Resume, None), Clock::at(noon)).expect("because anybody may resume");
    assert_eq!(seq(&machine, Clock::at(noon)), Seq(1));
    let json = String::from_utf8(machine.to_json()).expect("because JSON is text");
    let forged = json.replace("\"by\":\"bob\"", "\"by\":\"ada\"");
    assert_ne!(json, forged);
    assert_eq!(TrustState::from_json(forged.as_bytes()).map_err(|refusal| refusal.reason), Err(Reason::Parse));
}
