//! Release statements: approvals that name the step, counted together with the commit's own signature.

use crate::lab::{CLUSTER, Lab, Make, target};
use gitsync_verify::statement::{Intent, RELEASE_TRAILER, Release};
use gitsync_verify::{Clock, Reason, SignedStatement, Statement, TrustState};
use machined_ids::{ClusterId, Epoch, Seq, StepId, TreeHash};

/// A policy whose rule `apps` asks for two of ada and bob, and a commit on top of it that nobody signed.
fn unsigned(threshold: u32) -> (Lab, TrustState) {
    let lab = Lab::empty("sha1");
    lab.found();
    lab.change("ada", "trust/people.kdl", &lab.people_kdl("commit\" \"statement", threshold));
    let root = lab.root_kdl(&["ada"]).replace("\"commit\" ", "\"commit\" \"statement\" ");
    lab.change("ada", "trust/root.kdl", &root);
    let machine = lab.machine();
    lab.write("apps/a.yaml", "a: 1\n");
    lab.commit(&Make { signer: None, message: "change\n".into() });
    (lab, machine)
}

#[test]
fn two_approvals_by_statement_carry_an_unsigned_commit() {
    let (lab, mut machine) = unsigned(2);
    lab.approve("ada", &machine);
    lab.refused(&mut machine, Reason::UnderThreshold);
    lab.approve("bob", &machine);
    let step = lab.accepted(&mut machine).expect("because both approved it");
    assert_eq!(step.statements().len(), 2);
    assert_eq!(step.approvals().len(), 2);
}

#[test]
fn a_signature_and_a_statement_count_together_and_a_person_once() {
    let (lab, mut machine) = unsigned(2);
    lab.commit_index(&Make { signer: Some("ada"), message: format!("x\n\n{}\n", target()) }, &["--amend"]);
    lab.approve("ada", &machine);
    let refusal = lab.refused(&mut machine, Reason::UnderThreshold);
    assert!(refusal.message.contains("1 of 2"), "{}", refusal.message);
    lab.approve("bob", &machine);
    assert!(lab.accepted(&mut machine).is_some());
}

#[test]
fn a_merge_by_anybody_passes_when_statements_meet_the_threshold() {
    let (lab, mut machine) = unsigned(1);
    lab.git(&["branch", "side"]);
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    // What a forge does when somebody presses the button: a merge commit of its own, unsigned or signed by its own key.
    for signer in [None, Some("forge")] {
        lab.git(&["merge", "-q", "--no-commit", "--no-ff", "side"]);
        lab.commit_index(&Make { signer, message: "Merge pull request #1\n".into() }, &[]);
        let mut machine = machine.clone();
        lab.statements.borrow_mut().clear();
        lab.refused(&mut machine, if signer.is_some() { Reason::UnknownKey } else { Reason::UnderThreshold });
        lab.approve("bob", &machine);
        let step = lab.accepted(&mut machine).expect("because bob approved it");
        assert_eq!(step.position().signer.as_ref().map(|name| name.as_str()), Some("bob"));
        lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    }
    assert_eq!(lab.accepted(&mut machine), None, "nothing is left on the branch");
}

#[test]
fn t28_a_forges_merge_key_alone_is_nobody() {
    let (lab, mut machine) = unsigned(1);
    lab.commit_index(&Make { signer: Some("forge"), message: format!("x\n\n{}\n", target()) }, &["--amend"]);
    lab.refused(&mut machine, Reason::UnknownKey);
}

#[test]
fn t62_a_statement_in_a_trailer_holds_for_every_commit_of_the_step() {
    let (lab, mut machine) = unsigned(1);
    let statement = lab.sign_statement("bob", &Statement::Release(lab.release(&machine)));
    let message = |text: &str| format!("{text}\n\n{RELEASE_TRAILER}: {}\n", statement.to_trailer());
    lab.commit_index(&Make { signer: None, message: message("one") }, &["--amend"]);
    let first = lab.accepted(&mut machine).expect("because bob approved it");
    lab.commit_index(&Make { signer: None, message: message("wrapped again") }, &["--amend"]);
    let twin = lab.accepted(&mut machine).expect("because it is the same step");
    assert_eq!(first.position().step, twin.position().step);
    assert_ne!(first.position().commit, twin.position().commit);
}

#[test]
fn t25_t8_an_approval_for_anything_else_is_worth_nothing() {
    let (lab, mut machine) = unsigned(1);
    let good = lab.release(&machine);
    let wrong = [
        ("cluster", Release { cluster: ClusterId::from_bytes([9; 16]), ..good.clone() }),
        ("ref", Release { deploy_ref: "refs/heads/prod".to_owned().try_into().expect("a branch"), ..good.clone() }),
        ("epoch", Release { epoch: Epoch(1), ..good.clone() }),
        ("seq", Release { seq: Seq(2), ..good.clone() }),
        ("seq", Release { seq: Seq(0), ..good.clone() }),
        ("parent", Release { parent: StepId::from_bytes([9; 32]), ..good.clone() }),
        ("step", Release { step: StepId::from_bytes([9; 32]), ..good.clone() }),
        ("policy", Release { policy: TreeHash::from_bytes([9; 32]), ..good.clone() }),
    ];
    for (field, release) in wrong {
        lab.statements.replace(vec![lab.sign_statement("bob", &Statement::Release(release))]);
        let refusal = lab.refused(&mut machine, Reason::WrongTarget);
        assert!(refusal.message.contains(&format!("another {field} ")), "{field}: {}", refusal.message);
    }
    lab.statements.replace(vec![lab.sign_statement("bob", &Statement::Release(good))]);
    assert!(lab.accepted(&mut machine).is_some());
}

