//! Attacks on history: what continues the accepted chain, and what only looks as if it did.

use crate::lab::{Lab, Make, target};
use gitsync_verify::{Introduction, Reason, TrustState, introduce, recall};

fn signed(subject: &str) -> String {
    format!("{subject}\n\n{}\n", target())
}

#[test]
fn a_signed_chain_is_accepted_step_by_step() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("ada", "apps/web/deploy.yaml", "replicas: 2\n");
    lab.change("bob", "apps/web/service.yaml", "port: 80\n");
    let tip = lab.accepted(&mut machine).expect("because there are new steps");
    assert_eq!(tip.position().seq.0, 2);
    assert_eq!(tip.position().signer.as_ref().map(|name| name.as_str()), Some("bob"));
    assert_eq!(tip.changes().len(), 1);
    let files = tip.files(&lab.objects()).expect("because all objects are there");
    assert_eq!(files.get("apps/web/deploy.yaml"), Some(&b"replicas: 2\n"[..]));
}

#[test]
fn a_sha256_repository_is_judged_alike() {
    let lab = Lab::empty("sha256");
    lab.found();
    let mut machine = lab.machine();
    lab.change("bob", "apps/web/deploy.yaml", "replicas: 2\n");
    assert!(lab.accepted(&mut machine).is_some());
    lab.write("apps/web/deploy.yaml", "replicas: 3\n");
    lab.commit(&Make { signer: None, message: "unsigned".into() });
    lab.refused(&mut machine, Reason::UnderThreshold);
}

#[test]
fn nothing_new_is_nothing_to_do() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    assert_eq!(lab.accepted(&mut machine), None);
}

#[test]
fn t88_the_state_survives_being_written_down_and_a_newer_one_is_left_alone() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    let step = lab.accepted(&mut machine).expect("because it is new");
    assert_eq!(machine.activate(&step.position().step).map(|generation| generation.0), Some(1));
    assert_eq!(machine.activate(&gitsync_verify::root_step(machine.introduction())), None, "no step of the history");
    let read = TrustState::from_json(&machine.to_json()).expect("because it was just written");
    assert_eq!(read, machine);
    let again = recall(&read, &lab.objects(), read.accepted().seq).expect("because it was accepted");
    assert_eq!(again.position(), step.position());
    let newer =
        String::from_utf8(machine.to_json()).expect("because JSON is text").replace("\"version\":2", "\"version\":3");
    assert_eq!(TrustState::from_json(newer.as_bytes()).map_err(|r| r.reason), Err(Reason::NewerState));
}

#[test]
fn t1_an_older_signed_commit_is_a_rollback() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let old = lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.change("ada", "apps/a.yaml", "a: 2\n");
    lab.accepted(&mut machine);
    lab.git(&["update-ref", crate::lab::REF, old.as_str()]);
    lab.refused(&mut machine, Reason::NotDescendant);
}

#[test]
fn t2_a_force_pushed_sibling_is_refused() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let base = lab.head();
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    lab.git(&["reset", "-q", "--hard", base.as_str()]);
    lab.change("ada", "apps/a.yaml", "a: other\n");
    lab.refused(&mut machine, Reason::NotDescendant);
}

#[test]
fn t3_a_commit_signed_for_another_branch_is_refused() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.write("apps/a.yaml", "work: in-progress\n");
    let message = format!("wip\n\nCairn-Target: {} refs/heads/wip\n", crate::lab::CLUSTER);
    lab.commit(&Make { signer: Some("ada"), message });
    lab.refused(&mut machine, Reason::WrongTarget);
    lab.git(&["reset", "-q", "--soft", "HEAD~1"]);
    lab.commit(&Make { signer: Some("ada"), message: "wip without any target".into() });
    lab.refused(&mut machine, Reason::WrongTarget);
}

#[test]
fn t3_a_policy_may_accept_commits_without_a_target() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let root = lab.root_kdl(&["ada"]).replace("version 1\n", "version 1\nbinding \"plain\"\n");
    lab.change("ada", "trust/root.kdl", &root);
    lab.accepted(&mut machine);
    lab.write("apps/a.yaml", "a: 1\n");
    lab.commit(&Make { signer: Some("ada"), message: "no target".into() });
    assert!(lab.accepted(&mut machine).is_some());
}

