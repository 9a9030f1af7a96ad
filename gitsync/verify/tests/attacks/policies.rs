//! Attacks on the policy: who guards which path, and who guards the policy.

use crate::lab::{Lab, Make, target};
use gitsync_verify::{Files, Policy, Reason, access_table};
use std::collections::BTreeMap;

fn message() -> String {
    format!("change\n\n{}\n", target())
}

#[test]
fn a_path_that_no_rule_owns_is_refused() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("ada", "notes.txt", "x\n");
    let refusal = lab.refused(&mut machine, Reason::NoRule);
    assert_eq!(refusal.path.as_deref(), Some("notes.txt"));
}

#[test]
fn trust_changes_with_root_only() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.change("bob", "trust/people.kdl", &lab.people_kdl("commit", 1));
    lab.refused(&mut machine, Reason::RootThreshold);
}

#[test]
fn t65_a_shared_base_needs_everybody_who_reads_it() {
    let lab = Lab::new();
    let rules = "rule \"shared\" { owns \"shared/**\"; approval role=\"dev\" threshold=1; }\n\
                 rule \"production\" { owns \"production/**\"; reads \"shared/**\"; approval role=\"dev\" threshold=2; }\n";
    lab.change("ada", "trust/rules.kdl", rules);
    let mut machine = lab.machine();
    lab.change("bob", "shared/base.yaml", "a: 1\n");
    let refusal = lab.refused(&mut machine, Reason::UnderThreshold);
    assert_eq!(refusal.rule.as_deref(), Some("production"));
}

#[test]
fn t67_a_wildcard_does_not_let_a_machine_in() {
    let lab = Lab::new();
    lab.change("ada", "trust/all.kdl", "rule \"all\" { owns \"**\"; approval role=\"dev\" threshold=1; }\n");
    let mut machine = lab.machine();
    lab.change("bob", "machines/evil.kdl", "machine \"evil\"\n");
    let refusal = lab.refused(&mut machine, Reason::NoRule);
    assert_eq!(refusal.path.as_deref(), Some("machines/evil.kdl"));
}

#[test]
fn t91_a_file_renamed_out_of_a_protected_path_is_a_deletion_there() {
    let lab = Lab::new();
    let rules = "role \"ops\" { member \"ada\"; }\n\
                 rule \"secure\" { owns \"secure/**\"; approval role=\"ops\" threshold=1; }\n";
    lab.write("secure/policy.yaml", "deny: all\n");
    lab.change("ada", "trust/rules.kdl", rules);
    let mut machine = lab.machine();
    lab.git(&["mv", "secure/policy.yaml", "apps/policy.yaml"]);
    lab.commit(&Make { signer: Some("bob"), message: message() });
    let refusal = lab.refused(&mut machine, Reason::UnderThreshold);
    assert_eq!((refusal.path.as_deref(), refusal.rule.as_deref()), (Some("secure/policy.yaml"), Some("secure")));
}

#[test]
fn a_changed_mode_is_a_change() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.git(&["update-index", "--chmod=+x", "cluster.kdl"]);
    lab.commit_index(&Make { signer: Some("bob"), message: message() }, &[]);
    let refusal = lab.refused(&mut machine, Reason::NoRule);
    assert_eq!(refusal.path.as_deref(), Some("cluster.kdl"));
}

#[test]
fn t40_submodules_and_symlinks_are_refused() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let id = lab.head();
    lab.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},apps/sub")]);
    lab.commit_index(&Make { signer: Some("ada"), message: message() }, &[]);
    let refusal = lab.refused(&mut machine, Reason::BadEntry);
    assert_eq!(refusal.path.as_deref(), Some("apps/sub"));
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    std::os::unix::fs::symlink("/etc/shadow", lab.path().join("apps/link")).expect("because /tmp can be written");
    lab.commit(&Make { signer: Some("ada"), message: message() });
    lab.refused(&mut machine, Reason::BadEntry);
}

#[test]
fn t76_one_key_under_two_principals_is_no_policy() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let twin = lab.principal_kdl("bob", "commit").replace("\"bob\"", "\"robot\"");
    lab.change("ada", "trust/robot.kdl", &twin);
    lab.refused(&mut machine, Reason::PolicyInvalid);
}

#[test]
fn t77_trust_cannot_be_deleted_or_made_unsatisfiable() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.git(&["rm", "-q", "-r", "trust"]);
    lab.commit(&Make { signer: Some("ada"), message: message() });
    lab.refused(&mut machine, Reason::PolicyInvalid);
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.change("ada", "trust/people.kdl", &lab.people_kdl("commit", 3));
    lab.refused(&mut machine, Reason::PolicyInvalid);
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.change("ada", "trust/root.kdl", &lab.root_kdl(&["ada"]).replace("threshold=1", "threshold=2"));
    lab.refused(&mut machine, Reason::PolicyInvalid);
}

