//! What a poll asks of a server, counted: one request when the server was met before, and whatever it takes when the server changed.

use crate::{Lab, fetcher};
use gitsync_fetch::{Answer, Dialect, FetchError, Fetched, Request};
use machined_ids::CommitId;
use std::sync::atomic::Ordering;
use tests_support::git;

const POST: &str = "POST /demo.git/git-upload-pack";
const GET: &str = "GET /demo.git/info/refs?service=git-upload-pack";

/// A machine that has judged the tip of a branch of two commits, and what its first fetch learned of the server.
async fn met(format: &str) -> (Lab, CommitId, Dialect) {
    let lab = Lab::new(format).await;
    let first = lab.push("a", "1\n");
    let tip = lab.push("a", "2\n");
    let answer = fetcher().fetch(&lab.request(None, &[first])).await.expect("because the server is good");
    (lab, tip, answer.dialect.expect("because git speaks version 2"))
}

impl Lab {
    /// A poll by a machine that has judged `tip`.
    fn poll(&self, tip: &CommitId, dialect: Option<Dialect>) -> Request {
        Request { dialect, ..self.request(Some(tip), std::slice::from_ref(tip)) }
    }

    /// Fetches, and gives what was asked of the server for it.
    async fn asked(&self, request: &Request) -> (Result<Answer, FetchError>, Vec<String>) {
        let before = self.server.requests().len();
        let answer = fetcher().fetch(request).await;
        (answer, self.server.requests().split_off(before))
    }
}

/// Asserts that a poll found the branch where it was; gives how the server spoke.
fn unchanged(answer: Result<Answer, FetchError>, tip: &CommitId) -> Option<Dialect> {
    let answer = answer.expect("because the server is good");
    assert!(matches!(&answer.fetched, Fetched::Unchanged(at) if at == tip), "{:?}", answer.fetched);
    answer.dialect
}

#[tokio::test]
async fn a_poll_with_nothing_new_is_one_request() {
    for (format, dialect) in [("sha1", Dialect::Sha1), ("sha256", Dialect::Sha256)] {
        let (lab, tip, learned) = met(format).await;
        assert_eq!(learned, dialect);
        for _ in 0..3 {
            let (answer, asked) = lab.asked(&lab.poll(&tip, Some(learned))).await;
            assert_eq!(unchanged(answer, &tip), Some(learned));
            assert_eq!(asked, [POST]);
        }
    }
}

#[tokio::test]
async fn a_server_that_was_never_met_is_asked_how_it_speaks_first() {
    let (lab, tip, learned) = met("sha1").await;
    let (answer, asked) = lab.asked(&lab.poll(&tip, None)).await;
    assert_eq!((unchanged(answer, &tip), asked), (Some(learned), vec![GET.to_owned(), POST.to_owned()]));
}

#[tokio::test]
async fn a_poll_of_one_request_sees_news() {
    let (lab, tip, learned) = met("sha1").await;
    let approval = lab.serve_blob("refs/cairn/approvals/3f-ada", b"approved\n");
    let answer = fetcher().fetch(&lab.poll(&tip, Some(learned))).await.expect("because the server is good");
    assert!(matches!(&answer.fetched, Fetched::New(at, _, brought) if *at == tip && brought[0].id == approval));
    let next = lab.push("a", "3\n");
    let request = Request { statements: vec![approval], ..lab.poll(&tip, answer.dialect) };
    let answer = fetcher().fetch(&request).await.expect("because the server is good");
    assert!(matches!(&answer.fetched, Fetched::New(at, ..) if *at == next));
    let (answer, asked) = lab.asked(&Request { dialect: answer.dialect, ..lab.poll(&next, None) }).await;
    assert!(matches!(answer.expect("because the server is good").fetched, Fetched::New(at, ..) if at == next));
    assert_eq!(asked[0], POST, "{asked:?}");
}

#[tokio::test]
async fn what_is_remembered_wrongly_costs_a_second_try_and_is_put_right() {
    for (format, right) in [("sha1", Dialect::Sha1), ("sha256", Dialect::Sha256)] {
        let (lab, tip, _) = met(format).await;
        for wrong in [Dialect::Sha1, Dialect::Sha256, Dialect::Unnamed] {
            let (answer, asked) = lab.asked(&lab.poll(&tip, Some(wrong))).await;
            let learned = unchanged(answer, &tip);
            // git takes a command that names no format as one for SHA-1.
            let fits = wrong == right || (wrong == Dialect::Unnamed && right == Dialect::Sha1);
            let (dialect, requests) = if fits { (wrong, &[POST][..]) } else { (right, &[POST, GET, POST][..]) };
            assert_eq!(learned, Some(dialect));
            assert_eq!(asked, requests);
        }
    }
}

#[tokio::test]
async fn a_server_that_forgot_version_two_is_still_followed_and_may_learn_it_again() {
    let (lab, tip, learned) = met("sha1").await;
    lab.manners.old.store(true, Ordering::Relaxed);
    let (answer, asked) = lab.asked(&lab.poll(&tip, Some(learned))).await;
    assert_eq!((unchanged(answer, &tip), asked), (None, vec![POST.to_owned(), GET.to_owned()]));
    let (answer, asked) = lab.asked(&lab.poll(&tip, None)).await;
    assert_eq!((unchanged(answer, &tip), asked), (None, vec![GET.to_owned()]), "versions 0 and 1 list refs at once");
    lab.manners.old.store(false, Ordering::Relaxed);
    let (answer, _) = lab.asked(&lab.poll(&tip, None)).await;
    assert_eq!(unchanged(answer, &tip), Some(learned));
}

#[tokio::test]
async fn a_server_that_is_ill_is_asked_once() {
    let (lab, tip, learned) = met("sha1").await;
    lab.manners.ill.store(true, Ordering::Relaxed);
    let (answer, asked) = lab.asked(&lab.poll(&tip, Some(learned))).await;
    assert!(matches!(answer, Err(FetchError::Unreachable(_))), "{answer:?}");
    assert_eq!(asked, [POST]);
}

#[tokio::test]
async fn a_branch_that_is_gone_is_missed_only_after_a_whole_exchange() {
    let (lab, tip, learned) = met("sha1").await;
    git::git(&lab.folder.path().join("served/demo.git"), &["update-ref", "-d", "refs/heads/main"])
        .expect("because git works");
    let (answer, asked) = lab.asked(&lab.poll(&tip, Some(learned))).await;
    assert!(matches!(answer, Err(FetchError::RefMissing(_))), "{answer:?}");
    assert_eq!(asked, [POST, GET, POST]);
}
