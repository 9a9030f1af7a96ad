//! The fetch child against real git servers: git's own `http-backend`, and servers that misbehave.

mod polls;

use gitsync_fetch::{Brought, FetchError, Fetched, Fetcher, RepositoryUrl, Request};
use gitsync_verify::{DeployRef, ObjectId, ObjectKind};
use machined_ids::CommitId;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tests_support::{Server, git};

struct Lab {
    folder: tempfile::TempDir,
    server: Server,
    manners: Arc<git::Manners>,
}

impl Lab {
    async fn new(format: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("gitsync-fetch-").tempdir().expect("because /tmp can be written");
        // The child drops to another user when tests run as root, and has to get into its folder.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("because the folder is ours");
        let served = folder.path().join("served");
        std::fs::create_dir(&served).expect("because the folder is new");
        let format = format!("--object-format={format}");
        git::git(&served, &["init", "-q", "--bare", "-b", "main", &format, "demo.git"]).expect("because git works");
        git::git(folder.path(), &["init", "-q", "-b", "main", &format, "work"]).expect("because git works");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let manners = Arc::<git::Manners>::default();
        let server = git::serve_as(&served, listen, Arc::clone(&manners)).await.expect("because the port is free");
        Lab { folder, server, manners }
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn git(&self, arguments: &[&str]) -> String {
        git::git(&self.work(), arguments).expect("because git works")
    }

    /// Commits a file and pushes the branch.
    fn push(&self, path: &str, text: &str) -> CommitId {
        let file = self.work().join(path);
        std::fs::create_dir_all(file.parent().expect("because it has a folder")).expect("because /tmp can be written");
        std::fs::write(file, text).expect("because /tmp can be written");
        self.git(&["add", "-A"]);
        self.git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", path]);
        self.git(&["push", "-q", "-f", "../served/demo.git", "HEAD:refs/heads/main"]);
        CommitId::parse(&self.git(&["rev-parse", "HEAD"])).expect("because git prints ids")
    }

    fn url(&self) -> RepositoryUrl {
        RepositoryUrl::parse(&format!("http://{}/demo.git", self.server.address())).expect("because it is a URL")
    }

    fn request(&self, tip: Option<&CommitId>, stop_at: &[CommitId]) -> Request {
        Request {
            folder: self.folder.path().join("fetch"),
            url: Some(self.url()),
            deploy_ref: DeployRef::parse("refs/heads/main").expect("because it is a branch"),
            tip: tip.cloned(),
            stop_at: stop_at.to_vec(),
            bundle: None,
            statements: Vec::new(),
            dialect: None,
        }
    }
}

fn fetcher() -> Fetcher {
    Fetcher::new(Path::new(env!("CARGO_BIN_EXE_gitsync")), &["fetch-child"])
}

async fn fetch(request: &Request) -> (CommitId, gitsync_verify::ObjectSet) {
    match fetcher().fetch(request).await.map(|answer| answer.fetched) {
        Ok(Fetched::New(tip, objects, _)) => (tip, objects),
        Ok(Fetched::Unchanged(tip)) => panic!("unchanged at {tip}"),
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

#[tokio::test]
async fn a_chain_comes_whole_and_a_second_look_brings_nothing() {
    let lab = Lab::new("sha1").await;
    let first = lab.push("apps/a.yaml", "a: 1\n");
    let second = lab.push("apps/deep/b.yaml", "b: 1\n");
    let (tip, objects) = fetch(&lab.request(None, &[])).await;
    assert_eq!(tip, second);
    // Two commits; the first has two trees and one blob, the second two more trees and one more blob besides apps/a.yaml.
    assert_eq!(objects.len(), 2 + 2 + 1 + 3 + 1);
    assert!(objects.get(&ObjectId::of_commit(&first), ObjectKind::Commit).is_ok());
    match fetcher().fetch(&lab.request(Some(&second), &[])).await.map(|answer| answer.fetched) {
        Ok(Fetched::Unchanged(tip)) => assert_eq!(tip, second),
        other => panic!("{other:?}"),
    }
    let third = lab.push("apps/a.yaml", "a: 2\n");
    let (tip, objects) = fetch(&lab.request(Some(&second), std::slice::from_ref(&second))).await;
    assert_eq!(tip, third);
    assert!(!objects.contains(&ObjectId::of_commit(&first)), "the chain stops at what is known");
}

#[tokio::test]
async fn a_first_fetch_takes_no_more_history_than_leads_back_to_where_it_starts() {
    let lab = Lab::new("sha1").await;
    let commits: Vec<CommitId> = (0..40).map(|number| lab.push("a", &format!("{number}\n"))).collect();
    let (tip, objects) = fetch(&lab.request(None, std::slice::from_ref(&commits[35]))).await;
    assert_eq!(tip, commits[39]);
    assert!(objects.contains(&ObjectId::of_commit(&commits[35])));
    let here = |commit: &CommitId| {
        git::git(&lab.folder.path().join("fetch"), &["-c", "safe.directory=*", "cat-file", "-e", commit.as_str()])
            .is_ok()
    };
    assert!(here(&commits[30]) && !here(&commits[10]), "16 commits are asked for first");
    // What comes next builds on what is here.
    let next = lab.push("a", "next\n");
    let (tip, objects) = fetch(&lab.request(Some(&commits[39]), std::slice::from_ref(&commits[39]))).await;
    assert_eq!(tip, next);
    assert!(objects.contains(&ObjectId::of_commit(&commits[39])));
}

#[tokio::test]
async fn a_first_fetch_takes_the_newest_commit_alone_when_it_starts_there() {
    let lab = Lab::new("sha1").await;
    let commits: Vec<CommitId> = (0..3).map(|number| lab.push("a", &format!("{number}\n"))).collect();
    let (tip, objects) = fetch(&lab.request(None, std::slice::from_ref(&commits[2]))).await;
    assert_eq!(tip, commits[2]);
    assert_eq!(objects.len(), 3, "the commit, its tree and its blob");
    let behind = ["-c", "safe.directory=*", "cat-file", "-e", commits[1].as_str()];
    assert!(git::git(&lab.folder.path().join("fetch"), &behind).is_err());
}

#[tokio::test]
async fn a_first_fetch_goes_back_as_far_as_it_must() {
    let lab = Lab::new("sha1").await;
    let commits: Vec<CommitId> = (0..40).map(|number| lab.push("a", &format!("{number}\n"))).collect();
    let (_, objects) = fetch(&lab.request(None, std::slice::from_ref(&commits[0]))).await;
    assert!(commits.iter().all(|commit| objects.contains(&ObjectId::of_commit(commit))));
    let elsewhere = CommitId::parse(&"7".repeat(40)).expect("because it is hex");
    let other = Request { folder: lab.folder.path().join("other"), ..lab.request(None, &[elsewhere]) };
    assert_eq!(fetch(&other).await.1.len(), 40, "only commits, for the verifier to say that they do not descend");
}

#[tokio::test]
async fn a_sha256_repository_is_fetched_when_a_commit_of_it_is_known() {
    let lab = Lab::new("sha256").await;
    let first = lab.push("a", "1\n");
    let tip = lab.push("a", "2\n");
    assert_eq!(fetch(&lab.request(None, &[first])).await.0, tip);
}

#[tokio::test]
async fn what_was_fetched_is_read_again_without_a_network() {
    let lab = Lab::new("sha1").await;
    let tip = lab.push("apps/a.yaml", "a: 1\n");
    let (_, before) = fetch(&lab.request(None, &[])).await;
    let request = Request { url: None, ..lab.request(Some(&tip), std::slice::from_ref(&tip)) };
    let (again, objects) = fetch(&request).await;
    assert_eq!((again, objects.len()), (tip, before.len()));
}

#[tokio::test]
async fn t2_a_rewritten_branch_brings_commits_only() {
    let lab = Lab::new("sha1").await;
    let known = lab.push("a", "1\n");
    fetch(&lab.request(None, &[])).await;
    lab.git(&["checkout", "-q", "--orphan", "other"]);
    let other = lab.push("b", "1\n");
    let (tip, objects) = fetch(&lab.request(Some(&known), std::slice::from_ref(&known))).await;
    assert_eq!(tip, other);
    assert_eq!(objects.len(), 1, "the verifier needs no trees to say that it does not descend");
}

#[tokio::test]
async fn an_empty_repository_and_a_missing_branch_are_said() {
    let lab = Lab::new("sha1").await;
    assert!(matches!(fetcher().fetch(&lab.request(None, &[])).await, Err(FetchError::RefMissing(_))));
    lab.push("a", "1\n");
    let other = DeployRef::parse("refs/heads/other").expect("because it is a branch");
    let request = Request { deploy_ref: other, ..lab.request(None, &[]) };
    assert!(matches!(fetcher().fetch(&request).await, Err(FetchError::RefMissing(_))));
}

#[tokio::test]
async fn a_server_that_is_gone_and_comes_back_costs_nothing() {
    let lab = Lab::new("sha1").await;
    let tip = lab.push("a", "1\n");
    let nobody = RepositoryUrl::parse("http://127.0.0.1:1/demo.git").expect("because it is a URL");
    let request = Request { url: Some(nobody), ..lab.request(None, &[]) };
    let error = fetcher().fetch(&request).await.expect_err("because nobody listens there");
    assert!(matches!(error, FetchError::Unreachable(_)), "{error}");
    assert_eq!(fetch(&lab.request(None, &[])).await.0, tip);
}

#[tokio::test]
async fn t12_a_branch_deleted_and_made_again_is_fetched() {
    let lab = Lab::new("sha1").await;
    let first = lab.push("a", "1\n");
    fetch(&lab.request(None, &[])).await;
    git::git(&lab.folder.path().join("served/demo.git"), &["update-ref", "-d", "refs/heads/main"])
        .expect("because git works");
    assert!(matches!(fetcher().fetch(&lab.request(Some(&first), &[])).await, Err(FetchError::RefMissing(_))));
    let second = lab.push("a", "2\n");
    assert_eq!(fetch(&lab.request(Some(&first), std::slice::from_ref(&first))).await.0, second);
}

#[tokio::test]
async fn a_damaged_fetch_folder_is_made_afresh() {
    let lab = Lab::new("sha1").await;
    let tip = lab.push("a", "1\n");
    fetch(&lab.request(None, &[])).await;
    std::fs::write(lab.folder.path().join("fetch/config"), "[core\n").expect("because the folder is there");
    assert_eq!(fetch(&lab.request(None, &[])).await.0, tip);
}

#[tokio::test]
async fn a_child_that_says_nothing_is_an_error_and_no_hang() {
    let lab = Lab::new("sha1").await;
    let silent = Fetcher::new("/bin/true", &[]);
    assert!(matches!(silent.fetch(&lab.request(None, &[])).await, Err(FetchError::Child(_))));
}

impl Lab {
    /// Puts a text under a ref of the served repository, as `cairnctl approve` pushes statements.
    fn serve_blob(&self, name: &str, text: &[u8]) -> String {
        let served = self.folder.path().join("served/demo.git");
        let file = self.folder.path().join("blob");
        std::fs::write(&file, text).expect("because /tmp can be written");
        let file = file.display().to_string();
        let id = git::git(&served, &["hash-object", "-w", &file]).expect("because git works");
        git::git(&served, &["update-ref", name, &id]).expect("because git works");
        id
    }

    fn bundle(&self, arguments: &[&str]) -> Request {
        let path = self.folder.path().join("brought.bundle");
        let name = path.display().to_string();
        self.git(&[&["bundle", "create", "-q", name.as_str()], arguments].concat());
        Request { url: None, bundle: Some(path), ..self.request(None, &[]) }
    }
}

async fn statements(request: &Request) -> Option<Vec<Brought>> {
    match fetcher().fetch(request).await.expect("because the server is good").fetched {
        Fetched::New(_, _, statements) => Some(statements),
        Fetched::Unchanged(_) => None,
    }
}

#[tokio::test]
async fn statements_come_with_the_branch_and_a_new_one_alone_is_news() {
    let lab = Lab::new("sha1").await;
    let tip = lab.push("a", "1\n");
    let approval = lab.serve_blob("refs/cairn/approvals/3f-ada", b"approved\n");
    lab.serve_blob("refs/other/x", b"not a statement\n");
    let first = statements(&lab.request(None, &[])).await.expect("because nothing was known");
    assert_eq!(first, [Brought { id: approval.clone(), bytes: b"approved\n".to_vec() }]);
    let known = |statements: &[&String]| {
        let statements = statements.iter().map(|id| (*id).clone()).collect();
        Request { statements, ..lab.request(Some(&tip), std::slice::from_ref(&tip)) }
    };
    assert_eq!(statements(&known(&[&approval])).await, None, "nothing is new");
    let beacon = lab.serve_blob("refs/cairn/fresh/tip-robot", b"fresh\n");
    let large = lab.serve_blob("refs/cairn/revoke/key-ada", &[b'x'; 5000]);
    let second = statements(&known(&[&approval])).await.expect("because two are new");
    let expected = [(large.clone(), Vec::new()), (beacon.clone(), b"fresh\n".to_vec())];
    assert_eq!(second, expected.map(|(id, bytes)| Brought { id, bytes }), "what is too large is no statement");
    assert_eq!(statements(&known(&[&approval, &large, &beacon])).await, None);
}

#[tokio::test]
async fn a_ref_that_points_at_no_blob_brings_nothing_and_breaks_nothing() {
    let lab = Lab::new("sha1").await;
    let tip = lab.push("a", "1\n");
    git::git(&lab.folder.path().join("served/demo.git"), &["update-ref", "refs/cairn/approvals/x", tip.as_str()])
        .expect("because git works");
    let came = statements(&lab.request(None, &[])).await.expect("because nothing was known");
    assert_eq!(came, [Brought { id: tip.to_string(), bytes: Vec::new() }]);
}

#[tokio::test]
async fn a_bundle_brings_the_branch_and_its_statements_like_a_server() {
    for format in ["sha1", "sha256"] {
        let lab = Lab::new(format).await;
        lab.push("apps/a.yaml", "a: 1\n");
        let tip = lab.push("apps/a.yaml", "a: 2\n");
        std::fs::write(lab.work().join("../statement"), "approved\n").expect("because /tmp can be written");
        let blob = lab.git(&["hash-object", "-w", "../statement"]);
        lab.git(&["update-ref", "refs/cairn/approvals/3f-ada", &blob]);
        match fetcher().fetch(&lab.bundle(&["main", "refs/cairn/approvals/3f-ada"])).await.map(|answer| answer.fetched)
        {
            Ok(Fetched::New(came, objects, statements)) => {
                assert_eq!((came, objects.len()), (tip, 2 + 4 + 2));
                assert_eq!(statements, [Brought { id: blob, bytes: b"approved\n".to_vec() }]);
            }
            other => panic!("{format}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_bundle_of_what_is_new_builds_on_what_was_fetched() {
    let lab = Lab::new("sha1").await;
    let first = lab.push("a", &"a line that makes a delta worth it\n".repeat(100));
    let second = lab.push("a", &"a line that makes a delta worth it\n".repeat(101));
    let request = lab.bundle(&[&format!("{first}..main")]);
    let refused = fetcher().fetch(&request).await.expect_err("because nothing was fetched yet");
    assert!(matches!(&refused, FetchError::Transfer(words) if words.contains(first.as_str())), "{refused}");
    lab.git(&["push", "-q", "-f", "../served/demo.git", &format!("{first}:refs/heads/main")]);
    fetch(&lab.request(None, &[])).await;
    let request = Request { stop_at: vec![first], ..request };
    assert_eq!(fetch(&request).await.0, second);
}

#[tokio::test]
async fn a_bundle_that_is_cut_off_or_names_another_branch_fails_and_changes_nothing() {
    let lab = Lab::new("sha1").await;
    let tip = lab.push("a", "1\n");
    let request = lab.bundle(&["main"]);
    let path = request.bundle.clone().expect("because it is a bundle's request");
    let whole = std::fs::read(&path).expect("because git wrote it");
    for length in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).expect("because /tmp can be written");
        let refused = fetcher().fetch(&request).await.expect_err("because the end is missing");
        assert!(matches!(refused, FetchError::Transfer(_)), "{length} bytes: {refused}");
    }
    std::fs::write(&path, &whole).expect("because /tmp can be written");
    let other = DeployRef::parse("refs/heads/other").expect("because it is a branch");
    let refused = fetcher().fetch(&Request { deploy_ref: other, ..request.clone() }).await;
    assert!(matches!(refused, Err(FetchError::RefMissing(_))));
    assert_eq!(fetch(&request).await.0, tip);
}
