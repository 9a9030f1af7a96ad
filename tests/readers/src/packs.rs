//! What a git server or a bundle sends: through the fetch child's whole run, with its own repository on disk, and then through what
//! gitsync makes of its answer. The cage is not part of it: what it stops is a matter of time and memory, which fuzzing bounds itself.

use crate::documents::policy;
use futures_util::FutureExt;
use gitsync_fetch::{Fetched, Request, read_answer};
use gitsync_verify::{
    DeployRef, Introduction, ObjectFormat, ObjectId, ObjectKind, ObjectSet, Offer, TrustState, introduce, object_id,
    verify,
};
use machined_ids::ClusterId;
use std::sync::LazyLock;
use tests_support::hostile::pack::{Kind, Object, Pack, one_more, with_checksum, zlib};

const REF: &str = "refs/heads/main";

/// A repository of two commits, of which a machine has accepted the first. Nobody signed the second.
struct Honest {
    objects: Vec<Object>,
    first: ObjectId,
    second: ObjectId,
    state: TrustState,
}

static HONEST: LazyLock<Honest> = LazyLock::new(|| {
    let mut honest = (Vec::new(), ObjectSet::new(ObjectFormat::Sha1));
    let mut add = |kind, content: Vec<u8>| {
        let id = id_of(kind, &content).expect("because nobody can make collisions by chance");
        let word = match kind {
            Kind::Commit => ObjectKind::Commit,
            Kind::Tree => ObjectKind::Tree,
            Kind::Blob | Kind::Tag | Kind::Delta | Kind::NamedDelta => ObjectKind::Blob,
        };
        honest.1.insert(id, word, content.clone()).expect("because it has its own hash");
        honest.0.push(Object { kind, id: id.to_string(), content });
        id
    };
    let line = |mode: &str, name: &str, id: ObjectId| [format!("{mode} {name}\0").as_bytes(), id.as_bytes()].concat();
    let root = add(Kind::Blob, policy().into_bytes());
    let trust = add(Kind::Tree, line("100644", "root.kdl", root));
    let tree = add(Kind::Tree, line("40000", "trust", trust));
    let person = "A <a@b> 1 +0000";
    let text = format!("tree {tree}\nauthor {person}\ncommitter {person}\n\nfirst\n");
    let first = add(Kind::Commit, text.into_bytes());
    let file = add(Kind::Blob, b"a: 1\n".to_vec());
    let tree = add(Kind::Tree, [line("100644", "a.yaml", file), line("40000", "trust", trust)].concat());
    let text = format!("tree {tree}\nparent {first}\nauthor {person}\ncommitter {person}\n\nsecond\n");
    let second = add(Kind::Commit, text.into_bytes());
    let introduction = Introduction::of(&honest.1, &first.to_commit_id(), ClusterId::from_bytes([1; 16]), deploy_ref());
    let introduction = introduction.expect("because it is a good first commit");
    let state = introduce(&introduction, &honest.1).expect("because the introduction is its own").0;
    Honest { objects: honest.0, first, second, state }
});

fn deploy_ref() -> DeployRef {
    DeployRef::parse(REF).expect("because it is a branch")
}

fn id_of(kind: Kind, content: &[u8]) -> Option<ObjectId> {
    let kind = match kind {
        Kind::Commit => ObjectKind::Commit,
        Kind::Tree => ObjectKind::Tree,
        Kind::Blob => ObjectKind::Blob,
        Kind::Tag | Kind::Delta | Kind::NamedDelta => return None,
    };
    object_id(ObjectFormat::Sha1, kind, content).ok()
}

/// A bundle of one branch.
fn bundle(tip: &str, pack: &[u8]) -> Vec<u8> {
    [format!("# v2 git bundle\n{tip} {REF}\n\n").as_bytes(), pack].concat()
}

pub(crate) fn bundle_seeds() -> Vec<Vec<u8>> {
    let (honest, tip) = (Pack::of(&HONEST.objects).finish(), HONEST.second.to_string());
    let needs = format!("# v2 git bundle\n-{} first\n{tip} {REF}\n\n", HONEST.first);
    let long = "c".repeat(64);
    let sha256 = format!("# v3 git bundle\n@object-format=sha256\n{long} {REF}\n\n");
    let empty = [sha256.as_bytes(), &Pack::default().finish_sha256()].concat();
    vec![bundle(&tip, &honest), [needs.as_bytes(), &honest].concat(), empty]
}

pub(crate) fn bundles(bytes: &[u8]) {
    let answer = answer_of_child(bytes);
    judge(&answer);
}

/// What the child says of a bundle, when it is started in an empty folder.
fn answer_of_child(bundle: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("because temporary folders can be made");
    let file = folder.path().join("bundle");
    std::fs::write(&file, bundle).expect("because the folder is new");
    let request = Request {
        folder: folder.path().join("repository"),
        url: None,
        bundle: Some(file),
        deploy_ref: deploy_ref(),
        tip: None,
        stop_at: vec![HONEST.first.to_commit_id()],
        statements: Vec::new(),
        dialect: None,
    };
    let request = serde_json::to_vec(&request).expect("because a request is JSON");
    let mut answer = Vec::new();
    gitsync_fetch::child::run(request.as_slice(), &mut answer).expect("because memory takes it");
    answer
}

