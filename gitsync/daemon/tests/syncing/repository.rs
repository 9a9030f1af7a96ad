//! A signed repository, made by real git and ssh-keygen, served over HTTP.

use gitsync_verify::statement::{Beacon, Intent, Recovery, Release, Revoke, whole_seconds};
use gitsync_verify::{
    DeployRef, Introduction, Offer, SignedStatement, Statement, TrustState, introduce, next_step, verify,
};
use machined_ids::{ClusterId, CommitId, Fingerprint};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tests_support::{Server, git};

pub(crate) const CLUSTER: &str = "00112233445566778899aabbccddeeff";

pub(crate) struct Repository {
    folder: tempfile::TempDir,
    server: Server,
}

impl Repository {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("gitsync-sync-").tempdir().expect("because /tmp can be written");
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("because the folder is ours");
        std::fs::create_dir(folder.path().join("served")).expect("because the folder is new");
        run(folder.path(), "git", &["init", "-q", "--bare", "-b", "main", "served/demo.git"]);
        run(folder.path(), "git", &["init", "-q", "-b", "main", "work"]);
        for person in ["ada", "mallory"] {
            run(folder.path(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", person, "-f", person]);
        }
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = git::serve(&folder.path().join("served"), listen).await.expect("because the port is free");
        let repository = Repository { folder, server };
        repository.begin();
        repository
    }

    fn begin(&self) {
        let key = std::fs::read_to_string(self.path().join("ada.pub")).expect("because it was just made");
        let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
        self.write(
            "trust/root.kdl",
            &format!(
                "version 1\nroot threshold=1 {{ member \"ada\"; }}\nprincipal \"ada\" {{ key \"{key}\" {{ use \"commit\" \"login\"; }}; }}\n\
                 role \"admin\" access=\"admin\" {{ member \"ada\"; }}\n\
                 rule \"all\" {{\n    owns \"**\" \"machines/**\" \"cluster.kdl\"\n    approval role=\"admin\" threshold=1\n\
                 \x20   reach {{ namespace \"*\"; kind \"*\"; cluster-scoped #true; }}\n}}\n"
            ),
        );
        self.write(
            "cluster.kdl",
            &format!("cluster {{\n    id \"{CLUSTER}\"\n    name \"demo\"\n    level 1\n    bootstrap \"cp1\"\n    endpoint \"127.0.0.1\"\n}}\n"),
        );
        self.commit(Some("ada"), "begin");
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/demo.git", self.server.address())
    }

    /// What was asked of its server lately, oldest first.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.server.requests()
    }

    /// What a machine that accepted everything up to a revision remembers.
    pub(crate) fn accepted(&self, revision: &str) -> TrustState {
        let introduction = Introduction::from_json(self.introduction().as_bytes()).expect("because it was just made");
        let (tip, objects) = gitsync_fetch::local::read(&self.work(), revision, &[]).expect("because git made it");
        let (mut state, _) = introduce(&introduction, &objects).expect("because it is the introduction's");
        let statements = self.statements();
        let offer = Offer { statements: &statements, ..Offer::of(&tip, &objects) };
        let chain = verify(&state, &offer).expect("because it descends");
        assert_eq!(chain.refused, None);
        state.learn(&chain);
        state
    }

    /// Every statement that is served.
    fn statements(&self) -> Vec<SignedStatement> {
        let served = self.path().join("served/demo.git");
        let names = run(&served, "git", &["for-each-ref", "--format=%(objectname)", "refs/cairn/"]);
        let read = |id| run(&served, "git", &["cat-file", "blob", id]).trim_end().to_owned() + "\n";
        names
            .lines()
            .map(|id| SignedStatement::parse(read(id).as_bytes()).expect("because it was signed here"))
            .collect()
    }

    /// Approves the step from a revision's parent to the revision, and pushes the statement.
    pub(crate) fn approve(&self, revision: &str, signer: &str) {
        let state = self.accepted(&format!("{revision}~1"));
        let (tip, objects) = gitsync_fetch::local::read(&self.work(), revision, &[]).expect("because git made it");
        let Introduction { cluster, deploy_ref, .. } = state.introduction().clone();
        let tree = Introduction::of(&objects, &tip, cluster, deploy_ref.clone()).expect("because it has a policy").tree;
        let parent = state.accepted();
        let release = Release {
            cluster,
            deploy_ref,
            epoch: state.epoch(),
            seq: parent.seq.next(),
            parent: parent.step,
            step: next_step(&parent.step, &tree),
            policy: parent.policy,
            not_after: None,
            intent: Intent::Release,
        };
        self.state(&Statement::Release(release), signer);
    }

