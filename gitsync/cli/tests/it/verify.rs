//! `cairnctl verify`: one answer for checkouts, bare repositories and CI, with an exit code that tells refused from unknown.

use crate::lab::{Lab, Said};
use jiff::{SignedDuration, Timestamp};

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: example}\ndata: {a: b}\n";

#[test]
fn a_signed_chain_is_accepted_step_by_step() {
    let lab = Lab::new();
    let commit = lab.change("apps/a.yaml", MAP, &[]);
    let said = lab.cairnctl(&lab.demo(), &["verify", "-o", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let report = said.json();
    assert_eq!((report["verdict"].as_str(), report["tip"].as_str()), (Some("accepted"), Some(commit.as_str())));
    assert_eq!(report["steps"][0]["signer"], "ada");
    assert_eq!(report["steps"][0]["changes"][0]["path"], "apps/a.yaml");
    let objects = report["content"]["objects"].as_array().expect("because the content was read");
    assert!(objects.iter().any(|object| object["object"] == "ConfigMap example/a"), "{objects:?}");
    let text = lab.cairnctl(&lab.demo().join("apps"), &["verify"]).good();
    assert!(text.contains(&commit[..12]) && text.contains("accepted: a machine would run this"), "{text}");
}

#[test]
fn an_unsigned_commit_is_refused_with_reason_commit_path_rule_and_next_step() {
    let lab = Lab::new();
    let good = lab.change("apps/a.yaml", MAP, &[]);
    let bad = lab.change("apps/b.yaml", &MAP.replace("name: a", "name: b"), &["--no-gpg-sign"]);
    let said = lab.cairnctl(&lab.demo(), &["verify", "-o", "json"]);
    assert_eq!(said.code, 1, "{said:?}");
    let report = said.json();
    assert_eq!(report["verdict"], "refused");
    assert_eq!(report["steps"].as_array().map(Vec::len), Some(1), "what passed below stands");
    assert_eq!(report["steps"][0]["commit"], good.as_str());
    let refusal = &report["refusal"];
    assert_eq!((&refusal["reason"], &refusal["commit"]), (&"UnderThreshold".into(), &bad.as_str().into()));
    assert_eq!((&refusal["path"], &refusal["rule"]), (&"apps/b.yaml".into(), &"apps".into()));
    let text = lab.cairnctl(&lab.demo(), &["verify"]);
    assert_eq!(text.code, 1);
    for words in ["UnderThreshold", &bad, "apps/b.yaml", "git commit --amend -S"] {
        assert!(text.out.contains(words), "{words} is not in {}", text.out);
    }
    let earlier = lab.cairnctl(&lab.demo(), &["verify", "--commit", "HEAD~1"]);
    assert_eq!(earlier.code, 0, "{earlier:?}");
}

#[test]
fn a_mistake_in_the_content_is_refused_with_file_and_line() {
    let lab = Lab::new();
    lab.change("apps/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  nmae: a\n", &[]);
    let said = lab.cairnctl(&lab.demo(), &["verify"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("apps/a.yaml:3:1"), "{}", said.out);
}

#[test]
fn a_bare_repository_is_judged_from_an_introduction_that_ci_holds() {
    let lab = Lab::new();
    lab.change("apps/a.yaml", MAP, &[]);
    lab.git(lab.root(), &["clone", "-q", "--bare", "demo", "bare.git"]);
    let unknown = lab.cairnctl(lab.root(), &["verify", "bare.git"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.err.contains("--introduction"), "{}", unknown.err);
    let file = "demo/.git/cairn-introduction.json";
    let said = lab.cairnctl(lab.root(), &["verify", "bare.git", "--introduction", file, "--ref", "refs/heads/main"]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = lab.cairnctl(lab.root(), &["verify", "bare.git", "--introduction", file, "--ref", "refs/heads/none"]);
    assert_eq!(said.code, 2, "{said:?}");
}

#[test]
fn a_shallow_clone_cannot_tell() {
    let lab = Lab::new();
    lab.change("apps/a.yaml", MAP, &[]);
    lab.change("apps/b.yaml", &MAP.replace("name: a", "name: b"), &[]);
    let url = format!("file://{}", lab.demo().display());
    lab.git(lab.root(), &["clone", "-q", "--depth", "1", &url, "shallow"]);
    let file = "demo/.git/cairn-introduction.json";
    let said = lab.cairnctl(lab.root(), &["verify", "shallow", "--introduction", file]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.out.contains("MissingObject"), "{}", said.out);
}

#[test]
fn t34_replace_refs_and_grafts_are_not_believed() {
    let lab = Lab::new();
    let good = lab.change("apps/a.yaml", MAP, &[]);
    let bad = lab.change("apps/b.yaml", &MAP.replace("name: a", "name: b"), &["--no-gpg-sign"]);
    let demo = lab.demo();
    // git now shows the good commit wherever the bad one is asked for ...
    lab.git(&demo, &["replace", &bad, &good]);
    assert_eq!(lab.git(&demo, &["log", "-1", "--format=%s", "main"]), "apps/a.yaml");
    assert_eq!(lab.cairnctl(&demo, &["verify"]).code, 1, "the replacement was believed");
    lab.git(&demo, &["replace", "-d", &bad]);
    // ... and here that the bad commit has no parent at all.
    lab.write(&demo.join(".git/info/grafts"), &format!("{bad}\n"));
    let said = lab.cairnctl(&demo, &["verify", "-o", "json"]);
    assert_eq!(said.json()["refusal"]["reason"], "UnderThreshold", "{said:?}");
    assert_eq!(said.json()["steps"].as_array().map(Vec::len), Some(1));
}

#[test]
fn t87_another_introduction_than_the_repositorys_is_refused() {
    let lab = Lab::new();
    lab.change("apps/a.yaml", MAP, &[]);
    let file = lab.demo().join(".git/cairn-introduction.json");
    let text = std::fs::read_to_string(&file).expect("because init wrote it");
    let mut introduction: serde_json::Value = serde_json::from_str(&text).expect("because it is JSON");
    introduction["policy"] = introduction["tree"].clone();
    lab.write(&file, &introduction.to_string());
    let said = lab.cairnctl(&lab.demo(), &["verify", "-o", "json"]);
    assert_eq!((said.code, said.json()["refusal"]["reason"].clone()), (1, "IntroductionConflict".into()), "{said:?}");
}

#[test]
fn t56_a_commit_that_deletes_more_than_a_rules_budget_is_refused_before_it_is_merged() {
    let lab = Lab::new();
    let map = |number: u32| MAP.replace("name: a", &format!("name: a{number}"));
    for number in 0..21 {
        lab.write(&lab.demo().join(format!("apps/a{number}.yaml")), &map(number));
    }
    let applied = lab.change("apps/a21.yaml", &map(21), &[]);
    lab.git(&lab.demo(), &["rm", "-q", "apps/a0.yaml"]);
    let one = lab.change("docs/one.md", "1\n", &[]);
    let said = lab.cairnctl(&lab.demo(), &["verify", "--applied", &applied, "-o", "json"]).json();
    assert_eq!(
        (&said["verdict"], &said["deleted"]),
        (&"accepted".into(), &serde_json::json!(["ConfigMap example/a0 (apps/a0.yaml)"]))
    );
    // One more than twenty, also when it is done in many commits: the difference from what runs counts.
    lab.git(&lab.demo(), &["rm", "-q", "apps/a1.yaml"]);
    lab.change("docs/two.md", "2\n", &[]);
    lab.git(&lab.demo(), &["rm", "-q", "-r", "apps"]);
    lab.change("docs/all.md", "3\n", &[]);
    for base in [&applied, &one] {
        let said = lab.cairnctl(&lab.demo(), &["verify", "--applied", base, "-o", "json"]);
        let refusal = &said.json()["refusal"];
        assert_eq!(
            (said.code, &refusal["reason"], &refusal["rule"]),
            (1, &"Budget".into(), &"apps".into()),
            "{said:?}"
        );
    }
}

#[test]
fn a_branch_that_is_not_known_to_be_fresh_has_an_exit_code_of_its_own() {
    let lab = Lab::new();
    lab.key("robot");
    let robot = format!("principal \"robot\" {{ key \"{}\" {{ use \"fresh\"; }}; }}\n", lab.public_key("robot"));
    lab.write(&lab.demo().join("trust/robots.kdl"), &robot);
    let root = std::fs::read_to_string(lab.demo().join("trust/root.kdl")).expect("because init wrote it");
    lab.change("trust/root.kdl", &format!("{root}freshness life=\"24h\"\n"), &[]);
    let verify = |more: &[&str]| lab.cairnctl(&lab.demo(), &[&["verify", "-o", "json"], more].concat());
    let not_fresh = |said: &Said, reason: &str| {
        let report = said.json();
        assert_eq!((said.code, &report["freshness"]["refusal"]["reason"]), (3, &reason.into()), "{said:?}");
        assert_eq!(report["verdict"], "accepted", "what passed has passed: {said:?}");
    };
    not_fresh(&verify(&[]), "FreshnessUnproven");
    assert_eq!(verify(&["--commit", "HEAD"]).code, 0, "a proposal is nobody's news yet");

    let robot = lab.path("robot");
    let robot = robot.to_str().expect("because the path is text");
    let beacon = || lab.cairnctl(&lab.demo(), &["beacon", "--ssh-key", robot]).good();
    let before = Timestamp::now();
    beacon();
    let said = verify(&[]);
    assert_eq!((said.code, &said.json()["freshness"]["fresh"]), (0, &true.into()), "{said:?}");
    let at = |hours: i64| (before + SignedDuration::from_hours(hours)).to_string();
    not_fresh(&verify(&["--at", &at(2)]), "SourceStale");
    not_fresh(&verify(&["--at", &at(-2)]), "FreshnessUnproven");
    let text = lab.cairnctl(&lab.demo(), &["verify", "--at", &at(2)]);
    assert!(text.out.contains("SourceStale") && text.out.contains("next: "), "{text:?}");

    // The robot knows a newer step than the branch shows.
    lab.change("docs/a.md", "a\n", &[]);
    beacon();
    assert_eq!(verify(&[]).code, 0);
    lab.git(&lab.demo(), &["reset", "-q", "--hard", "HEAD~1"]);
    not_fresh(&verify(&[]), "SourceWithheld");
}
