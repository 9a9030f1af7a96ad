//! A server that lies: about refs, about history, about formats, about where to look.

use crate::lab::{Lab, REF, Stopped, ref_at, run};
use gitsync_fetch::FetchError;
use gitsync_verify::Reason;
use tests_support::hostile::{Attack, HostileServer, Stage};
use tests_support::wait_for;

#[tokio::test]
async fn the_server_is_honest_when_it_does_not_attack() {
    let mut lab = Lab::new().await;
    let tip = lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    lab.takes().await;
    assert_eq!(lab.accepted(), tip);
    assert_eq!(lab.server.requests().last().map(String::as_str), Some("fetch"));
}

#[tokio::test]
async fn t10_a_tag_object_served_as_the_branch_is_refused() {
    let mut lab = Lab::new().await;
    let wip = lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    lab.git(&["tag", "-a", "-m", "release", "v2", wip.as_str()]);
    lab.git(&["push", "-q", "../served.git", "v2"]);
    let tag = run(&lab.served(), "git", &["rev-parse", "refs/tags/v2"]);
    assert_ne!(tag, wip.as_str(), "it is an object of its own");
    let stopped = lab.stops(ref_at(&tag)).await;
    assert_eq!(stopped.reason(), Some(Reason::MissingObject), "{stopped:?}");
    lab.recovers().await;
}

#[tokio::test]
async fn t10_tags_are_never_read_under_whatever_name_they_are_served() {
    let mut lab = Lab::new().await;
    let tip = lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    let refs = [("refs/tags/v1", "refs/tags/v2"), ("refs/tags/refs/heads/main", "refs/heads/main/x")];
    let refs = refs.iter().flat_map(|(a, b)| [*a, *b]).map(|name| (name.to_owned(), tip.to_string())).collect();
    lab.server.attack(Attack::MoreRefs(refs));
    lab.takes().await;
    assert_eq!(lab.accepted(), tip);
    let kept = run(&lab.fetched(), "git", &["-c", "safe.directory=*", "for-each-ref", "--format=%(refname)"]);
    assert!(!kept.contains("tags"), "{kept}");
}

#[tokio::test]
async fn t11_a_symbolic_head_that_was_switched_changes_nothing() {
    let mut lab = Lab::new().await;
    lab.git(&["checkout", "-q", "-b", "evil"]);
    lab.commit(Some("mallory"), "apps/evil.yaml", "e: 1\n");
    lab.git(&["checkout", "-q", "main"]);
    let tip = lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    let evil = "refs/heads/evil".to_owned();
    lab.server.attack(Attack::Symbolic { name: "HEAD".to_owned(), target: evil.clone() });
    lab.takes().await;
    assert_eq!(lab.accepted(), tip, "the deploy ref counts, and HEAD does not");
    lab.commit(Some("ada"), "apps/c.yaml", "c: 1\n");
    // The deploy ref itself as a symbolic ref: what it points to is judged like anything else.
    let stopped = lab.stops(Attack::Symbolic { name: REF.to_owned(), target: evil }).await;
    assert!(matches!(stopped.reason(), Some(Reason::NotDescendant | Reason::UnknownKey)), "{stopped:?}");
    lab.recovers().await;
}

#[tokio::test]
async fn t12_a_branch_deleted_and_made_again_elsewhere_is_no_new_beginning() {
    let mut lab = Lab::new().await;
    let before = lab.accepted();
    run(&lab.served(), "git", &["update-ref", "-d", REF]);
    let stopped = lab.stops(Attack::None).await;
    assert!(matches!(stopped, Stopped::Fetch(FetchError::RefMissing(_))), "{stopped:?}");
    lab.git(&["checkout", "-q", "--orphan", "fresh"]);
    lab.commit(Some("ada"), "apps/z.yaml", "z: 1\n");
    let made = run(&lab.served(), "git", &["rev-parse", "refs/heads/fresh"]);
    run(&lab.served(), "git", &["update-ref", REF, &made]);
    let stopped = lab.stops(Attack::None).await;
    assert_eq!(stopped.reason(), Some(Reason::NotDescendant), "{stopped:?}");
    run(&lab.served(), "git", &["update-ref", REF, before.as_str()]);
    lab.recovers().await;
}