    /// Says until when to believe that a revision is the newest, and pushes the statement.
    pub(crate) fn beacon(&self, revision: &str, signer: &str, life: jiff::SignedDuration) {
        self.beacon_at(revision, signer, jiff::Timestamp::now(), life);
    }

    /// As [`Repository::beacon`], by a clock that says `issued`.
    pub(crate) fn beacon_at(&self, revision: &str, signer: &str, issued: jiff::Timestamp, life: jiff::SignedDuration) {
        let state = self.accepted(revision);
        let Introduction { cluster, deploy_ref, .. } = state.introduction().clone();
        let (epoch, seq, step) = (state.epoch(), state.accepted().seq, state.accepted().step);
        let issued = whole_seconds(issued);
        let expires = issued + life;
        self.state(&Statement::Beacon(Beacon { cluster, deploy_ref, epoch, seq, step, issued, expires }), signer);
    }

    /// Ends a key by its own signature, and pushes the statement.
    pub(crate) fn revoke_own(&self, signer: &str) {
        let state = self.accepted("HEAD");
        let fields = run(self.path(), "ssh-keygen", &["-l", "-f", &format!("{signer}.pub")]);
        let key = fields.split(' ').find(|field| field.starts_with("SHA256:")).expect("because ssh-keygen prints it");
        let key = Fingerprint::parse(key).expect("because ssh-keygen prints fingerprints");
        let (cluster, epoch) = (state.introduction().cluster, state.epoch());
        let issued = whole_seconds(jiff::Timestamp::now());
        let revoke = Revoke { cluster, epoch, key, last_good: state.accepted().seq, issued };
        self.state(&Statement::Revoke(revoke), signer);
    }

    /// Has the history begin again at a revision, in the next epoch.
    pub(crate) fn recover(&self, revision: &str, signer: &str) {
        let state = self.accepted("HEAD");
        let (commit, objects) = gitsync_fetch::local::read(&self.work(), revision, &[]).expect("because git made it");
        let Introduction { cluster, deploy_ref, .. } = state.introduction().clone();
        let start = Introduction::of(&objects, &commit, cluster, deploy_ref.clone()).expect("because it has a policy");
        let recovery = Recovery {
            cluster,
            old_epoch: state.epoch(),
            new_epoch: state.epoch().next(),
            commit,
            commit_sha256: start.commit_sha256,
            deploy_ref,
            policy: start.policy,
        };
        self.state(&Statement::Recovery(recovery), signer);
    }

    /// Signs a statement with ssh-keygen and serves it.
    fn state(&self, statement: &Statement, signer: &str) {
        let body = self.path().join("statement");
        let _fresh = std::fs::remove_file(self.path().join("statement.sig"));
        std::fs::write(&body, statement.body()).expect("because /tmp can be written");
        run(self.path(), "ssh-keygen", &["-q", "-Y", "sign", "-n", statement.namespace(), "-f", signer, "statement"]);
        let armour = std::fs::read_to_string(self.path().join("statement.sig")).expect("because it was just made");
        let text = statement.body() + &armour;
        std::fs::write(&body, &text).expect("because /tmp can be written");
        let served = self.path().join("served/demo.git");
        let id = run(&served, "git", &["hash-object", "-w", "../../statement"]);
        let name = format!("{}{}-{signer}", statement.refs(), &id[..16]);
        run(&served, "git", &["update-ref", &name, &id]);
    }

    /// Copies the served repository under another name, as it is now.
    pub(crate) fn mirror(&self, name: &str) -> String {
        run(&self.path().join("served"), "git", &["clone", "-q", "--bare", "demo.git", name]);
        format!("http://{}/{name}", self.server.address())
    }

    /// A mirror that serves the branch and the approvals beside it, and nothing else.
    pub(crate) fn mirror_with_approvals(&self, name: &str) -> String {
        let url = self.mirror(name);
        let served = self.path().join("served").join(name);
        run(&served, "git", &["fetch", "-q", "../demo.git", "+refs/cairn/approvals/*:refs/cairn/approvals/*"]);
        url
    }

    /// Has a mirror serve the branch as it is now, and none of the statements beside it.
    pub(crate) fn catch_up(&self, name: &str) {
        let served = self.path().join("served").join(name);
        run(&served, "git", &["fetch", "-q", "../demo.git", "+refs/heads/main:refs/heads/main"]);
    }