#[test]
fn t4_a_commit_of_another_cluster_with_the_same_keys_is_refused() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.write("apps/a.yaml", "a: 1\n");
    let message = format!("x\n\nCairn-Target: {} {}\n", "f".repeat(32), crate::lab::REF);
    lab.commit(&Make { signer: Some("ada"), message });
    lab.refused(&mut machine, Reason::WrongTarget);
}

#[test]
fn t5_a_merge_counts_by_its_first_parent_only() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let base = lab.head();
    lab.git(&["checkout", "-q", "-b", "attacker"]);
    lab.change("mallory", "apps/a.yaml", "a: bad\n");
    lab.git(&["checkout", "-q", "main"]);
    let real = lab.change("ada", "apps/b.yaml", "b: 1\n");
    lab.accepted(&mut machine);
    // The merge's first parent is the attacker's commit, the real tip is only its second.
    lab.git(&["checkout", "-q", "attacker"]);
    lab.git(&["merge", "-q", "--no-commit", "--no-ff", real.as_str()]);
    let merge = lab.commit_index(&Make { signer: Some("ada"), message: signed("merge") }, &[]);
    lab.git(&["update-ref", crate::lab::REF, merge.as_str()]);
    assert_ne!(base, merge);
    lab.refused(&mut machine, Reason::NotDescendant);
}

#[test]
fn an_unsigned_side_branch_comes_in_through_a_signed_merge() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.git(&["checkout", "-q", "-b", "side"]);
    lab.write("apps/a.yaml", "a: 1\n");
    lab.commit(&Make { signer: None, message: "contribution".into() });
    lab.git(&["checkout", "-q", "main"]);
    lab.git(&["merge", "-q", "--no-commit", "--no-ff", "side"]);
    lab.commit_index(&Make { signer: Some("bob"), message: signed("merge") }, &[]);
    let merge = lab.accepted(&mut machine).expect("because bob answers for the whole difference");
    assert_eq!(merge.position().seq.0, 1);
}

#[test]
fn t6_a_side_branch_cannot_bring_the_key_that_signs_its_merge() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.git(&["checkout", "-q", "-b", "side"]);
    lab.write("trust/root.kdl", &lab.root_kdl(&["ada", "mallory"]));
    lab.commit(&Make { signer: None, message: "add me".into() });
    lab.git(&["checkout", "-q", "main"]);
    lab.git(&["merge", "-q", "--no-commit", "--no-ff", "side"]);
    lab.commit_index(&Make { signer: Some("mallory"), message: signed("merge") }, &[]);
    lab.refused(&mut machine, Reason::SelfAuthorised);
}

#[test]
fn t7_a_commit_cannot_use_the_policy_that_it_brings() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    // bob makes himself root in the same step.
    lab.write("trust/root.kdl", &lab.root_kdl(&["ada", "bob"]));
    lab.write(
        "trust/people.kdl",
        &lab.people_kdl("commit", 1).lines().skip(1).map(|l| format!("{l}\n")).collect::<String>(),
    );
    lab.commit(&Make { signer: Some("bob"), message: signed("promote me") });
    lab.refused(&mut machine, Reason::RootThreshold);
}

#[test]
fn t9_an_empty_commit_takes_somebody_whom_a_rule_names() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.commit(&Make { signer: None, message: "nothing".into() });
    lab.refused(&mut machine, Reason::UnderThreshold);
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.commit(&Make { signer: Some("bob"), message: signed("nothing, signed") });
    assert_eq!(lab.accepted(&mut machine).expect("because bob is of role dev").position().seq.0, 1);
}

#[test]
fn t9_an_octopus_is_one_step_along_its_first_parent() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    for side in ["one", "two"] {
        lab.git(&["checkout", "-q", "-b", side, "main"]);
        lab.write(&format!("apps/{side}.yaml"), "a: 1\n");
        lab.commit(&Make { signer: None, message: side.into() });
    }
    lab.git(&["checkout", "-q", "main"]);
    lab.git(&["merge", "-q", "--no-commit", "--no-ff", "one", "two"]);
    lab.commit_index(&Make { signer: Some("bob"), message: signed("octopus") }, &[]);
    assert_eq!(lab.accepted(&mut machine).expect("because bob signed it").position().seq.0, 1);
}

