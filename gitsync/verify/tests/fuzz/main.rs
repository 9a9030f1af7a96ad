//! Every reader of bytes from outside, fed with mutations of what it expects: it refuses, and never panics, hangs or says two things.
//!
//! `cargo test` takes a fixed number of inputs from a fixed seed. For a longer run, with the seed printed so that it can be had again:
//!
//! ```text
//! CAIRN_FUZZ_SECONDS=600 cargo test --release -p gitsync-verify --test fuzz -- --nocapture
//! CAIRN_FUZZ_SEED=17 CAIRN_FUZZ_SECONDS=60 cargo test -p gitsync-verify --test fuzz -- --nocapture
//! ```
//!
//! Mutation without coverage feedback: it needs nothing but the stable toolchain, and its inputs begin where the readers' branches
//! are. Packs are read in the caged child; `gitsync/daemon/tests/transport` attacks that with real servers.

use gitsync_verify::mark::SignedMark;
use gitsync_verify::statement::Statement;
use gitsync_verify::{
    DeployRef, Files, Introduction, ObjectFormat, ObjectId, ObjectKind, ObjectSet, Policy, RawCommit, SignedStatement,
    TrustState, object_id,
};
use machined_ids::ClusterId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tests_support::authenticator::PlainKey;

/// Inputs of each target in an ordinary `cargo test`: together a second or two without optimisation.
const SAMPLE: u32 = 400;

/// Longest time that one input may take. A thousand times what the slowest takes, so that a busy machine fails nobody.
const INPUT_LIMIT: Duration = Duration::from_secs(20);

/// A small generator of numbers (splitmix64): the seed decides everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    /// A few changes to a seed: bytes, ranges taken out, doubled or brought in from another seed, and words that have broken parsers.
    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        const WORDS: [&[u8]; 14] = [
            b"",
            b"\n",
            b"\r\n",
            b"\0",
            b" ",
            b"{",
            b"}",
            b"\"",
            b"/*",
            b"\\u{110000}",
            b"18446744073709551616",
            b"-0",
            b"\xff\xfe",
            b"#\"",
        ];
        let mut bytes = seeds[self.roll(seeds.len())].clone();
        for _ in 0..=self.roll(6) {
            let (at, to) = (self.roll(bytes.len() + 1), self.roll(bytes.len() + 1));
            let (from, to) = (at.min(to), at.max(to));
            match self.roll(7) {
                0 if from < bytes.len() => bytes[from] = self.roll(256) as u8,
                1 if from < bytes.len() => bytes[from] ^= 1 << self.roll(8),
                2 => _ = bytes.drain(from..to.min(from + 64)),
                3 => bytes.extend_from_within(from..to.min(from + 256)),
                4 => _ = bytes.splice(from..from, WORDS[self.roll(WORDS.len())].iter().copied()),
                5 => {
                    let other = &seeds[self.roll(seeds.len())];
                    let start = self.roll(other.len() + 1);
                    let part = other[start..other.len().min(start + 64)].to_vec();
                    _ = bytes.splice(from..from, part);
                }
                _ => bytes.truncate(to),
            }
        }
        bytes
    }
}

/// Feeds a target: a fixed sample, or for as long as the environment says.
fn fuzz(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seconds, seed) = (number("CAIRN_FUZZ_SECONDS"), number("CAIRN_FUZZ_SEED"));
    let (mut dice, begun, mut inputs) = (Dice(seed.unwrap_or(1)), Instant::now(), 0);
    for seed in seeds {
        target(seed);
    }
    let more = |inputs: u32| match seconds {
        Some(seconds) => begun.elapsed() < Duration::from_secs(seconds),
        None => inputs < SAMPLE,
    };
    while more(inputs) {
        let bytes = dice.mutate(seeds);
        let at = Instant::now();
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(&bytes))).is_err() {
            panic!("{name}: input {inputs} of seed {seed:?} broke it: {}", bytes.escape_ascii());
        }
        assert!(at.elapsed() < INPUT_LIMIT, "{name}: input {inputs} took {:?}: {}", at.elapsed(), bytes.escape_ascii());
        inputs += 1;
    }
    println!("{name}: {inputs} inputs from seed {}", seed.unwrap_or(1));
}

