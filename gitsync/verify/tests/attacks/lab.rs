//! A real repository made by real git and ssh-keygen in a temporary folder, and everything in it as an `ObjectSet`.

use gitsync_verify::mark::SignedMark;
use gitsync_verify::statement::{Intent, Release};
use gitsync_verify::{
    Chain, Clock, Commit, DeployRef, Introduction, ObjectFormat, ObjectId, ObjectKind, ObjectSet, Offer, Presence,
    Reason, Refusal, SignedStatement, Statement, TrustState, Verified, introduce, next_step, verify,
};
use machined_ids::{ClusterId, CommitId, Fingerprint};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cluster of every lab.
pub(crate) const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// The branch of every lab.
pub(crate) const REF: &str = "refs/heads/main";

/// A repository with its people.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    /// What the source offers beside the commits.
    pub(crate) statements: RefCell<Vec<SignedStatement>>,
    /// The machine's trusted time, when it has one.
    pub(crate) clock: Cell<Clock>,
    /// Marks of machines, as they answer just now.
    pub(crate) marks: RefCell<Vec<SignedMark>>,
    /// The machine that judges.
    pub(crate) own: RefCell<Option<Fingerprint>>,
    /// Somebody stands at the machine.
    pub(crate) presence: Cell<bool>,
    /// Objects' hash: `sha1` or `sha256`.
    pub(crate) format: &'static str,
}

/// How a commit is made.
pub(crate) struct Make<'a> {
    /// Whose key signs; `None` for unsigned.
    pub(crate) signer: Option<&'a str>,
    /// The whole message.
    pub(crate) message: String,
}

/// The trailer that the hook writes.
pub(crate) fn target() -> String {
    format!("Cairn-Target: {CLUSTER} {REF}")
}

fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("because git and ssh-keygen are installed where tests run");
    let mut stdin = child.stdin.take().expect("because it was piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("because the child runs");
    let written = writer.join().expect("because writing does not panic");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    written.expect("because the child reads its input");
    output.stdout
}

impl Lab {
    /// An empty repository.
    pub(crate) fn empty(format: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("gitsync-lab-").tempdir().expect("because /tmp can be written");
        let lab = Lab {
            folder,
            statements: RefCell::default(),
            clock: Cell::default(),
            marks: RefCell::default(),
            own: RefCell::default(),
            presence: Cell::default(),
            format,
        };
        lab.git(&["init", "-q", "-b", "main", &format!("--object-format={format}"), "."]);
        lab
    }

    /// A repository whose first commit has ada as root, role dev = ada and bob, and a rule for `apps/`.
    pub(crate) fn new() -> Self {
        let lab = Lab::empty("sha1");
        lab.found();
        lab
    }

    /// Writes the first policy and commits it.
    pub(crate) fn found(&self) {
        self.write("trust/root.kdl", &self.root_kdl(&["ada"]));
        self.write("trust/people.kdl", &self.people_kdl("commit\" \"login", 1));
        self.write("cluster.kdl", "cluster { id \"00112233445566778899aabbccddeeff\" }\n");
        self.write("apps/web/deploy.yaml", "replicas: 1\n");
        self.commit(&Make { signer: Some("ada"), message: format!("first\n\n{}\n", target()) });
    }

    /// Root's file with these people as root, any one of whom decides.
    pub(crate) fn root_kdl(&self, roots: &[&str]) -> String {
        let people: Vec<_> = roots.iter().map(|name| self.principal_kdl(name, "commit\" \"login")).collect();
        let members: Vec<_> = roots.iter().map(|name| format!("\"{name}\"")).collect();
        format!("version 1\nroot threshold=1 {{ member {}; }}\n{}", members.join(" "), people.join(""))
    }

    /// bob with a key for `uses`, role dev of ada and bob, and the rule `apps` with a threshold.
    pub(crate) fn people_kdl(&self, uses: &str, threshold: u32) -> String {
        format!(
            "{}role \"dev\" access=\"operator\" {{ member \"ada\" \"bob\"; }}\n\
             rule \"apps\" {{\n    owns \"apps/**\"\n    approval role=\"dev\" threshold={threshold}\n}}\n",
            self.principal_kdl("bob", uses)
        )
    }