#[test]
fn t63_an_amended_message_is_the_same_step_and_no_freeze() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    let first = lab.accepted(&mut machine).expect("because it is new");
    lab.commit_index(&Make { signer: Some("ada"), message: signed("better words") }, &["--amend"]);
    let twin = lab.accepted(&mut machine).expect("because a twin takes its place");
    assert_eq!(twin.position().step, first.position().step);
    assert_ne!(twin.position().commit, first.position().commit);
    lab.change("bob", "apps/a.yaml", "a: 2\n");
    assert_eq!(lab.accepted(&mut machine).expect("because it continues the twin").position().seq.0, 2);
}

#[test]
fn t61_a_child_of_an_unsigned_twin_converges() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    // A host strips the signature: another commit, the same step; it gains nothing, and loses nothing either.
    lab.commit_index(&Make { signer: None, message: "mangled".into() }, &["--amend"]);
    lab.change("bob", "apps/a.yaml", "a: 2\n");
    let tip = lab.accepted(&mut machine).expect("because the twin is the accepted step");
    assert_eq!(tip.position().seq.0, 2);
    let twin = &machine.history()[1];
    assert_eq!(twin.signer.as_ref().map(|name| name.as_str()), Some("ada"), "the step stays with who signed it");
}

#[test]
fn t61_an_unsigned_twin_of_a_step_that_is_not_accepted_yet_is_refused() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.commit_index(&Make { signer: None, message: "mangled".into() }, &["--amend"]);
    lab.refused(&mut machine, Reason::UnderThreshold);
}

#[test]
fn t64_the_same_introduction_for_another_branch_has_other_steps() {
    let lab = Lab::new();
    let main = lab.introduction(&lab.head());
    let json = main.to_json().replace("refs/heads/main", "refs/heads/prod");
    let prod = Introduction::from_json(json.as_bytes()).expect("because only the branch changed");
    let step = |introduction| introduce(introduction, &lab.objects()).expect("because it is good").0.accepted().step;
    assert_ne!(step(&main), step(&prod));
    // And a commit signed for main is not one for prod.
    let mut machine = introduce(&prod, &lab.objects()).expect("because it is good").0;
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.refused(&mut machine, Reason::WrongTarget);
}

#[test]
fn an_introduction_to_other_bytes_is_a_conflict() {
    let lab = Lab::new();
    let mut introduction = lab.introduction(&lab.head());
    introduction.commit_sha256 = machined_ids::Digest::from_bytes([0; 32]);
    let refusal = introduce(&introduction, &lab.objects()).expect_err("because the hash differs");
    assert_eq!(refusal.reason, Reason::IntroductionConflict);
}

#[test]
fn a_bad_tip_does_not_hold_back_what_is_good_below_it() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let good = lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.write("apps/a.yaml", "a: bad\n");
    let bad = lab.commit(&Make { signer: None, message: "junk on top".into() });
    let refusal = lab.sync(&mut machine).expect("because the tip is unsigned");
    assert_eq!((refusal.reason, refusal.commit), (Reason::UnderThreshold, Some(bad)));
    assert_eq!(machine.accepted().commit, good);
}

#[test]
fn t93_an_unauthorised_tip_is_repaired_by_a_signed_merge() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let good = lab.head();
    lab.write("apps/a.yaml", "a: bad\n");
    let bad = lab.commit(&Make { signer: None, message: "unsigned on a protected branch".into() });
    lab.refused(&mut machine, Reason::UnderThreshold);
    // A merge whose first parent is accepted and whose second is the bad tip: a fast-forward for the git host.
    lab.git(&["checkout", "-q", good.as_str()]);
    lab.git(&["merge", "-q", "--no-commit", "--no-ff", "-s", "ours", bad.as_str()]);
    let repair = lab.commit_index(&Make { signer: Some("ada"), message: signed("repair") }, &[]);
    lab.git(&["update-ref", crate::lab::REF, repair.as_str()]);
    assert!(lab.accepted(&mut machine).is_some());
}