const HEAD: &str = "tree aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nparent bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n\
                    author A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n";

fn policy() -> String {
    let key = PlainKey::from_seed([1; 32]).public_key();
    format!(
        "version 1\nbinding \"plain\"\nroot threshold=1 {{ member \"ada\"; }}\nrecovery threshold=1 delay=\"24h\" {{ member \"ada\" }}\n\
         freshness life=\"24h\"\nfloor image=4 seq=120\nbreak-glass role=\"dev\" threshold=1 life=\"4h\" {{ owns \"apps/**\" }}\n\
         principal \"ada\" {{ key \"{key}\" {{ use \"commit\" \"statement\" \"recovery\"; }}; }} // ada\n\
         revoked \"SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU\" last-good=117\n\
         role \"dev\" access=\"operator\" {{ member \"ada\"; }}\n\
         rule \"apps\" {{ owns \"apps/**\" #\"raw\"#; reads \"shared/*/x\"; approval role=\"dev\" threshold=1;\n\
         reach {{ namespace \"*\"; kind \"*\"; cluster-scoped #true; }}; budget deletions=10 {{ protect \"Secret\"; }}; }}\n"
    )
}

#[test]
fn commits() {
    let armour = PlainKey::from_seed([1; 32]).sign("git", b"x").trim_end().replace('\n', "\n ");
    let signed = format!("{HEAD}gpgsig {armour}\n\nsubject\n\nbody\n\nCairn-Target: x y\nCairn-Release: AAAA\n");
    let seeds =
        [signed.clone(), signed.replace("gpgsig", "gpgsig-sha256"), format!("{HEAD}\n")].map(String::into_bytes);
    fuzz("commits", &seeds, |bytes| {
        for format in [ObjectFormat::Sha1, ObjectFormat::Sha256] {
            let Ok(commit) = RawCommit::parse(bytes, format) else { continue };
            // Signature and what was signed are all there is: nothing travels along that nobody signed.
            let folded = commit.signature.as_ref().map_or(0, |armour| armour.len() + armour.lines().count() - 1);
            let name = if format == ObjectFormat::Sha1 { "gpgsig " } else { "gpgsig-sha256 " };
            let header = commit.signature.as_ref().map_or(0, |_| name.len());
            assert_eq!(commit.signed.len() + folded + header, bytes.len());
            assert!(commit.trailers("Cairn-Release").chain(commit.trailers("Cairn-Target")).count() < 10_000);
        }
    });
}

#[test]
fn trees() {
    let entry = |mode: &str, name: &str| [format!("{mode} {name}\0").as_bytes(), &[7; 20]].concat();
    let plain = [entry("100644", "A"), entry("40000", "b"), entry("100755", "c.sh")].concat();
    let seeds = [plain, [entry("120000", "l"), entry("160000", "s")].concat(), entry("100644", "..")];
    fuzz("trees", &seeds, |bytes| {
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        let mut add = |kind, bytes: Vec<u8>| {
            let id = object_id(ObjectFormat::Sha1, kind, &bytes).expect("because noise is no collision");
            set.insert(id, kind, bytes).expect("because it has its own hash");
            id
        };
        add(ObjectKind::Blob, b"x".to_vec());
        let tree = add(ObjectKind::Tree, bytes.to_vec());
        let text = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nm\n");
        let commit: ObjectId = add(ObjectKind::Commit, text.into_bytes());
        let deploy_ref = DeployRef::parse("refs/heads/main").expect("because it is a branch");
        let cluster = ClusterId::from_bytes([0; 16]);
        assert!(
            Introduction::of(&set, &commit.to_commit_id(), cluster, deploy_ref).is_err(),
            "no such tree has a policy"
        );
    });
}