/// Reads an answer as gitsync does and judges what it brought: nobody signed anything, so accepted stays where it is.
fn judge(answer: &[u8]) {
    let mut input = answer;
    let read = read_answer(&mut input).now_or_never().expect("because all of it is there");
    let Ok(Fetched::New(tip, objects, _)) = read.map(|answer| answer.fetched) else { return };
    let mut state = HONEST.state.clone();
    if let Ok(chain) = verify(&state, &Offer::of(&tip, &objects)) {
        chain.steps.iter().for_each(|step| state.accept(step));
    }
    assert_eq!(state.accepted().step, HONEST.state.accepted().step, "a step that nobody signed was taken");
}

/// How an input of `packs` says what its pack is: as the bytes behind the head, with a checksum put in, or entry by entry.
const RAW: u8 = 0;
const ENTRIES: u8 = 1;

/// Bits of an entry's first byte, above its kind.
const LIES_ABOUT_SIZE: u8 = 0x08;
const NOT_COMPRESSED: u8 = 0x10;
const BASE_BEFORE: u8 = 0x20;

pub(crate) fn pack_seeds() -> Vec<Vec<u8>> {
    let entry = |flags: u8, kind: Kind, base: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).expect("because seeds are small");
        [&[flags | kind as u8, base][..], &length.to_be_bytes(), content].concat()
    };
    let honest = Pack::of(&HONEST.objects).finish();
    let body = honest[12..honest.len() - 20].to_vec();
    let second = HONEST.objects.last().expect("because there are seven").content.clone();
    let tree = HONEST.objects[5].content.clone();
    let entries = [
        entry(0, Kind::Blob, 0, b"base"),
        entry(0, Kind::Delta, 0, &one_more(4)),
        entry(0, Kind::Delta, 1, &one_more(5)),
        entry(0, Kind::NamedDelta, 4, &one_more(5)),
        entry(LIES_ABOUT_SIZE, Kind::Blob, 9, b"small"),
        entry(NOT_COMPRESSED, Kind::Blob, 0, &zlib(b"x")),
        entry(BASE_BEFORE, Kind::Delta, 200, &one_more(4)),
        entry(0, Kind::Tag, 0, b"object x\ntype commit\n"),
        entry(0, Kind::Tree, 0, &tree),
        entry(0, Kind::Commit, 0, &second),
    ];
    let whole = [&[ENTRIES][..], &entries.concat()].concat();
    let deltas = [&[ENTRIES][..], &entries[..4].concat()].concat();
    vec![[&[RAW, 0, 0, 0, 7][..], &body].concat(), whole, deltas]
}

/// The honest objects come in each pack of entries, so that there is something to walk.
pub(crate) fn packs(bytes: &[u8]) {
    let (pack, tip) = match bytes.split_first() {
        Some((&RAW, rest)) => {
            let head = [b"PACK\0\0\0\x02", rest].concat();
            (with_checksum(head, gix_hash::Kind::Sha1), HONEST.second)
        }
        Some((_, rest)) => of_entries(rest),
        None => return,
    };
    judge(&answer_of_child(&bundle(&tip.to_string(), &pack)));
}

/// A pack of what an input describes, and the last commit in it.
fn of_entries(mut rest: &[u8]) -> (Vec<u8>, ObjectId) {
    let mut pack = Pack::of(&HONEST.objects);
    let (mut places, mut tip) = (vec![12], HONEST.second);
    while let [first, base, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (content, next) = after.split_at(length);
        rest = next;
        let compressed = if first & NOT_COMPRESSED == 0 { zlib(content) } else { content.to_vec() };
        let declared = if first & LIES_ABOUT_SIZE == 0 { content.len() as u64 } else { 1 << (base & 0x3f) };
        let kind = match first & 7 {
            1 => Kind::Commit,
            2 => Kind::Tree,
            4 => Kind::Tag,
            6 => Kind::Delta,
            7 => Kind::NamedDelta,
            _ => Kind::Blob,
        };
        let place = match kind {
            Kind::Delta => {
                let place = places[usize::from(*base) % places.len()];
                pack.delta(
                    if first & BASE_BEFORE == 0 { place } else { place.saturating_sub(usize::from(*base)) },
                    content,
                )
            }
            Kind::NamedDelta => {
                let named = &HONEST.objects[usize::from(*base) % HONEST.objects.len()].id;
                let named = ObjectId::from_hex(named.as_bytes()).expect("because it is an id");
                pack.entry(kind, declared, named.as_bytes(), &compressed)
            }
            Kind::Commit | Kind::Tree | Kind::Blob | Kind::Tag => pack.entry(kind, declared, &[], &compressed),
        };
        places.push(place);
        if kind == Kind::Commit {
            tip = id_of(kind, content).unwrap_or(tip);
        }
    }
    (pack.finish(), tip)
}

pub(crate) fn answer_seeds() -> Vec<Vec<u8>> {
    let honest = answer_of_child(&bundle(&HONEST.second.to_string(), &Pack::of(&HONEST.objects).finish()));
    let failed = answer_of_child(b"no bundle");
    let unchanged = [&b"U\0\0\0\x28"[..], "a".repeat(40).as_bytes()].concat();
    let statement =
        [b"T\0\0\0\x28", "a".repeat(40).as_bytes(), b"S\0\0\0\x19\x14", &[7; 20], b"text", b"E\0\0\0\0"].concat();
    vec![honest, failed, unchanged, statement]
}

pub(crate) fn answers(bytes: &[u8]) {
    judge(bytes);
}