    /// Takes every statement from the served repository.
    pub(crate) fn drop_statements(&self) {
        let served = self.path().join("served/demo.git");
        for name in run(&served, "git", &["for-each-ref", "--format=%(refname)", "refs/cairn/"]).lines() {
            run(&served, "git", &["update-ref", "-d", name]);
        }
    }

    /// Puts an unsigned commit on top of a mirror.
    pub(crate) fn deface(&self, name: &str) -> CommitId {
        let served = self.path().join("served").join(name);
        let tree = run(&served, "git", &["rev-parse", "main~1^{tree}"]);
        let commit = run(&served, "git", &["commit-tree", &tree, "-p", "main", "-m", "x"]);
        run(&served, "git", &["update-ref", "refs/heads/main", &commit]);
        CommitId::parse(&commit).expect("because git prints ids")
    }

    /// A bundle of the whole branch.
    pub(crate) fn bundle(&self) -> PathBuf {
        let path = self.path().join("brought.bundle");
        run(&self.work(), "git", &["bundle", "create", "-q", &path.display().to_string(), "main"]);
        path
    }

    fn work(&self) -> PathBuf {
        self.path().join("work")
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let file = self.work().join(path);
        std::fs::create_dir_all(file.parent().expect("because it has a folder")).expect("because /tmp can be written");
        std::fs::write(file, text).expect("because /tmp can be written");
    }

    pub(crate) fn remove(&self, path: &str) {
        std::fs::remove_file(self.work().join(path)).expect("because the file is there");
    }

    /// Commits everything, signed by somebody or by nobody, and pushes, forced if need be.
    pub(crate) fn commit(&self, signer: Option<&str>, subject: &str) -> CommitId {
        let work = self.work();
        run(&work, "git", &["add", "-A"]);
        let key = format!("user.signingkey={}", self.path().join(signer.unwrap_or_default()).display());
        let message = format!("{subject}\n\nCairn-Target: {CLUSTER} refs/heads/main\n");
        let mut arguments = vec!["-c", "gpg.format=ssh", "-c", &key];
        arguments.extend(["commit", "-q", "--allow-empty", "-m", &message]);
        arguments.extend(signer.map(|_| "-S"));
        run(&work, "git", &arguments);
        self.push()
    }

    fn push(&self) -> CommitId {
        run(&self.work(), "git", &["push", "-q", "-f", "../served/demo.git", "HEAD:refs/heads/main"]);
        self.head()
    }

    /// Moves the branch back.
    pub(crate) fn reset(&self, commit: &CommitId) {
        self.reset_to(commit.as_str());
    }

    /// Moves the branch to a revision.
    pub(crate) fn reset_to(&self, revision: &str) {
        run(&self.work(), "git", &["reset", "-q", "--hard", revision]);
        self.push();
    }

    pub(crate) fn head(&self) -> CommitId {
        self.revision("HEAD")
    }

    pub(crate) fn revision(&self, revision: &str) -> CommitId {
        CommitId::parse(&run(&self.work(), "git", &["rev-parse", revision])).expect("because git prints ids")
    }

    /// The introduction to the first commit, as `cairnctl init` would write it.
    pub(crate) fn introduction(&self) -> String {
        let first = run(&self.work(), "git", &["rev-list", "--max-parents=0", "HEAD"]);
        let (commit, objects) = gitsync_fetch::local::read(&self.work(), &first, &[]).expect("because git made it");
        let cluster = ClusterId::parse(CLUSTER).expect("because it is hex");
        let deploy_ref = DeployRef::parse("refs/heads/main").expect("because it is a branch");
        Introduction::of(&objects, &commit, cluster, deploy_ref).expect("because the first commit is good").to_json()
    }

    /// The document of machine cp1.
    pub(crate) fn enroll(&self, identity: &Fingerprint) -> CommitId {
        self.enroll_as("cp1", identity)
    }

    /// The document of a control-plane machine.
    pub(crate) fn enroll_as(&self, name: &str, identity: &Fingerprint) -> CommitId {
        self.enroll_with(name, identity, "control-plane")
    }

    /// The document of a machine with a role.
    pub(crate) fn enroll_with(&self, name: &str, identity: &Fingerprint, role: &str) -> CommitId {
        self.write(
            &format!("machines/{name}.kdl"),
            &format!("machine \"{name}\" {{\n    identity \"{identity}\"\n    role \"{role}\"\n}}\n"),
        );
        self.commit(Some("ada"), &format!("enrol {name}"))
    }
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    tests_support::git::run(folder, program, arguments).expect("because git and ssh-keygen work where tests run")
}
