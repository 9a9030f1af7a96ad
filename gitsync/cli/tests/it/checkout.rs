//! Checkouts: what `init`, `clone`, `init --fork` and `repair` leave behind, judged by `cairnctl verify`.

use crate::lab::Lab;
use std::path::PathBuf;

/// The demo repository with a bare one that it is pushed to.
fn served() -> (Lab, PathBuf) {
    let lab = Lab::new();
    lab.git(lab.root(), &["clone", "-q", "--bare", "demo", "served.git"]);
    lab.git(&lab.demo(), &["remote", "add", "origin", "../served.git"]);
    lab.git(&lab.demo(), &["push", "-q", "-u", "origin", "main"]);
    let served = lab.path("served.git");
    (lab, served)
}

#[test]
fn a_new_repository_is_accepted_as_it_is() {
    let lab = Lab::new();
    let report = lab.cairnctl(&lab.demo(), &["verify", "-o", "json"]);
    assert_eq!((report.code, report.json()["verdict"].clone()), (0, "accepted".into()), "{report:?}");
    assert_eq!(report.json()["content"]["objects"].as_array().map(Vec::len), Some(3), "the example is read");
    // What the comments of trust/policy.kdl say about notes holds.
    lab.change("LICENSE", "none\n", &[]);
    lab.change("docs/a.md", "a\n", &[]);
    assert_eq!(lab.cairnctl(&lab.demo(), &["verify"]).code, 0);
}

#[test]
fn the_team_in_the_policys_comments_works_once_it_is_uncommented() {
    let lab = Lab::new();
    lab.key("bob");
    let policy = std::fs::read_to_string(lab.demo().join("trust/policy.kdl")).expect("because init wrote it");
    let (text, team) = policy.split_once("//\n// principal").expect("because the example is a comment");
    let team = format!("principal{team}").replace("\n// ", "\n").replace("ssh-ed25519 AAAA...", &lab.public_key("bob"));
    lab.change("trust/policy.kdl", &format!("{text}\n{team}"), &[]);
    assert!(lab.cairnctl(&lab.demo(), &["verify"]).good().contains("accepted"));
    lab.change("apps/web/a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n", &[]);
    let said = lab.cairnctl(&lab.demo(), &["verify", "-o", "json"]);
    let refusal = &said.json()["refusal"];
    assert_eq!((&refusal["reason"], &refusal["rule"]), (&"UnderThreshold".into(), &"web".into()), "{said:?}");
}

#[test]
fn a_clone_signs_for_this_cluster_and_knows_whose_key_it_has() {
    let (lab, served) = served();
    let served = served.to_str().expect("because the temporary folder's name is text");
    let file = "demo/.git/cairn-introduction.json";
    let said = lab.cairnctl(lab.root(), &["clone", served, "work", "--ssh-key", "ada", "--introduction", file]).good();
    assert!(said.contains("your key is ada's") && said.contains("a machine would run its tip"), "{said}");
    assert!(!said.contains("nobody vouched"), "{said}");
    let work = lab.path("work");
    lab.write(&work.join("docs/a.md"), "a\n");
    lab.git(&work, &["add", "-A"]);
    lab.git(&work, &["commit", "-q", "-m", "a"]);
    assert_eq!(lab.cairnctl(&work, &["verify"]).code, 0, "hook and signing are set up");
}

#[test]
fn a_clone_without_an_introduction_says_what_it_believes_and_a_stranger_what_to_ask_for() {
    let (lab, served) = served();
    lab.change("docs/a.md", "a\n", &[]);
    lab.git(&lab.demo(), &["push", "-q"]);
    lab.key("bob");
    let served = served.to_str().expect("because the temporary folder's name is text");
    let said = lab.cairnctl(lab.root(), &["clone", served, "work", "--ssh-key", "bob"]).good();
    for words in ["nobody vouched", "cairnctl introduction", "nobody's in trust/", &lab.public_key("bob")] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    // It is the very introduction that ada has.
    let own = lab.cairnctl(&lab.path("work"), &["introduction"]).good();
    assert_eq!(own, lab.cairnctl(&lab.demo(), &["introduction"]).good());
}

