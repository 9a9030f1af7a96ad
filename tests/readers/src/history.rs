//! Raw commits, and trees with what lies in them.

use crate::documents::policy;
use gitsync_verify::{
    DeployRef, Files, Introduction, ObjectFormat, ObjectId, ObjectKind, ObjectSet, Policy, RawCommit, introduce,
    object_id, tree_changes,
};
use machined_ids::ClusterId;
use tests_support::authenticator::PlainKey;

const HEAD: &str = "tree aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nparent bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n\
                    author A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n";

pub(crate) fn commit_seeds() -> Vec<Vec<u8>> {
    let armour = PlainKey::from_seed([1; 32]).sign("git", b"x").trim_end().replace('\n', "\n ");
    let signed = format!("{HEAD}gpgsig {armour}\n\nsubject\n\nbody\n\nCairn-Target: x y\nCairn-Release: AAAA\n");
    [signed.clone(), signed.replace("gpgsig", "gpgsig-sha256"), format!("{HEAD}\n")].map(String::into_bytes).to_vec()
}

pub(crate) fn commits(bytes: &[u8]) {
    for format in [ObjectFormat::Sha1, ObjectFormat::Sha256] {
        let Ok(commit) = RawCommit::parse(bytes, format) else { continue };
        // Signature and what was signed are all there is: nothing travels along that nobody signed.
        let folded = commit.signature.as_ref().map_or(0, |armour| armour.len() + armour.lines().count() - 1);
        let name = if format == ObjectFormat::Sha1 { "gpgsig " } else { "gpgsig-sha256 " };
        let header = commit.signature.as_ref().map_or(0, |_| name.len());
        assert_eq!(commit.signed.len() + folded + header, bytes.len());
        assert!(commit.trailers("Cairn-Release").chain(commit.trailers("Cairn-Target")).count() <= bytes.len());
    }
}

/// What an id in a tree begins with that stands for the object whose number is its last byte.
const REFERENCE: [u8; 19] = [0xEE; 19];

/// What separates two objects of an input.
const SEPARATOR: [u8; 4] = [0xFF, 0xFE, 0xFD, 0xFC];

/// The line of a tree for the object of a number.
fn entry(mode: &str, name: &str, number: u8) -> Vec<u8> {
    [format!("{mode} {name}\0").as_bytes(), &REFERENCE, &[number]].concat()
}

pub(crate) fn tree_seeds() -> Vec<Vec<u8>> {
    let object = |kind: u8, content: &[u8]| [&[kind], content, &SEPARATOR].concat();
    let blobs = [object(b'b', policy().as_bytes()), object(b'b', b"content")].concat();
    let trust = object(b't', &entry("100644", "root.kdl", 0));
    let before = object(b't', &[entry("100644", "A", 1), entry("40000", "trust", 2)].concat());
    let apps = object(b't', &[entry("100644", "a.yaml", 1), entry("100755", "c.sh", 1)].concat());
    let after = [entry("100644", "A", 0), entry("40000", "apps", 4), entry("40000", "trust", 2)].concat();
    let whole = [blobs.clone(), trust, before, apps, object(b't', &after)].concat();
    let bad = [entry("120000", "l", 0), entry("160000", "s", 0)].concat();
    let git = [entry("100644", "..", 0), entry("40000", ".GIT", 0)].concat();
    vec![whole, [blobs.clone(), object(b't', &bad)].concat(), [blobs, object(b't', &git)].concat()]
}

/// Puts the ids of earlier objects where a tree refers to them.
fn resolved(tree: &[u8], ids: &[ObjectId]) -> Vec<u8> {
    let mut bytes = tree.to_vec();
    let mut at = 0;
    while at + 20 <= bytes.len() {
        let known = ids.get(usize::from(bytes[at + 19]));
        if bytes[at..].starts_with(&REFERENCE)
            && let Some(id) = known
        {
            bytes[at..at + 20].copy_from_slice(id.as_bytes());
            at += 20;
        } else {
            at += 1;
        }
    }
    bytes
}

/// The input is blobs and trees; every tree becomes that of a first commit, and is compared with the one before it.
pub(crate) fn trees(bytes: &[u8]) {
    let mut set = ObjectSet::new(ObjectFormat::Sha1);
    let (mut ids, mut trees, mut rest) = (Vec::new(), Vec::new(), bytes);
    while !rest.is_empty() {
        let end = rest.windows(4).position(|window| window == SEPARATOR).unwrap_or(rest.len());
        let (object, after) = rest.split_at(end);
        rest = after.get(4..).unwrap_or_default();
        let kind = if object.first() == Some(&b't') { ObjectKind::Tree } else { ObjectKind::Blob };
        let content = object.get(1..).unwrap_or_default();
        let content = if kind == ObjectKind::Tree { resolved(content, &ids) } else { content.to_vec() };
        let Some(id) = add(&mut set, kind, content) else { return };
        ids.push(id);
        if kind == ObjectKind::Tree {
            trees.push(id);
        }
    }
    for &tree in &trees {
        become_first_commit(&mut set, tree);
    }
    for pair in trees.windows(2) {
        let there = tree_changes(&set, &pair[0], &pair[1]);
        let back = tree_changes(&set, &pair[1], &pair[0]);
        if let (Ok(there), Ok(back)) = (there, back) {
            let paths = |changes: &[gitsync_verify::Change]| changes.iter().map(|c| c.path.clone()).collect::<Vec<_>>();
            assert_eq!(paths(&there), paths(&back), "a difference has the same paths in both directions");
            assert!(pair[0] != pair[1] || there.is_empty(), "nothing differs from itself");
        }
    }
}

fn add(set: &mut ObjectSet, kind: ObjectKind, bytes: Vec<u8>) -> Option<ObjectId> {
    let id = object_id(ObjectFormat::Sha1, kind, &bytes).expect("because nobody can make collisions by chance");
    // Beyond the limits nothing is taken.
    set.insert(id, kind, bytes).ok().map(|()| id)
}

/// What is introduced by a tree is what that tree says; most trees introduce nothing.
fn become_first_commit(set: &mut ObjectSet, tree: ObjectId) {
    let text = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nm\n");
    let Some(commit) = add(set, ObjectKind::Commit, text.into_bytes()) else { return };
    let deploy_ref = DeployRef::parse("refs/heads/main").expect("because it is a branch");
    let cluster = ClusterId::from_bytes([0; 16]);
    let Ok(introduction) = Introduction::of(set, &commit.to_commit_id(), cluster, deploy_ref) else { return };
    let (state, first) = introduce(&introduction, set).expect("because an introduction of a commit fits it");
    let Ok(files) = first.files(set) else { return };
    let trust = files.under("trust/").map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).collect();
    assert!(Policy::parse(&Files(trust)).is_ok(), "nothing is introduced without a policy");
    let odd =
        |path: &str| path.split('/').any(|part| matches!(part, "" | "." | "..") || part.eq_ignore_ascii_case(".git"));
    assert!(files.under("").all(|(path, _)| !odd(path)), "no path leads elsewhere");
    assert_eq!(state.accepted().commit, commit.to_commit_id());
}
