//! Everything that people sign, with a hardware key behind an SSH agent: it works with a touch, and without one nobody takes it.

use crate::lab::{Lab, Said};
use jiff::Timestamp;
use machined_access::{Denied, Peer, Principal, Proven, SignedLogin};
use machined_ids::PrincipalName;
use std::path::PathBuf;
use tests_support::agent::Agent;
use tests_support::authenticator::Authenticator;

/// A computer whose agent holds ada's only key, which is hardware, and the cluster that she made with it.
struct Desk {
    lab: Lab,
    agent: Agent,
    socket: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let (lab, key) = (Lab::empty(), Authenticator::from_seed([5; 32]));
        lab.write(&lab.path("ada.pub"), &format!("{} ada\n", key.public_key()));
        let socket = lab.path("agent");
        let agent = Agent::start(&socket, key).expect("because /tmp can be written");
        let desk = Desk { lab, agent, socket };
        let words = ["init", "demo", "--name", "ada", "--ssh-key", "ada.pub", "--endpoint", "127.0.0.1"];
        desk.agent.touch(1);
        desk.lab.cairnctl_with(desk.lab.root(), &words, &[("SSH_AUTH_SOCK", &desk.socket)]).good();
        desk.lab.git(desk.lab.root(), &["clone", "-q", "--bare", "demo", "forge.git"]);
        desk.lab.git(&desk.lab.demo(), &["remote", "add", "origin", "../forge.git"]);
        desk.lab.git(&desk.lab.demo(), &["fetch", "-q", "origin"]);
        desk
    }

    /// Runs `cairnctl` in the checkout; the holder touches the key for so many signatures.
    fn cairnctl(&self, touches: u32, arguments: &[&str]) -> Said {
        self.agent.touch(touches);
        self.lab.cairnctl_with(&self.lab.demo(), arguments, &[("SSH_AUTH_SOCK", &self.socket)])
    }

    /// Commits a change on the branch that is checked out, signed by the key with or without a touch.
    fn commit(&self, touches: u32, path: &str) -> String {
        self.agent.touch(touches);
        self.lab.write(&self.lab.demo().join(path), "# notes\n");
        self.lab.git(&self.lab.demo(), &["add", "-A"]);
        let signed = [("SSH_AUTH_SOCK", self.socket.as_path())];
        self.lab.run_with(&self.lab.demo(), "git", &["commit", "-q", "-S", "-m", path], &signed).good();
        self.lab.git(&self.lab.demo(), &["rev-parse", "HEAD"])
    }

    /// A branch with one change that somebody else made.
    fn pull_request(&self) {
        let demo = self.lab.demo();
        self.lab.git(&demo, &["checkout", "-q", "-b", "feature"]);
        self.lab.write(&demo.join("docs/feature.md"), "# a feature\n");
        self.lab.git(&demo, &["add", "-A"]);
        self.lab.git(&demo, &["commit", "-q", "--no-gpg-sign", "-m", "A feature"]);
        self.lab.git(&demo, &["push", "-q", "origin", "feature"]);
        self.lab.git(&demo, &["checkout", "-q", "main"]);
    }
}

#[test]
fn t23_a_commit_by_a_hardware_key_needs_a_touch() {
    let desk = Desk::new();
    let good = desk.commit(1, "docs/a.md");
    let report = desk.cairnctl(0, &["verify", "-o", "json"]);
    assert_eq!((report.code, report.json()["tip"].as_str()), (0, Some(good.as_str())), "{report:?}");
    let bad = desk.commit(0, "docs/b.md");
    let report = desk.cairnctl(0, &["verify", "-o", "json"]);
    let refusal = &report.json()["refusal"];
    assert_eq!(
        (report.code, &refusal["reason"], &refusal["commit"]),
        (1, &"NoTouch".into(), &bad.as_str().into()),
        "{report:?}"
    );
}