#[test]
fn t32_a_missing_blob_is_named_by_its_path() {
    let lab = Lab::new();
    let machine = lab.machine();
    let tip = lab.change("ada", "apps/a.yaml", "promised, never sent\n");
    let blob = lab.git(&["rev-parse", "HEAD:apps/a.yaml"]);
    std::fs::remove_file(lab.path().join(".git/objects").join(&blob[..2]).join(&blob[2..]))
        .expect("because it is a loose object");
    let chain = gitsync_verify::verify(&machine, &gitsync_verify::Offer::of(&tip, &lab.objects()))
        .expect("because the first step can be looked at");
    let refusal = chain.refused.expect("because a file is missing");
    assert_eq!((refusal.reason, refusal.path.as_deref()), (Reason::MissingObject, Some("apps/a.yaml")));
}

#[test]
fn t10_a_tag_is_never_read() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let old = lab.head();
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    // The old signed tag object is served under a newer tag's name, and then as the branch itself.
    lab.git(&["-c", "tag.gpgSign=false", "tag", "-a", "-m", "v1", "v1", old.as_str()]);
    let tag = lab.git(&["rev-parse", "refs/tags/v1"]);
    lab.git(&["update-ref", "refs/tags/v2", &tag]);
    assert_eq!(lab.accepted(&mut machine), None, "tags are nothing to it");
    let tag = machined_ids::CommitId::parse(&tag).expect("because git prints ids");
    let offer = gitsync_verify::verify(&machine, &gitsync_verify::Offer::of(&tag, &lab.objects()));
    assert_eq!(offer.map_err(|refusal| refusal.reason), Err(Reason::MissingObject), "no tag object is taken in");
}

#[test]
fn t12_a_branch_that_was_deleted_and_made_again_must_continue_the_old_one() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("ada", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    let accepted = lab.head();
    lab.git(&["checkout", "-q", "--orphan", "again"]);
    lab.git(&["update-ref", "-d", crate::lab::REF]);
    let again = lab.commit(&Make { signer: Some("ada"), message: signed("made again") });
    lab.git(&["update-ref", crate::lab::REF, again.as_str()]);
    lab.refused(&mut machine, Reason::NotDescendant);
    lab.git(&["update-ref", crate::lab::REF, accepted.as_str()]);
    assert_eq!(lab.accepted(&mut machine), None);
}

#[test]
fn t34_what_a_replace_ref_puts_in_an_objects_place_has_another_name() {
    let lab = Lab::new();
    let real = lab.change("ada", "apps/a.yaml", "a: 1\n");
    let evil = lab.change("mallory", "apps/a.yaml", "a: evil\n");
    lab.git(&["replace", real.as_str(), evil.as_str()]);
    let replaced = lab.raw(&real);
    assert_eq!(replaced, lab.raw(&evil), "git itself follows the replacement");
    let mut set = gitsync_verify::ObjectSet::new(gitsync_verify::ObjectFormat::Sha1);
    let id = gitsync_verify::ObjectId::of_commit(&real);
    let refusal =
        set.insert(id, gitsync_verify::ObjectKind::Commit, replaced).expect_err("because it has another hash");
    assert_eq!(refusal.reason, Reason::IdMismatch);
    assert!(set.is_empty());
}

#[test]
fn t41_of_a_stale_and_a_lying_mirror_the_longest_valid_chain_wins() {
    let lab = Lab::new();
    let machine = lab.machine();
    let stale = lab.change("ada", "apps/a.yaml", "a: 1\n");
    let good = lab.change("bob", "apps/a.yaml", "a: 2\n");
    lab.write("apps/a.yaml", "a: lie\n");
    let lying = lab.commit(&Make { signer: Some("mallory"), message: signed("lie") });
    let orders = [[&stale, &lying, &good], [&good, &stale, &lying], [&lying, &good, &stale]];
    for mirrors in orders {
        let mut machine = machine.clone();
        for tip in mirrors {
            lab.git(&["update-ref", crate::lab::REF, tip.as_str()]);
            let _what_this_mirror_was_refused_for = lab.sync(&mut machine);
        }
        assert_eq!(machine.accepted().commit, good);
    }
}

#[test]
fn t75_a_signed_typo_and_then_its_fix_converge() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("ada", "apps/a.yaml", "a: [unclosed\n");
    let mut ahead = machine.clone();
    lab.accepted(&mut ahead);
    lab.change("ada", "apps/a.yaml", "a: [closed]\n");
    // Content is judged at the target only, so the typo below it holds nobody up, whether or not it was seen.
    lab.accepted(&mut machine);
    lab.accepted(&mut ahead);
    assert_eq!(machine.accepted().step, ahead.accepted().step);
}
