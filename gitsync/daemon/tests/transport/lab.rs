//! A signed repository, a machine that has accepted its first steps, and the real caged fetch child between it and a hostile server.

use gitsync_fetch::{Answer, Dialect, FetchError, Fetched, Fetcher, Folders, Limits, RepositoryUrl, Request};
use gitsync_verify::{DeployRef, Introduction, Offer, Reason, Refusal, TrustState, introduce, verify};
use machined_ids::{ClusterId, CommitId};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests_support::hostile::{Attack, HostileServer};

const CLUSTER: &str = "00112233445566778899aabbccddeeff";
pub(crate) const REF: &str = "refs/heads/main";

/// When a fetch ends here, whatever the server does; half of a machine's two minutes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What may pass between a deadline and the answer: half a minute for a busy computer to end a child.
const SLACK: Duration = Duration::from_secs(30);

/// Bound on the memory of the fetch child, whatever it is sent: its address space, as `gitsync_fetch` limits it.
pub(crate) const CHILD_MEMORY_KIB: i64 = 2 << 20;

/// Bound on what one hostile fetch may add to the memory of gitsync itself, which only reads frames.
pub(crate) const PARENT_MEMORY_KIB: u64 = gitsync_verify::limits::JUDGEMENT_MEMORY_BYTES >> 10;

/// Why nothing of an attack was taken.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The fetch brought nothing.
    Fetch(FetchError),
    /// It brought objects, and the verifier refused them.
    Refused(Refusal),
}

impl Stopped {
    /// The verifier's reason, where it came to that.
    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Stopped::Refused(refusal) => Some(refusal.reason),
            Stopped::Fetch(FetchError::Refused(refusal)) => Some(refusal.reason),
            Stopped::Fetch(_) => None,
        }
    }
}

/// A repository and a machine that follows it.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    pub(crate) server: HostileServer,
    state: TrustState,
    /// The tip that was judged last, as gitsync remembers it for a repository.
    judged: Option<CommitId>,
    /// How the server spoke, as gitsync remembers it.
    dialect: Option<Dialect>,
    folders: Folders,
    deadline: Duration,
    limits: Limits,
}

impl Lab {
    /// A machine that has accepted two steps of an honest server.
    pub(crate) async fn new() -> Self {
        Lab::of_format("sha1").await
    }