#[test]
fn t25_an_ended_approval_brings_nothing_new_in_and_holds_below_a_good_tip() {
    let (lab, mut machine) = unsigned(1);
    let end: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("because it is a time");
    let release = Release { not_after: Some(end), ..lab.release(&machine) };
    lab.statements.replace(vec![lab.sign_statement("bob", &Statement::Release(release))]);
    let late = Clock::at(end + jiff::SignedDuration::from_secs(1));
    lab.clock.set(late);
    lab.refused(&mut machine, Reason::Expired);
    // Without a trusted time, and in time, it counts.
    for clock in [Clock::default(), Clock::at(end)] {
        lab.clock.set(clock);
        assert!(lab.accepted(&mut machine.clone()).is_some());
    }
    // Junk on top does not make it history.
    lab.clock.set(late);
    lab.write("apps/a.yaml", "a: junk\n");
    lab.commit(&Make { signer: None, message: "junk".into() });
    lab.refused(&mut machine, Reason::Expired);
    // A good step on top does.
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.change("bob", "apps/a.yaml", "a: 2\n");
    assert!(lab.accepted(&mut machine).is_some());
    assert_eq!(machine.accepted().seq, Seq(2));
}

#[test]
fn a_statement_takes_a_key_for_statements() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.write("apps/a.yaml", "a: 1\n");
    lab.commit(&Make { signer: None, message: "x".into() });
    lab.approve("bob", &machine);
    lab.refused(&mut machine, Reason::WrongUse);
    lab.statements.borrow_mut().clear();
    lab.approve("mallory", &machine);
    lab.refused(&mut machine, Reason::UnknownKey);
}

#[test]
fn a_break_glass_statement_is_no_ordinary_approval() {
    let (lab, mut machine) = unsigned(1);
    let release = Release { intent: Intent::Breakglass, ..lab.release(&machine) };
    lab.statements.replace(vec![lab.sign_statement("bob", &Statement::Release(release))]);
    lab.refused(&mut machine, Reason::UnderThreshold);
}

#[test]
fn t15_a_statement_is_signed_under_its_own_namespace() {
    let (lab, machine) = unsigned(1);
    let body = Statement::Release(lab.release(&machine)).body();
    for namespace in ["git", "file", "cairn.fresh.v1", "cairn.login.v1"] {
        let armour = lab.sign("bob", namespace, body.as_bytes());
        let refusal = SignedStatement::join(&body, &armour).expect_err("because it is for another purpose");
        assert_eq!(refusal.reason, Reason::WrongNamespace, "{namespace}");
    }
}

#[test]
fn a_statement_has_one_text() {
    let (lab, machine) = unsigned(1);
    let body = Statement::Release(lab.release(&machine)).body();
    let crooked = [
        body.replace("seq 1\n", "seq 01\n"),
        body.replace("seq 1\n", "seq +1\n"),
        body.replace("not-after never", "not-after 2026-01-01T00:00:00.5Z"),
        body.replace("not-after never", "not-after 2026-01-01T01:00:00+01:00"),
        body.replace("intent release", "intent Release"),
        body.replace(CLUSTER, &CLUSTER.to_uppercase()),
        body.replace("seq 1\n", ""),
        format!("{body}\n"),
        format!("{body}extra 1\n"),
        format!("\n{body}"),
        body.replace('\n', "\r\n"),
        body.lines().rev().map(|line| format!("{line}\n")).collect(),
    ];
    for body in crooked {
        let armour = lab.sign("bob", "cairn.release.v1", body.as_bytes());
        let refusal = SignedStatement::join(&body, &armour).expect_err("because it is another text");
        assert_eq!(refusal.reason, Reason::NonCanonical, "{body:?}");
    }
    let armour = lab.sign("bob", "cairn.release.v1", body.as_bytes());
    for crooked in [format!("{armour}\n"), format!("{armour}x"), armour.replace('\n', "\r\n")] {
        assert!(SignedStatement::join(&body, &crooked).is_err(), "{crooked:?} was taken");
    }
    assert!(SignedStatement::join(&body, &armour).is_ok());
    let other =
        SignedStatement::join(&body.replace("seq 1\n", "seq 2\n"), &armour).expect_err("because it was changed");
    assert_eq!(other.reason, Reason::BadSignature);
    let long = SignedStatement::parse(&vec![b'x'; 4097]).expect_err("because it is long");
    assert_eq!(long.reason, Reason::Limit);
}