    /// One principal with one key.
    pub(crate) fn principal_kdl(&self, name: &str, uses: &str) -> String {
        format!("principal \"{name}\" {{ key \"{}\" {{ use \"{uses}\"; }}; }}\n", self.public_key(name))
    }

    /// The repository's folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs git in the repository with nothing of the caller's own configuration.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        self.git_with_input(arguments, &[])
    }

    /// Runs git with bytes on its standard input.
    pub(crate) fn git_with_input(&self, arguments: &[&str], input: &[u8]) -> String {
        let output = run(self.command("git").args(arguments), input);
        String::from_utf8(output).expect("because these commands print text").trim_end().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "Lab").env(format!("GIT_{who}_EMAIL"), "lab@example.org");
            command.env(format!("GIT_{who}_DATE"), "1700000000 +0000");
        }
        command
    }

    fn key_path(&self, name: &str) -> PathBuf {
        self.path().join(".git").join(format!("key-{name}"))
    }

    /// Makes somebody's key; the kind is in the name's ending (`-ecdsa`, `-rsa`), ed25519 otherwise.
    fn key(&self, name: &str) -> PathBuf {
        let path = self.key_path(name);
        if !path.exists() {
            let kind = ["ecdsa", "rsa"].into_iter().find(|kind| name.ends_with(kind)).unwrap_or("ed25519");
            let file = path.to_str().expect("because the temporary folder's name is text");
            run(self.command("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-C", name, "-f", file]), &[]);
        }
        path
    }

    /// Somebody's public key in OpenSSH form, without its comment.
    pub(crate) fn public_key(&self, name: &str) -> String {
        let path = self.key(name).with_extension("pub");
        let text = std::fs::read_to_string(path).expect("because ssh-keygen wrote it");
        text.split(' ').take(2).collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }

    /// The blob of a certificate about somebody's key by an authority.
    pub(crate) fn certificate(&self, name: &str, authority: &str) -> Vec<u8> {
        let (key, authority) = (self.key(name), self.key(authority));
        let text = |path: &Path| path.to_str().expect("because the temporary folder's name is text").to_owned();
        let public = text(&key.with_extension("pub"));
        run(self.command("ssh-keygen").args(["-q", "-s", &text(&authority), "-I", name, "-n", name, &public]), &[]);
        let file = format!("{}-cert.pub", text(&key));
        let line = std::fs::read_to_string(file).expect("because ssh-keygen wrote it");
        let blob = line.split(' ').nth(1).expect("because the blob is the second word");
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, blob).expect("because ssh-keygen wrote it")
    }

    /// Signs bytes as somebody under a namespace; returns the armour.
    pub(crate) fn sign(&self, name: &str, namespace: &str, bytes: &[u8]) -> String {
        let key = self.key(name);
        let file = key.to_str().expect("because the temporary folder's name is text");
        let output = run(self.command("ssh-keygen").args(["-q", "-Y", "sign", "-n", namespace, "-f", file]), bytes);
        String::from_utf8(output).expect("because armour is ASCII")
    }

    /// A statement signed by somebody.
    pub(crate) fn sign_statement(&self, name: &str, statement: &Statement) -> SignedStatement {
        let body = statement.body();
        let armour = self.sign(name, statement.namespace(), body.as_bytes());
        SignedStatement::join(&body, &armour).expect("because ssh-keygen signed it")
    }

    /// The release statement that approves the branch's tip as the next step of a machine.
    pub(crate) fn release(&self, machine: &TrustState) -> Release {
        let accepted = machine.accepted();
        let tip = self.introduction(&self.id(REF));
        Release {
            cluster: tip.cluster,
            deploy_ref: tip.deploy_ref,
            epoch: machine.epoch(),
            seq: accepted.seq.next(),
            parent: accepted.step,
            step: next_step(&accepted.step, &tip.tree),
            policy: accepted.policy,
            not_after: None,
            intent: Intent::Release,
        }
    }

    /// Somebody approves the branch's tip as a machine's next step, and the source offers it.
    pub(crate) fn approve(&self, name: &str, machine: &TrustState) {
        let statement = Statement::Release(self.release(machine));
        let signed = self.sign_statement(name, &statement);
        self.statements.borrow_mut().push(signed);
    }

    /// Writes a file of the work tree.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("because it has a folder")).expect("because /tmp can be written");
        std::fs::write(path, text).expect("because /tmp can be written");
    }

    /// Removes a file of the work tree.
    pub(crate) fn remove(&self, path: &str) {
        std::fs::remove_file(self.path().join(path)).expect("because the file is there");
    }

    /// Commits the whole work tree.
    pub(crate) fn commit(&self, make: &Make<'_>) -> CommitId {
        self.git(&["add", "-A", "."]);
        self.commit_index(make, &[])
    }

    /// Commits what is in the index, with more arguments for `git commit`.
    pub(crate) fn commit_index(&self, make: &Make<'_>, more: &[&str]) -> CommitId {
        let mut arguments = vec!["-c".to_owned(), "gpg.format=ssh".to_owned()];
        let mut commit: Vec<String> =
            ["commit", "-q", "--allow-empty", "--cleanup=verbatim", "-F", "-"].map(str::to_owned).into();
        if let Some(signer) = make.signer {
            let key = self.key(signer).with_extension("pub");
            arguments.extend(["-c".to_owned(), format!("user.signingkey={}", key.display())]);
            commit.push("-S".to_owned());
        }
        commit.extend(more.iter().map(|word| (*word).to_owned()));
        arguments.extend(commit);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.git_with_input(&arguments, make.message.as_bytes());
        self.head()
    }

    /// A change signed by somebody for this cluster.
    pub(crate) fn change(&self, signer: &str, path: &str, text: &str) -> CommitId {
        self.write(path, text);
        self.commit(&Make { signer: Some(signer), message: format!("change {path}\n\n{}\n", target()) })
    }

    /// The checked-out commit.
    pub(crate) fn head(&self) -> CommitId {
        self.id("HEAD")
    }

    /// A revision's commit.
    pub(crate) fn id(&self, revision: &str) -> CommitId {
        CommitId::parse(&self.git(&["rev-parse", revision])).expect("because git prints ids")
    }

    /// A commit's bytes.
    pub(crate) fn raw(&self, commit: &CommitId) -> Vec<u8> {
        run(self.command("git").args(["cat-file", "commit", commit.as_str()]), &[])
    }

    /// Stores bytes as a commit, however crooked, and moves the branch to it.
    pub(crate) fn forge(&self, bytes: &[u8]) -> CommitId {
        let id = self.git_with_input(&["hash-object", "-t", "commit", "-w", "--literally", "--stdin"], bytes);
        self.git(&["update-ref", REF, &id]);
        CommitId::parse(&id).expect("because git prints ids")
    }

    /// Every object of the repository.
    pub(crate) fn objects(&self) -> ObjectSet {
        let format = if self.format == "sha1" { ObjectFormat::Sha1 } else { ObjectFormat::Sha256 };
        let mut set = ObjectSet::new(format);
        let output = run(self.command("git").args(["cat-file", "--batch", "--batch-all-objects"]), &[]);
        let mut rest = output.as_slice();
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let head = std::str::from_utf8(&rest[..end]).expect("because git prints text here");
            let words: Vec<_> = head.split(' ').collect();
            let size: usize = words[2].parse().expect("because git prints the size");
            let bytes = rest[end + 1..end + 1 + size].to_vec();
            rest = &rest[end + 2 + size..];
            let kind = match words[1] {
                "commit" => ObjectKind::Commit,
                "tree" => ObjectKind::Tree,
                "blob" => ObjectKind::Blob,
                _ => continue,
            };
            let id = ObjectId::from_hex(words[0].as_bytes()).expect("because git prints ids");
            set.insert(id, kind, bytes).expect("because git hashes as we do");
        }
        set
    }

    /// The introduction to a commit.
    pub(crate) fn introduction(&self, commit: &CommitId) -> Introduction {
        let cluster = ClusterId::parse(CLUSTER).expect("because it is hex");
        let deploy_ref = DeployRef::parse(REF).expect("because it is a branch");
        Introduction::of(&self.objects(), commit, cluster, deploy_ref).expect("because the first commit is good")
    }

    /// A machine introduced to the checked-out commit.
    pub(crate) fn machine(&self) -> TrustState {
        introduce(&self.introduction(&self.head()), &self.objects()).expect("because the introduction is its own").0
    }

    /// Judges the branch as it is.
    pub(crate) fn judge(&self, state: &TrustState) -> Result<Chain, Refusal> {
        let (tip, objects, statements) = (self.id(REF), self.objects(), self.statements.borrow());
        let (marks, own) = (self.marks.borrow(), self.own.borrow());
        let offer = Offer {
            statements: &statements,
            clock: self.clock.get(),
            marks: &marks,
            machine: own.as_ref(),
            presence: if self.presence.get() { Presence::AsIf } else { Presence::None },
            ..Offer::of(&tip, &objects)
        };
        verify(state, &offer)
    }

    /// Judges the branch and takes over what was learned; returns why it stopped, if it did. The state is read again from its
    /// written form, as after a restart.
    pub(crate) fn sync(&self, state: &mut TrustState) -> Option<Refusal> {
        match self.judge(state) {
            Ok(chain) => {
                let before = state.clone();
                assert_eq!(state.learn(&chain), *state != before);
                *state = TrustState::from_json(&state.to_json()).expect("because it was just written");
                chain.refused
            }
            Err(refusal) => Some(refusal),
        }
    }

    /// Asserts that the branch is refused for a reason and that accepted did not move.
    pub(crate) fn refused(&self, state: &mut TrustState, reason: Reason) -> Refusal {
        let before = state.accepted().clone();
        let refusal = self.sync(state).unwrap_or_else(|| panic!("it was accepted; expected {reason}"));
        assert_eq!(refusal.reason, reason, "{refusal}");
        assert_eq!(*state.accepted(), before, "accepted moved");
        refusal
    }

    /// Asserts that the branch is accepted up to its tip; returns the last step.
    pub(crate) fn accepted(&self, state: &mut TrustState) -> Option<Verified<Commit>> {
        let chain = self.judge(state).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert_eq!(chain.refused, None);
        state.learn(&chain);
        assert_eq!(state.accepted().commit, self.id(REF));
        chain.steps.last().cloned()
    }

    /// The source offers a statement signed by somebody.
    pub(crate) fn offer(&self, name: &str, statement: &Statement) {
        let signed = self.sign_statement(name, statement);
        self.statements.borrow_mut().push(signed);
    }

    /// Why the statements that came did not count.
    pub(crate) fn ignored(&self, state: &TrustState) -> Vec<Reason> {
        let chain = self.judge(state).unwrap_or_else(|refusal| panic!("{refusal}"));
        chain.ignored.iter().map(|refusal| refusal.reason).collect()
    }

    /// Makes the branch's first policy: ada is root and in role dev with bob, and `more` is added to trust/root.kdl.
    pub(crate) fn with_policy(more: &str) -> Self {
        let lab = Lab::empty("sha1");
        lab.found();
        lab.change("ada", "trust/people.kdl", &lab.people_kdl("commit\" \"statement", 1));
        lab.change("ada", "trust/root.kdl", &lab.root_with(more));
        lab
    }

    /// Root's file with ada as root, also for statements, and `more`.
    pub(crate) fn root_with(&self, more: &str) -> String {
        self.root_kdl(&["ada"]).replace("\"commit\" ", "\"commit\" \"statement\" ") + more
    }
}

/// A time.
pub(crate) fn time(text: &str) -> jiff::Timestamp {
    text.parse().expect("because it is a time")
}