    pub(crate) async fn of_format(format: &str) -> Self {
        let folder =
            tempfile::Builder::new().prefix("gitsync-hostile-").tempdir().expect("because /tmp can be written");
        // The child drops to another user when tests run as root, and has to get into its folder.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("because the folder is ours");
        let format = format!("--object-format={format}");
        run(folder.path(), "git", &["init", "-q", "--bare", "-b", "main", &format, "served.git"]);
        run(folder.path(), "git", &["init", "-q", "-b", "main", &format, "work"]);
        for person in ["ada", "mallory"] {
            run(folder.path(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", person, "-f", person]);
        }
        let served = folder.path().join("served.git");
        let server = HostileServer::start(&served, Attack::None).await.expect("because loopback can be listened on");
        let first = found(folder.path());
        let objects = gitsync_fetch::local::read(&folder.path().join("work"), "HEAD", &[]);
        let (tip, objects) = objects.expect("because git made it");
        let cluster = ClusterId::parse(CLUSTER).expect("because it is hex");
        let introduction = Introduction::of(&objects, &tip, cluster, deploy_ref()).expect("because it is good");
        let (state, _) = introduce(&introduction, &objects).expect("because the introduction is its own");
        let folders = Folders::new(folder.path().join("fetch"));
        let (judged, deadline, limits) = (Some(first), DEADLINE, Limits::MACHINE);
        let mut lab = Lab { folder, server, state, judged, dialect: None, folders, deadline, limits };
        lab.commit(Some("ada"), "apps/a.yaml", "a: 1\n");
        lab.takes().await;
        lab
    }

    /// Ends fetches after this long.
    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Gives children other limits than those of a machine.
    pub(crate) fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    pub(crate) fn served(&self) -> PathBuf {
        self.folder.path().join("served.git")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub(crate) fn fetched(&self) -> PathBuf {
        self.folders.kept(0)
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        run(&self.folder.path().join("work"), "git", arguments)
    }

    /// Commits a file, signed by somebody or by nobody, and pushes the branch that is checked out.
    pub(crate) fn commit(&self, signer: Option<&str>, path: &str, text: &str) -> CommitId {
        commit(self.folder.path(), signer, path, text)
    }

    pub(crate) fn accepted(&self) -> CommitId {
        self.state.accepted().commit.clone()
    }

    /// One look at a server and the judgement of what came, as gitsync does it.
    pub(crate) async fn look_at(&mut self, url: &str) -> Result<(), Stopped> {
        let url = RepositoryUrl::parse(url).expect("because it is a URL");
        let request = Request {
            folder: self.folders.next(0),
            url: Some(url),
            bundle: None,
            statements: Vec::new(),
            dialect: self.dialect,
            deploy_ref: deploy_ref(),
            tip: self.judged.clone(),
            stop_at: self.state.history().iter().map(|position| position.commit.clone()).collect(),
        };
        let fetcher = Fetcher::new(Path::new(env!("CARGO_BIN_EXE_gitsync")), &["fetch-child"]);
        // As gitsync: what one look learned, the next one uses, and a failure forgets it.
        self.dialect = None;
        let Answer { fetched, dialect } = fetcher
            .with_deadline(self.deadline)
            .with_limits(self.limits)
            .fetch(&request)
            .await
            .map_err(Stopped::Fetch)?;
        self.dialect = dialect;
        let (tip, objects) = match fetched {
            Fetched::Unchanged(_) => return Ok(()),
            Fetched::New(tip, objects, _) => (tip, objects),
        };
        let refused = match verify(&self.state, &Offer::of(&tip, &objects)) {
            Ok(chain) => {
                chain.steps.iter().for_each(|step| self.state.accept(step));
                chain.refused
            }
            Err(refusal) => Some(refusal),
        };
        if refused.as_ref().is_some_and(|refusal| refusal.reason == Reason::MissingObject) {
            self.judged = None;
            self.folders.incomplete(0).expect("because /tmp can be written");
        } else {
            self.judged = Some(tip);
            self.folders.whole(0).expect("because /tmp can be written");
        }
        refused.map_or(Ok(()), |refusal| Err(Stopped::Refused(refusal)))
    }

    /// Asserts that the server's tip is accepted.
    pub(crate) async fn takes(&mut self) {
        let url = self.server.url();
        self.takes_from(&url).await;
    }

    /// Asserts that another server's tip is accepted.
    pub(crate) async fn takes_from(&mut self, url: &str) {
        self.look_at(url).await.unwrap_or_else(|stopped| panic!("{stopped:?}"));
    }

    /// Asserts that an attack on the next step ends with nothing accepted, within the bounds on time and memory.
    pub(crate) async fn stops(&mut self, attack: Attack) -> Stopped {
        let before = self.state.clone();
        let stopped = match self.bounded(attack).await {
            Err(stopped) => stopped,
            Ok(()) => panic!("the attack was not noticed; accepted is {}", self.accepted()),
        };
        assert_eq!(self.state, before, "accepted moved");
        stopped
    }

    /// Asserts the bounds on a bomb beside honest objects: a child that gets through it in time brings the honest step, any other
    /// brings nothing.
    pub(crate) async fn survives(&mut self, attack: Attack) {
        let (before, tip) = (self.accepted(), run(&self.served(), "git", &["rev-parse", REF]));
        match self.bounded(attack).await {
            Ok(()) => assert_eq!(self.accepted().as_str(), tip),
            Err(Stopped::Fetch(FetchError::Transfer(_) | FetchError::Child(_) | FetchError::Deadline { .. })) => {
                assert_eq!(self.accepted(), before)
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    async fn bounded(&mut self, attack: Attack) -> Result<(), Stopped> {
        let (memory, start) = (own_memory_kib(), Instant::now());
        self.server.attack(attack);
        let url = self.server.url();
        let outcome = self.look_at(&url).await;
        assert!(start.elapsed() < self.deadline + SLACK, "it took {:?}", start.elapsed());
        let more = own_memory_kib().saturating_sub(memory);
        assert!(more < PARENT_MEMORY_KIB, "gitsync itself grew by {more} KiB");
        let child = children_memory_kib();
        assert!(child < CHILD_MEMORY_KIB, "a child had {child} KiB");
        outcome
    }

    /// Asserts that the machine takes the branch as it is from the same server, once that is honest.
    pub(crate) async fn recovers(&mut self) {
        self.server.attack(Attack::None);
        self.takes().await;
        let tip = run(&self.served(), "git", &["rev-parse", REF]);
        assert_eq!(self.accepted().as_str(), tip, "what is honest is accepted");
    }
}

/// A server that says the branch is there.
pub(crate) fn ref_at(id: &str) -> Attack {
    Attack::RefAt { name: REF.to_owned(), id: id.to_owned() }
}

pub(crate) fn deploy_ref() -> DeployRef {
    DeployRef::parse(REF).expect("because it is a branch")
}

/// The first commit: ada may do everything.
fn found(folder: &Path) -> CommitId {
    let key = std::fs::read_to_string(folder.join("ada.pub")).expect("because ssh-keygen wrote it");
    let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let policy = format!(
        "version 1\nroot threshold=1 {{ member \"ada\"; }}\nprincipal \"ada\" {{ key \"{key}\" {{ use \"commit\"; }}; }}\n\
         role \"admin\" {{ member \"ada\"; }}\nrule \"all\" {{\n    owns \"**\"\n    approval role=\"admin\" threshold=1\n}}\n"
    );
    commit(folder, Some("ada"), "trust/root.kdl", &policy)
}

fn commit(folder: &Path, signer: Option<&str>, path: &str, text: &str) -> CommitId {
    let work = folder.join("work");
    let file = work.join(path);
    std::fs::create_dir_all(file.parent().expect("because it has a folder")).expect("because /tmp can be written");
    std::fs::write(file, text).expect("because /tmp can be written");
    run(&work, "git", &["add", "-A"]);
    let key = format!("user.signingkey={}", folder.join(signer.unwrap_or_default()).display());
    let message = format!("{path}\n\nCairn-Target: {CLUSTER} {REF}\n");
    let mut arguments = vec!["-c", "gpg.format=ssh", "-c", &key];
    arguments.extend(["commit", "-q", "-m", &message]);
    arguments.extend(signer.map(|_| "-S"));
    run(&work, "git", &arguments);
    run(&work, "git", &["push", "-q", "-f", "../served.git", "HEAD"]);
    CommitId::parse(&run(&work, "git", &["rev-parse", "HEAD"])).expect("because git prints ids")
}

pub(crate) fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    tests_support::git::run(folder, program, arguments).expect("because git and ssh-keygen work where tests run")
}

/// Resident memory of this process, which is where gitsync's side of a fetch runs.
fn own_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("because /proc is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("because Linux says so");
    line.trim().trim_end_matches(" kB").parse().expect("because it is a number")
}

/// The most resident memory that any child had that has ended.
fn children_memory_kib() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    usage.expect("because every process may ask").max_rss()
}