#[tokio::test]
async fn t33_a_lie_in_shallow_info_is_no_shorter_history() {
    let mut lab = Lab::new().await;
    lab.commit(None, "apps/hidden.yaml", "h: 1\n");
    lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    let stopped = lab.stops(Attack::Shallow).await;
    match &stopped {
        Stopped::Fetch(FetchError::Transfer(_)) => {}
        Stopped::Refused(refusal) => assert_eq!(refusal.reason, Reason::UnderThreshold, "the hidden parent is seen"),
        Stopped::Fetch(other) => panic!("{other:?}"),
    }
    // The lie is not remembered either: an honest server then brings a commit that is repaired.
    lab.git(&["reset", "-q", "--hard", "HEAD~2"]);
    lab.commit(Some("ada"), "apps/c.yaml", "c: 1\n");
    lab.recovers().await;
}

#[tokio::test]
async fn t34_replace_refs_of_the_server_are_neither_fetched_nor_obeyed() {
    let mut lab = Lab::new().await;
    let bad = lab.commit(None, "apps/bad.yaml", "b: 1\n");
    let good = lab.accepted();
    let replace = vec![(format!("refs/replace/{bad}"), good.to_string())];
    let stopped = lab.stops(Attack::MoreRefs(replace)).await;
    assert_eq!(stopped.reason(), Some(Reason::UnderThreshold), "{stopped:?}");
    // And when such a ref has got into the child's own repository in some way, it is not obeyed.
    run(
        &lab.fetched(),
        "git",
        &["-c", "safe.directory=*", "update-ref", &format!("refs/replace/{bad}"), good.as_str()],
    );
    lab.commit(Some("ada"), "apps/more.yaml", "m: 1\n");
    let stopped = lab.stops(Attack::None).await;
    assert_eq!(stopped.reason(), Some(Reason::UnderThreshold), "{stopped:?}");
}

#[tokio::test]
async fn t38_redirects_lead_nowhere() {
    let mut lab = Lab::new().await;
    let other = HostileServer::start(&lab.served(), Attack::None).await.expect("because loopback can be listened on");
    lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    let file = format!("file://{}", lab.served().display());
    for location in [file.as_str(), "ssh://git@127.0.0.1/x", "ext::sh -c id", "/other.git", &other.url()] {
        let stopped = lab.stops(Attack::Redirect(format!("{location}/info/refs?service=git-upload-pack"))).await;
        assert!(matches!(stopped, Stopped::Fetch(FetchError::Unreachable(_))), "{location}: {stopped:?}");
    }
    assert_eq!(other.requests(), Vec::<String>::new(), "nobody else was asked");
    lab.recovers().await;
}

#[tokio::test]
async fn t41_of_a_stale_a_lying_and_an_honest_mirror_the_longest_valid_chain_is_taken() {
    let mut lab = Lab::new().await;
    let old = lab.accepted();
    let stale = HostileServer::start(&lab.served(), ref_at(old.as_str())).await.expect("because loopback is there");
    let honest = HostileServer::start(&lab.served(), Attack::None).await.expect("because loopback is there");
    let good = lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    lab.git(&["checkout", "-q", "-b", "lie", old.as_str()]);
    lab.commit(Some("mallory"), "apps/lie.yaml", "l: 1\n");
    let lie = lab.commit(Some("mallory"), "apps/lie.yaml", "l: 2\n");
    let stopped = lab.stops(ref_at(lie.as_str())).await;
    assert_eq!(stopped.reason(), Some(Reason::UnknownKey), "{stopped:?}");
    lab.takes_from(&honest.url()).await;
    assert_eq!(lab.accepted(), good);
    // The stale one now offers an older commit; the lying one is still longer. Neither moves anything.
    let stopped = lab.stops(ref_at(lie.as_str())).await;
    assert_eq!(stopped.reason(), Some(Reason::NotDescendant), "{stopped:?}");
    drop(stale);
    assert_eq!(lab.accepted(), good);
}