#[test]
fn t78_roots_keys_stand_in_roots_file() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    lab.write("trust/root.kdl", "version 1\nroot threshold=1 { member \"ada\"; }\n");
    lab.change("ada", "trust/ada.kdl", &lab.principal_kdl("ada", "commit"));
    let refusal = lab.refused(&mut machine, Reason::PolicyInvalid);
    assert_eq!(refusal.path.as_deref(), Some("trust/ada.kdl"));
}

#[test]
fn a_new_root_must_agree_to_be_root() {
    let lab = Lab::new();
    let mut machine = lab.machine();
    let root = lab.root_kdl(&["carol"]) + &lab.principal_kdl("ada", "commit");
    lab.change("ada", "trust/root.kdl", &root);
    lab.refused(&mut machine, Reason::RootThreshold);
}

#[test]
fn recovery_is_changed_by_recovery_only() {
    let lab = Lab::new();
    let vault = lab.principal_kdl("vault", "recovery");
    let root = format!("{}recovery threshold=1 {{ member \"vault\"; }}\n{vault}", lab.root_kdl(&["ada"]));
    lab.change("ada", "trust/root.kdl", &root);
    let mut machine = lab.machine();
    lab.change(
        "ada",
        "trust/root.kdl",
        &root.replace(&vault, &lab.principal_kdl("vault2", "recovery").replace("vault2", "vault")),
    );
    lab.refused(&mut machine, Reason::RootThreshold);
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.change("ada", "trust/root.kdl", &lab.root_kdl(&["ada"]));
    lab.refused(&mut machine, Reason::RootThreshold);
}

fn parse(text: &str) -> Vec<String> {
    let files = Files(BTreeMap::from([("trust/root.kdl".to_owned(), text.as_bytes().to_vec())]));
    match Policy::parse(&files) {
        Ok(_) => Vec::new(),
        Err(refusal) => refusal.mistakes.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let mistakes = parse(
        "version 1\nroot threshold=0 { member \"Ada\"; }\nrule \"r\" { owns \"a*\"; approval role=\"dev\" threshold=1; }\nwat\n",
    );
    let has = |start: &str| assert!(mistakes.iter().any(|m| m.starts_with(start)), "{start} is not in {mistakes:#?}");
    has("trust/root.kdl:2:6: `root`: number would be zero");
    has("trust/root.kdl:2:27: `member`: principal name \"Ada\"");
    has("trust/root.kdl:3:17: `owns`: expected * and ** to stand for whole names");
    has("trust/root.kdl:4:1: `wat` is not known here");
    has("trust/root.kdl:3:1: rule \"r\" asks for role dev, which is not defined");
}

#[test]
fn t52_a_repeated_property_and_version_1_syntax_are_mistakes() {
    let repeated = parse("version 1\nroot threshold=1 threshold=9 { member \"ada\"; }\n");
    assert!(repeated.iter().any(|m| m.contains("property `threshold` stands here a second time")), "{repeated:#?}");
    assert!(!parse("version 1\nroot threshold=1 { cluster-scoped true; }\n").is_empty());
    assert!(!parse("version 1\nroot r#\"raw\"#\n").is_empty());
}

#[test]
fn a_newer_policy_is_said_to_be_newer() {
    let files = Files(BTreeMap::from([("trust/root.kdl".to_owned(), b"version 2\nfuture \"node\"\n".to_vec())]));
    assert_eq!(Policy::parse(&files).map_err(|refusal| refusal.reason), Err(Reason::NewerState));
}

#[test]
fn the_access_table_holds_who_may_log_in_and_as_what() {
    let lab = Lab::new();
    let machine = lab.machine();
    let accepted =
        gitsync_verify::recall(&machine, &lab.objects(), machine.accepted().seq).expect("because it is accepted");
    let table = access_table(accepted.cluster(), accepted.position(), accepted.policy(), BTreeMap::new());
    let json = serde_json::to_value(&table).expect("because the table serialises");
    assert_eq!(json["people"].as_object().map(serde_json::Map::len), Some(2));
    assert_eq!(json["people"]["bob"]["roles"], serde_json::json!(["dev"]));
    assert_eq!(json["roles"], serde_json::json!({"dev": {"access": "operator"}}));
    assert_eq!(json["people"]["bob"]["keys"][0].as_str().map(|key| key.starts_with("SHA256:")), Some(true));
}
