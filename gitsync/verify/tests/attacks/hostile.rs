//! Bytes that nobody made with git: whatever they are, the answer is a refusal and never a panic. And what the policy's
//! evaluator promises for every policy.

use gitsync_verify::policy::{Approvals, Glob};
use gitsync_verify::{
    Change, ChangeKind, Files, Introduction, ObjectFormat, ObjectKind, ObjectSet, Policy, RawCommit, TrustState,
    object_id,
};
use machined_ids::PrincipalName;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Real bytes with a few of them changed, taken away or doubled: closer to the edges than noise is.
fn mangled(seed: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8);
    vec(edit, 0..8).prop_map(move |edits| {
        let mut bytes = seed.to_vec();
        for (place, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = place.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => _ = bytes.remove(at),
                2 => bytes.insert(at, byte),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

const COMMIT: &[u8] = b"tree aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nparent bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n\
author A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\ngpgsig -----BEGIN SSH SIGNATURE-----\n U1NIU0lH\n -----END SSH SIGNATURE-----\n\n\
subject\n\nCairn-Target: x y\n";

const POLICY: &[u8] = b"version 1\nroot threshold=1 { member \"ada\"; }\nprincipal \"ada\" { key \"ssh-ed25519 \
AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti\" { use \"commit\"; }; }\n\
rule \"r\" { owns \"apps/**\"; approval role=\"x\" threshold=1; reach { namespace \"*\"; cluster-scoped #true; }; }\n";

proptest! {
    #[test]
    fn commits_never_panic(bytes in mangled(COMMIT)) {
        for format in [ObjectFormat::Sha1, ObjectFormat::Sha256] {
            if let Ok(commit) = RawCommit::parse(&bytes, format) {
                // What was signed and the signature together are everything that came.
                prop_assert!(commit.signed.len() <= bytes.len());
                let _trailers: Vec<_> = commit.trailers("Cairn-Target").collect();
            }
        }
    }

    #[test]
    fn trees_never_panic(bytes in vec(any::<u8>(), 0..200), name in "[ -~]{0,12}") {
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        let mut tree = format!("100644 {name}\0").into_bytes();
        tree.extend_from_slice(&[7; 20]);
        for bytes in [bytes, tree] {
            let id = object_id(ObjectFormat::Sha1, ObjectKind::Tree, &bytes).expect("because noise is no collision");
            set.insert(id, ObjectKind::Tree, bytes).expect("because it has its own hash");
            let commit = format!("tree {id}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nm\n").into_bytes();
            let commit_id = object_id(ObjectFormat::Sha1, ObjectKind::Commit, &commit).expect("because noise is no collision");
            set.insert(commit_id, ObjectKind::Commit, commit).expect("because it has its own hash");
            let cluster = machined_ids::ClusterId::from_bytes([0; 16]);
            let deploy_ref = gitsync_verify::DeployRef::parse("refs/heads/main").expect("because it is a branch");
            // No noise has a policy.
            prop_assert!(Introduction::of(&set, &commit_id.to_commit_id(), cluster, deploy_ref).is_err());
        }
    }

    #[test]
    fn states_and_introductions_never_panic(bytes in mangled(b"{\"version\":1,\"introduction\":{\"cluster\":\"00\"},\"history\":[]}")) {
        prop_assert!(TrustState::from_json(&bytes).is_err());
        prop_assert!(Introduction::from_json(&bytes).is_err());
    }

    #[test]
    fn patterns_never_panic_and_cover_what_they_spell(path in "[a-c]{1,2}(/[a-c]{1,2}){0,4}", pattern in "[a-c*/]{1,12}") {
        prop_assert!(Glob::parse(&path).expect("because it is a plain path").matches(&path));
        if let Ok(glob) = Glob::parse(&pattern) {
            let _either = glob.matches(&path);
        }
    }
}

/// A policy of six people in three roles, with rules drawn at random.
fn policy(rules: &[(u8, u8, u32)]) -> Policy {
    let files = Files(BTreeMap::from([("trust/root.kdl".to_owned(), policy_text(rules).into_bytes())]));
    Policy::parse(&files).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn policy_text(rules: &[(u8, u8, u32)]) -> String {
    let mut text = String::from("version 1\nroot threshold=1 { member \"p0\"; }\n");
    let write = "because a string takes everything";
    for person in 0..6_u8 {
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend_from_slice(&[person + 1; 32]);
        let key = base64(&blob);
        writeln!(text, "principal \"p{person}\" {{ key \"ssh-ed25519 {key}\" {{ use \"commit\"; }}; }}").expect(write);
    }
    for role in 0..3 {
        writeln!(text, "role \"r{role}\" {{ member \"p{}\" \"p{}\" \"p5\"; }}", role, role + 1).expect(write);
    }
    for (number, (folder, role, threshold)) in rules.iter().enumerate() {
        let folder = ["a/**", "a/b/**", "**", "*/b/**"][usize::from(folder % 4)];
        let (role, threshold) = (role % 3, threshold % 3 + 1);
        writeln!(text, "rule \"{number}\" {{ owns \"{folder}\"; approval role=\"r{role}\" threshold={threshold}; }}")
            .expect(write);
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain([0, 0].iter()).take(3).fold(0_u32, |acc, b| acc << 8 | u32::from(*b));
        for place in 0..4 {
            let sign = char::from(ALPHABET[(group >> (18 - 6 * place) & 63) as usize]);
            text.push(if place <= chunk.len() { sign } else { '=' });
        }
    }
    text
}

fn approvals(people: &BTreeSet<u8>) -> Approvals {
    let name = |person: &u8| PrincipalName::parse(&format!("p{person}")).expect("because it is a name");
    Approvals { principals: people.iter().map(name).collect(), ..Approvals::default() }
}

fn changes(paths: &[u8]) -> Vec<Change> {
    let path = |n: &u8| ["a/x", "a/b/x", "c/b/x", "d"][usize::from(n % 4)].to_owned();
    paths.iter().map(|n| Change { path: path(n), kind: ChangeKind::Modified }).collect()
}

fn rules() -> impl Strategy<Value = Vec<(u8, u8, u32)>> {
    vec((any::<u8>(), any::<u8>(), any::<u32>()), 0..5)
}

proptest! {
    // Reading a policy takes milliseconds without optimisation; so many cases take seconds.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn policies_never_panic(bytes in mangled(POLICY)) {
        let files = Files(BTreeMap::from([("trust/root.kdl".to_owned(), bytes)]));
        // Cut off before its rule (whose role does not exist) it is a policy; whatever is one can be met.
        if let Ok(policy) = Policy::parse(&files) {
            prop_assert!(policy.rules().is_empty());
            prop_assert!(policy.root().threshold as usize <= policy.root().members.len());
        }
    }

    #[test]
    fn one_more_approval_never_turns_a_yes_into_a_no(rules in rules(), paths in vec(any::<u8>(), 0..4), people in proptest::collection::btree_set(0..6_u8, 0..6), one_more in 0..6_u8) {
        let (policy, changes) = (policy(&rules), changes(&paths));
        if policy.authorise(&changes, &approvals(&people), &policy).is_ok() {
            let mut more = people;
            more.insert(one_more);
            prop_assert!(policy.authorise(&changes, &approvals(&more), &policy).is_ok());
        }
    }

    #[test]
    fn one_more_rule_never_permits_more_on_owned_paths(first in rules(), extra in (any::<u8>(), any::<u8>(), any::<u32>()), path in any::<u8>(), people in proptest::collection::btree_set(0..6_u8, 0..6)) {
        let (before, change) = (policy(&first), changes(&[path]));
        let owned = before.owners(&change[0].path).next().is_some();
        let mut rules = first;
        rules.push(extra);
        let after = policy(&rules);
        if owned && after.authorise(&change, &approvals(&people), &after).is_ok() {
            prop_assert!(before.authorise(&change, &approvals(&people), &before).is_ok());
        }
    }

    #[test]
    fn the_files_that_rules_stand_in_decide_nothing(rules in rules(), places in vec(0..3_u8, 5), paths in vec(any::<u8>(), 0..4), people in proptest::collection::btree_set(0..6_u8, 0..6)) {
        let text = policy_text(&rules);
        let mut files = BTreeMap::<String, String>::new();
        let mut number = 0;
        for line in text.lines() {
            let place = if line.starts_with("rule") { number += 1; places[number - 1] } else { 0 };
            let file = ["trust/root.kdl", "trust/a.kdl", "trust/z.kdl"][usize::from(place)];
            files.entry(file.to_owned()).or_default().push_str(&format!("{line}\n"));
        }
        let files = Files(files.into_iter().map(|(path, text)| (path, text.into_bytes())).collect());
        let spread = Policy::parse(&files).unwrap_or_else(|refusal| panic!("{refusal}"));
        let (one, changes) = (policy(&rules), changes(&paths));
        let judged = |policy: &Policy| policy.authorise(&changes, &approvals(&people), policy).is_ok();
        prop_assert_eq!(judged(&one), judged(&spread));
    }

    #[test]
    fn the_order_of_rules_decides_nothing(rules in rules(), paths in vec(any::<u8>(), 0..4), people in proptest::collection::btree_set(0..6_u8, 0..6)) {
        let mut reversed = rules.clone();
        reversed.reverse();
        let (one, other, changes) = (policy(&rules), policy(&reversed), changes(&paths));
        let judged = |policy: &Policy| policy.authorise(&changes, &approvals(&people), policy).is_ok();
        prop_assert_eq!(judged(&one), judged(&other));
    }
}