#[test]
fn policies() {
    fuzz("policies", &[policy().into_bytes()], |bytes| {
        let files = Files(BTreeMap::from([("trust/root.kdl".to_owned(), bytes.to_vec())]));
        if let Ok(policy) = Policy::parse(&files) {
            assert!(policy.root().threshold as usize <= policy.root().members.len(), "root can be met");
            assert!(policy.rules().iter().all(|rule| rule.threshold > 0 && policy.roles().contains_key(&rule.role)));
        }
    });
}

#[test]
fn statements_and_marks() {
    let hex = "0123456789abcdef".repeat(4);
    let head = format!("cluster {}\nref refs/heads/main\nepoch 0\n", "01".repeat(16));
    let bodies = [
        format!("{head}seq 1\nparent {hex}\nstep {hex}\npolicy {hex}\nnot-after never\nintent release\n"),
        format!("{head}seq 1\nstep {hex}\nissued 2026-01-01T00:00:00Z\nexpires 2026-01-02T00:00:00Z\n"),
    ];
    let sign = |body: &String| {
        let statement = Statement::from_body(body).expect("because it has the form");
        let armour = PlainKey::from_seed([1; 32]).sign(statement.namespace(), body.as_bytes());
        SignedStatement::join(body, &armour).expect("because it was just signed")
    };
    let signed: Vec<SignedStatement> = bodies.iter().map(sign).collect();
    let mark = format!(
        "{head}seq 1\nparent {hex}\nstep {hex}\ncommit {}\nmachine SHA256:x\nkey AA==\nsignature AA==\n",
        &hex[..40]
    );
    let seeds: Vec<Vec<u8>> =
        signed.iter().map(|one| one.text().as_bytes().to_vec()).chain([mark.into_bytes()]).collect();
    fuzz("statements and marks", &seeds, |bytes| {
        if let Ok(read) = SignedStatement::parse(bytes) {
            assert!(signed.iter().any(|one| one.statement() == read.statement()), "only what was signed is read");
        }
        assert!(SignedMark::parse(bytes).is_err(), "no machine signed one");
        if let Some(Ok(statement)) = std::str::from_utf8(bytes).ok().map(Statement::from_body) {
            assert_eq!(statement.body().as_bytes(), bytes, "a statement has one text");
        }
    });
}

#[test]
fn introductions_and_states() {
    let hex = "0123456789abcdef".repeat(4);
    let commit = &hex[..40];
    let introduction = format!(
        "{{\"cluster\":\"{}\",\"ref\":\"refs/heads/main\",\"commit\":\"{commit}\",\"commitSha256\":\"{hex}\",\"tree\":\"{hex}\",\
         \"policy\":\"{hex}\",\"anchor\":{{\"epoch\":1,\"seq\":9,\"step\":\"{hex}\",\"commit\":\"{commit}\",\"commitSha256\":\"{hex}\"}}}}",
        &hex[..32]
    );
    let position = format!(
        "{{\"seq\":9,\"step\":\"{hex}\",\"commit\":\"{commit}\",\"commitSha256\":\"{hex}\",\"tree\":\"{hex}\",\"policy\":\"{hex}\",\
         \"signer\":null,\"key\":null,\"subject\":\"x\"}}"
    );
    let state = format!(
        "{{\"version\":2,\"introduction\":{introduction},\"epoch\":1,\"history\":[{position}],\"applied\":null,\"generation\":3,\
         \"healthy\":{{\"3\":\"{hex}\"}},\"trust\":{{\"clockFloor\":\"2026-01-01T00:00:00Z\",\"floors\":{{\"image\":1,\"seq\":2}}}}}}"
    );
    assert!(
        Introduction::from_json(introduction.as_bytes()).is_ok() && TrustState::from_json(state.as_bytes()).is_ok()
    );
    fuzz("introductions and states", &[introduction.into_bytes(), state.into_bytes()], |bytes| {
        if let Ok(read) = Introduction::from_json(bytes) {
            assert_eq!(Introduction::from_json(read.to_json().as_bytes()), Ok(read));
        }
        if let Ok(read) = TrustState::from_json(bytes) {
            assert_eq!(TrustState::from_json(&read.to_json()), Ok(read));
        }
    });
}
