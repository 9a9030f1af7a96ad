//! What holds for every history and every statement, whatever their bytes: steps are trees and nothing else, and a statement says what
//! was signed or nothing.

use gitsync_verify::mark::SignedMark;
use gitsync_verify::statement::{Intent, Release};
use gitsync_verify::{
    Clock, DeployRef, Introduction, ObjectFormat, ObjectId, ObjectKind, ObjectSet, Offer, SignedStatement, Statement,
    TrustState, introduce, next_step, object_id, verify,
};
use machined_ids::{ClusterId, CommitId};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::OnceLock;
use tests_support::authenticator::PlainKey;

/// A repository in memory: ada and bob approve `apps/`, two of them.
struct Small {
    objects: ObjectSet,
    trust: ObjectId,
    introduction: Introduction,
    people: [PlainKey; 2],
}

fn add(objects: &mut ObjectSet, kind: ObjectKind, bytes: Vec<u8>) -> ObjectId {
    let id = object_id(ObjectFormat::Sha1, kind, &bytes).expect("because no collision is meant");
    objects.insert(id, kind, bytes).expect("because it has its own hash");
    id
}

fn tree(objects: &mut ObjectSet, entries: &[(&str, &str, ObjectId)]) -> ObjectId {
    let mut bytes = Vec::new();
    for (mode, name, id) in entries {
        bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        bytes.extend_from_slice(id.as_bytes());
    }
    add(objects, ObjectKind::Tree, bytes)
}

impl Small {
    fn new() -> Self {
        let people = [PlainKey::from_seed([1; 32]), PlainKey::from_seed([2; 32])];
        let key = |name: &str, key: &PlainKey| {
            format!("principal \"{name}\" {{ key \"{}\" {{ use \"commit\" \"statement\"; }}; }}\n", key.public_key())
        };
        let policy = format!(
            "version 1\nroot threshold=1 {{ member \"ada\"; }}\n{}{}role \"dev\" {{ member \"ada\" \"bob\"; }}\n\
             rule \"apps\" {{ owns \"apps/**\"; approval role=\"dev\" threshold=2; }}\n",
            key("ada", &people[0]),
            key("bob", &people[1])
        );
        let mut objects = ObjectSet::new(ObjectFormat::Sha1);
        let file = add(&mut objects, ObjectKind::Blob, policy.into_bytes());
        let trust = tree(&mut objects, &[("100644", "root.kdl", file)]);
        let root = tree(&mut objects, &[("40000", "trust", trust)]);
        let first = format!("tree {root}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nfirst\n");
        let first = add(&mut objects, ObjectKind::Commit, first.into_bytes());
        let deploy_ref = DeployRef::parse("refs/heads/main").expect("because it is a branch");
        let cluster = ClusterId::from_bytes([1; 16]);
        let introduction = Introduction::of(&objects, &first.to_commit_id(), cluster, deploy_ref);
        Small { objects, trust, introduction: introduction.expect("because the policy is good"), people }
    }

    fn machine(&self) -> TrustState {
        introduce(&self.introduction, &self.objects).expect("because it is its own").0
    }

    /// A commit on top of the first one that sets `apps/a` to `content`, with this metadata.
    fn commit(&mut self, content: &str, who: &str, seconds: u32, message: &str) -> CommitId {
        let objects = &mut self.objects;
        let blob = add(objects, ObjectKind::Blob, content.as_bytes().to_vec());
        let apps = tree(objects, &[("100644", "a", blob)]);
        let root = tree(objects, &[("40000", "apps", apps), ("40000", "trust", self.trust)]);
        let parent = &self.introduction.commit;
        let person = format!("{who} <{who}@b> {seconds} +0100");
        let text = format!("tree {root}\nparent {parent}\nauthor {person}\ncommitter {person}\n\n{message}\n");
        add(objects, ObjectKind::Commit, text.into_bytes()).to_commit_id()
    }