#[test]
fn t4_a_fork_has_an_id_of_its_own_and_takes_none_of_the_old_clusters_commits() {
    let (lab, _) = served();
    lab.change("machines/README", "x\n", &[]);
    lab.git(lab.root(), &["clone", "-q", "demo", "staging"]);
    let said = lab.init_fork("staging", "staging").good();
    assert!(said.contains("begins cluster staging"), "{said}");
    let staging = lab.path("staging");
    assert!(!staging.join("machines").exists(), "machines of the other cluster are left out");
    assert_eq!(lab.cairnctl(&staging, &["verify"]).code, 0);
    // A commit of the old cluster on top of the fork: right key, wrong cluster.
    lab.write(&staging.join("docs/a.md"), "a\n");
    lab.git(&staging, &["add", "-A"]);
    let id = std::fs::read_to_string(lab.demo().join("cluster.kdl")).expect("because init wrote it");
    let id = id.split("id \"").nth(1).and_then(|rest| rest.get(..32)).expect("because the document has an id");
    let message = format!("a\n\nCairn-Target: {id} refs/heads/main");
    lab.git(&staging, &["-c", "core.hooksPath=/dev/null", "commit", "-q", "-m", &message]);
    let said = lab.cairnctl(&staging, &["verify", "-o", "json"]);
    assert_eq!(said.json()["refusal"]["reason"], "WrongTarget", "{said:?}");
}

#[test]
fn t93_repair_merges_over_an_unsigned_tip_without_force() {
    let (lab, served) = served();
    let demo = lab.demo();
    let nothing = lab.cairnctl(&demo, &["repair"]);
    assert_eq!(nothing.code, 1);
    assert!(nothing.err.contains("nothing to repair"), "{nothing:?}");
    let good = lab.change("docs/good.md", "good\n", &[]);
    let bad = lab.change("docs/bad.md", "bad\n", &["--no-gpg-sign"]);
    lab.git(&demo, &["push", "-q"]);
    let said = lab.cairnctl(&demo, &["repair"]).good();
    assert!(said.contains(&good[..12]) && said.contains(&bad[..12]), "{said}");
    let parents = lab.git(&served, &["log", "-1", "--format=%P", "main"]);
    assert_eq!(parents, format!("{good} {bad}"), "first parent accepted, second the bad tip");
    assert_eq!(lab.cairnctl(&demo, &["verify"]).code, 0);
    assert!(demo.join("docs/good.md").exists() && !demo.join("docs/bad.md").exists());
}

#[test]
fn t93_a_repair_by_somebody_without_authority_is_not_pushed() {
    let (lab, served) = served();
    let bad = lab.change("docs/bad.md", "bad\n", &["--no-gpg-sign"]);
    lab.git(&lab.demo(), &["push", "-q"]);
    lab.key("mallory");
    let key = lab.path("mallory");
    lab.git(&lab.demo(), &["config", "user.signingKey", key.to_str().expect("because the path is text")]);
    let said = lab.cairnctl(&lab.demo(), &["repair"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("UnknownKey"), "{}", said.err);
    assert_eq!(lab.git(&served, &["rev-parse", "main"]), bad, "the branch did not move");
}

#[test]
fn completions_and_help_know_every_command() {
    let lab = Lab::empty();
    let bash = lab.cairnctl(lab.root(), &["completion", "bash"]).good();
    for command in ["verify", "clone", "introduction", "repair"] {
        assert!(
            bash.contains(&format!("cairnctl__{command}")) || bash.contains(&format!("cairnctl__subcmd__{command}")),
            "{command}"
        );
        let help = lab.cairnctl(lab.root(), &[command, "--help"]).good();
        assert!(help.contains("Usage: cairnctl"), "{help}");
    }
}