#[test]
fn t23_an_approval_by_a_hardware_key_needs_a_touch() {
    let desk = Desk::new();
    desk.pull_request();
    let refused = desk.cairnctl(0, &["approve", "origin/feature"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("NoTouch"), "{refused:?}");
    let stored = |desk: &Desk| desk.lab.git(&desk.lab.path("forge.git"), &["for-each-ref", "refs/cairn/"]);
    assert_eq!(stored(&desk), "", "nothing was published");
    let approved = desk.cairnctl(1, &["approve", "origin/feature", "-o", "json"]);
    assert_eq!((approved.code, &approved.json()["principal"]), (0, &"ada".into()), "{approved:?}");
    assert!(stored(&desk).contains("refs/cairn/approvals/"));
}

#[test]
fn t23_a_release_by_a_hardware_key_needs_a_touch() {
    let desk = Desk::new();
    desk.pull_request();
    let branch = |desk: &Desk| desk.lab.git(&desk.lab.path("forge.git"), &["rev-parse", "main"]);
    let before = branch(&desk);
    let refused = desk.cairnctl(0, &["release", "origin/feature"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("NoTouch"), "{refused:?}");
    assert_eq!(branch(&desk), before, "the branch did not move");
    // One touch for the statement, which is the approval, and one for the merge that carries it.
    let released = desk.cairnctl(2, &["release", "origin/feature", "-o", "json"]);
    assert_eq!(released.code, 0, "{released:?}");
    assert_eq!(released.json()["commit"].as_str(), Some(branch(&desk).as_str()));
    let introduction = "demo/.git/cairn-introduction.json";
    let said = desk.lab.cairnctl(desk.lab.root(), &["verify", "forge.git", "--introduction", introduction]);
    assert_eq!(said.code, 0, "{said:?}");
}

/// What both APIs say of the login that lies on this computer, by the policy of the checkout's accepted step.
fn who(desk: &Desk) -> Result<Principal, Denied> {
    let folder = desk.lab.path(".config/cairn/logins");
    let file = std::fs::read_dir(folder).expect("because somebody logged in").flatten().next();
    let text = std::fs::read_to_string(file.expect("because somebody logged in").path()).expect("because it is ours");
    let session: serde_json::Value = serde_json::from_str(&text).expect("because it is JSON");
    let token = session["token"].as_str().expect("because a login has a token");
    let login = SignedLogin::from_token(token).expect("because cairnctl wrote it");
    let client = login.statement().client_key.clone();
    Proven::new(Peer::Key(client)).authenticate(&access(desk), Some(token), Timestamp::now())
}

/// The access table that gitsync hands down for the tip of the checkout.
fn access(desk: &Desk) -> machined_access::AccessTable {
    use gitsync_verify::{Introduction, introduce};
    let file = desk.lab.path("demo/.git/cairn-introduction.json");
    let introduction = std::fs::read(file).expect("because init wrote it");
    let introduction = Introduction::from_json(&introduction).expect("because init wrote it");
    let stop_at = std::slice::from_ref(&introduction.commit);
    let (_, objects) = gitsync_fetch::local::read(&desk.lab.demo(), "HEAD", stop_at).expect("because git made it");
    let (state, first) = introduce(&introduction, &objects).expect("because it is the checkout's own");
    gitsync_verify::access_table(introduction.cluster, state.accepted(), first.policy(), Default::default())
}

#[test]
fn t23_a_login_by_a_hardware_key_needs_a_touch() {
    let desk = Desk::new();
    // There is no machine to ask, so the command fails after it has made the login; both APIs judge such a login like this.
    desk.cairnctl(0, &["login"]);
    assert!(matches!(who(&desk), Err(Denied::NoTouch { .. })), "{:?}", who(&desk));
    desk.cairnctl(1, &["login"]);
    let ada = PrincipalName::parse("ada").expect("because it is a name");
    assert!(matches!(who(&desk), Ok(Principal::Person { name, .. }) if name == ada), "{:?}", who(&desk));
}