    /// Both approvals of the step to a commit's tree.
    fn approvals(&self, machine: &TrustState, commit: &CommitId) -> Vec<SignedStatement> {
        let Introduction { cluster, deploy_ref, tree, .. } =
            Introduction::of(&self.objects, commit, self.introduction.cluster, self.introduction.deploy_ref.clone())
                .expect("because the policy is good");
        let accepted = machine.accepted();
        let statement = Statement::Release(Release {
            cluster,
            deploy_ref,
            epoch: machine.epoch(),
            seq: accepted.seq.next(),
            parent: accepted.step,
            step: next_step(&accepted.step, &tree),
            policy: accepted.policy,
            not_after: None,
            intent: Intent::Release,
        });
        let body = statement.body();
        let sign = |key: &PlainKey| {
            let armour = key.sign(statement.namespace(), body.as_bytes());
            SignedStatement::join(&body, &armour).expect("because it was just signed")
        };
        self.people.iter().map(sign).collect()
    }
}

fn statement() -> &'static SignedStatement {
    static ONE: OnceLock<SignedStatement> = OnceLock::new();
    ONE.get_or_init(|| {
        let mut small = Small::new();
        let commit = small.commit("x", "ada", 1, "m");
        small.approvals(&small.machine(), &commit).remove(0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn twins_are_one_step_and_their_approvals_hold_for_each(who in "[a-z]{1,8}", seconds in 1..2_000_000_000_u32, message in "[ -~]{0,60}") {
        let mut small = Small::new();
        let (one, twin) = (small.commit("x", "ada", 1, "m"), small.commit("x", &who, seconds, &message));
        let machine = small.machine();
        let statements = small.approvals(&machine, &one);
        let mut steps = Vec::new();
        for tip in [&one, &twin] {
            let mut machine = machine.clone();
            let chain = verify(&machine, &Offer { statements: &statements, ..Offer::of(tip, &small.objects) });
            let chain = chain.expect("because it continues the first commit");
            prop_assert_eq!(&chain.refused, &None);
            machine.learn(&chain);
            steps.push(machine.accepted().step);
        }
        prop_assert_eq!(steps[0], steps[1]);
    }

    #[test]
    fn the_order_of_statements_decides_nothing_and_another_one_takes_nothing_away(extra in 0..3_usize, reversed in any::<bool>()) {
        let mut small = Small::new();
        let (wanted, other) = (small.commit("x", "ada", 1, "m"), small.commit("y", "ada", 1, "m"));
        let machine = small.machine();
        let mut statements = small.approvals(&machine, &wanted);
        statements.extend(small.approvals(&machine, &other).into_iter().take(extra));
        if reversed {
            statements.reverse();
        }
        for (count, passes) in [(0, false), (1, false), (statements.len(), true)] {
            let offer = Offer { statements: &statements[..count], clock: Clock::default(), ..Offer::of(&wanted, &small.objects) };
            let chain = verify(&machine, &offer).expect("because it continues the first commit");
            prop_assert_eq!(chain.refused.is_none(), passes, "{} statements", count);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_changed_statement_says_nothing_else(edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6)) {
        let original = statement();
        let bytes = edit(original.text().as_bytes(), &edits);
        if let Ok(read) = SignedStatement::parse(&bytes) {
            prop_assert_eq!(read.statement(), original.statement());
            prop_assert_eq!(read.key(), original.key());
            prop_assert_eq!(read.text().as_bytes(), &bytes);
        }
        let trailer = edit(original.to_trailer().as_bytes(), &edits);
        if let Some(Ok(read)) = std::str::from_utf8(&trailer).ok().map(SignedStatement::from_trailer) {
            prop_assert_eq!(read.statement(), original.statement());
        }
        prop_assert!(SignedMark::parse(&bytes).is_err(), "a statement is no mark");
    }
}

/// Bytes with a few of them changed, taken away, doubled, or cut off.
fn edit(bytes: &[u8], edits: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, byte, kind) in edits {
        if bytes.is_empty() {
            break;
        }
        let at = place.index(bytes.len());
        match kind {
            0 => bytes[at] = *byte,
            1 => _ = bytes.remove(at),
            2 => bytes.insert(at, *byte),
            _ => bytes.truncate(at),
        }
    }
    bytes
}