#[tokio::test]
async fn t43_whoever_sits_on_the_line_can_offer_anything_and_gains_nothing() {
    // What TLS would give is not relied upon: this line has none, and the interceptor makes up the whole answer.
    let mut lab = Lab::new().await;
    lab.commit(Some("mallory"), "trust/root.kdl", "version 1\nroot threshold=1 { member \"mallory\"; }\n");
    let stopped = lab.stops(Attack::None).await;
    assert_eq!(stopped.reason(), Some(Reason::PolicyInvalid), "{stopped:?}");
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.commit(Some("mallory"), "apps/a.yaml", "a: 666\n");
    let stopped = lab.stops(Attack::None).await;
    assert_eq!(stopped.reason(), Some(Reason::UnknownKey), "{stopped:?}");
}

#[tokio::test]
async fn t44_a_server_that_switches_to_the_other_hash_is_refused() {
    for (format, other) in [("sha1", "sha256"), ("sha256", "sha1")] {
        let mut lab = Lab::of_format(format).await;
        lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
        let stopped = lab.stops(Attack::Format(other)).await;
        assert!(matches!(stopped, Stopped::Fetch(_)), "{format}: {stopped:?}");
        lab.recovers().await;
    }
}

#[tokio::test]
async fn one_request_shows_that_nothing_is_new() {
    let mut lab = Lab::new().await;
    let before = lab.server.requests().len();
    lab.takes().await;
    let asked = lab.server.requests().split_off(before);
    // The capabilities, which a client may remember, and one list of the branch.
    assert!(asked == ["capabilities", "ls-refs"] || asked == ["ls-refs"], "{asked:?}");
    let quiet = wait_for("no more requests", std::time::Duration::from_secs(1), || async {
        if lab.server.requests().len() == before + asked.len() { Ok(()) } else { Err("another request") }
    });
    quiet.await.expect("because nothing is new");
}

#[tokio::test]
async fn a_server_that_turns_to_garbage_is_refused_however_it_was_met_before() {
    let garbage: [&[u8]; 8] =
        [b"", b"0000", b"zzzz", b"fff1", b"0006x\n0000", b"0010ERR no more\n", b"<html>a page</html>", &[0; 4096]];
    for stage in [Stage::Refs, Stage::Capabilities] {
        for bytes in garbage {
            let mut lab = Lab::new().await;
            let tip = lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
            let attack = Attack::Answer(stage, bytes.to_vec().into());
            let stopped = lab.stops(attack.clone()).await;
            let typed = matches!(stopped, Stopped::Fetch(FetchError::Unreachable(_) | FetchError::RefMissing(_)));
            assert!(typed, "{attack:?}: {stopped:?}");
            lab.recovers().await;
            assert_eq!(lab.accepted(), tip);
        }
    }
}

#[tokio::test]
async fn a_garbled_answer_to_a_poll_of_one_request_is_asked_again_in_full() {
    let mut lab = Lab::new().await;
    let before = lab.server.requests().len();
    // Nothing is new, so that all that is asked are refs.
    lab.server.attack(Attack::Answer(Stage::Refs, b"0006x\n0000".to_vec().into()));
    let url = lab.server.url();
    let refused = lab.look_at(&url).await.expect_err("because a ref of one letter is none");
    assert!(matches!(refused, Stopped::Fetch(FetchError::Unreachable(_))), "{refused:?}");
    assert_eq!(lab.server.requests().split_off(before), ["ls-refs", "capabilities", "ls-refs"]);
    lab.recovers().await;
}
