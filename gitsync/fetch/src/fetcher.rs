//! The parent's side: starts a child, bounds it, and hashes again whatever it says.

use crate::dialect::Dialect;
use crate::frame::{self, FailureKind, Frame};
use crate::request::Request;
use gitsync_verify::limits::MAX_STATEMENTS;
use gitsync_verify::{ObjectFormat, ObjectSet, Refusal};
use init_linux::sandbox::{Demand, Identity, Limit, NetworkUse, PathAccess, PathRule, Sandbox};
use machined_ids::CommitId;
use nix::unistd::{Gid, Uid, chown};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::Command;

/// A fetch ends after this long, whatever the server does. A first fetch of 200 MB over a slow line still fits.
const FETCH_DEADLINE: Duration = Duration::from_secs(120);

/// User and group of the child on a machine; the image's passwd calls it `gitsync-fetch`.
const FETCH_USER: u32 = 900;

/// What the child may take besides [`Limits`].
const LIMITS: [Limit; 4] = [
    Limit::FileBytes(512 << 20), // one pack
    Limit::OpenFiles(256),
    Limit::Processes(64), // threads count
    Limit::CoreBytes(0),
];

/// What a hostile server can make a child take; the kernel ends the child beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its address space in bytes.
    pub memory_bytes: u64,
    /// Its processor time in seconds.
    pub processor_seconds: u64,
}

impl Limits {
    /// Those of a machine: a pack of the largest size mapped twice with room for threads, and where a delta bomb ends.
    pub const MACHINE: Limits = Limits { memory_bytes: 2 << 30, processor_seconds: 60 };
}

/// What the child reads besides its own folder: name servers and hosts, and whom TLS trusts. Those that are there.
const READABLE: [&str; 7] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl",
    "/usr/share/ca-certificates",
    "/usr/lib/ssl",
    "/dev/urandom",
];

/// Starts children.
#[derive(Debug, Clone)]
pub struct Fetcher {
    program: PathBuf,
    arguments: Vec<String>,
    deadline: Duration,
    limits: Limits,
}

/// What a child answered.
#[derive(Debug)]
pub struct Answer {
    /// What came.
    pub fetched: Fetched,
    /// How the server speaks, for the next request to it; nothing where that is not known.
    pub dialect: Option<Dialect>,
}

/// What came.
#[derive(Debug)]
pub enum Fetched {
    /// The branch is where it was.
    Unchanged(CommitId),
    /// The branch's tip, the objects down to what was asked for, and statements that were not known.
    New(CommitId, ObjectSet, Vec<Brought>),
}

/// A blob under `refs/cairn/`, which may be a statement. Nothing is known about it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    /// The blob's id, to be named as known in later requests.
    pub id: String,
    /// What it holds; nothing where it was too large for a statement.
    pub bytes: Vec<u8>,
}

/// Nothing came, and why.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody answered, or not as a git server.
    #[error("the repository cannot be reached ({0}); check the URL, the server and this machine's network")]
    Unreachable(String),
    /// The repository has no such branch.
    #[error("{0}")]
    RefMissing(String),
    /// The transfer broke off, or what came was no pack.
    #[error("the transfer failed ({0}); it is tried again")]
    Transfer(String),
    /// It took too long.
    #[error("the fetch did not end in {seconds} s; the server trickles or the repository is too large")]
    Deadline {
        /// How long it was waited for.
        seconds: u64,
    },
    /// An object that the verifier does not take.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The child could not be started, or ended without its last frame (its limits, or a fault in it).
    #[error("the fetch process failed; its limits may have ended it")]
    Child(#[source] io::Error),
    /// The child's folder or limits.
    #[error("{0}")]
    Local(String),
}

impl Fetcher {
    /// A fetcher whose children run `program` with `arguments`; that process must call [`crate::child::run`] at once.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        Fetcher { program: program.into(), arguments, deadline: FETCH_DEADLINE, limits: Limits::MACHINE }
    }

    /// Gives children other limits than those of a machine.
    #[must_use]
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Ends fetches after another time than the two minutes of a machine.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Does one request in a child of its own.
    ///
    /// # Errors
    /// [`FetchError`]; nothing but the child's folder has changed then.
    pub async fn fetch(&self, request: &Request) -> Result<Answer, FetchError> {
        prepare_folder(&request.folder).map_err(FetchError::Child)?;
        let late = FetchError::Deadline { seconds: self.deadline.as_secs() };
        tokio::time::timeout(self.deadline, self.run(request)).await.unwrap_or(Err(late))
    }

    async fn run(&self, request: &Request) -> Result<Answer, FetchError> {
        let folder = &request.folder;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            // Without it gix asks glibc for the user's folder, which a static binary cannot answer.
            .env("HOME", folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        cage(folder, request.bundle.as_deref(), self.limits)
            .apply_in_child(command.as_std_mut())
            .map_err(|error| FetchError::Child(io::Error::other(error)))?;
        let mut child = command.spawn().map_err(FetchError::Child)?;
        let mut stdin = child.stdin.take().expect("because it was piped");
        let stdout = child.stdout.take().expect("because it was piped");
        let request = serde_json::to_vec(request).map_err(|error| FetchError::Child(error.into()))?;
        stdin.write_all(&request).await.map_err(FetchError::Child)?;
        drop(stdin);
        let fetched = read_answer(&mut BufReader::new(stdout)).await;
        // The answer is complete or worthless; either way the child has nothing left to do.
        child.kill().await.map_err(FetchError::Child)?;
        fetched
    }
}

/// What the child may still do.
fn cage(folder: &Path, bundle: Option<&Path>, limits: Limits) -> Sandbox {
    let readable = READABLE.iter().map(Path::new).chain(bundle).filter(|path| path.exists());
    let mut paths: Vec<_> = readable.map(|path| PathRule { path: path.to_owned(), access: PathAccess::Read }).collect();
    paths.push(PathRule { path: folder.to_owned(), access: PathAccess::ReadWrite });
    let bounds = [Limit::AddressSpaceBytes(limits.memory_bytes), Limit::CpuSeconds(limits.processor_seconds)];
    let root = Uid::effective().is_root();
    Sandbox {
        identity: root.then_some(Identity { user: FETCH_USER, group: FETCH_USER }),
        limits: bounds.iter().chain(&LIMITS).cloned().collect(),
        paths,
        network: NetworkUse::Client,
        landlock: Demand::IfAvailable,
    }
}

/// The child's folder belongs to its user, where we may give it away.
fn prepare_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    if Uid::effective().is_root() {
        chown(folder, Some(Uid::from_raw(FETCH_USER)), Some(Gid::from_raw(FETCH_USER)))?;
    }
    Ok(())
}

/// Reads what a child says, to its last frame. Nothing in it is believed: it may be a child that has been taken over.
///
/// # Errors
/// [`FetchError`]: what the child said went wrong, or an answer that is none.
pub async fn read_answer(input: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Answer, FetchError> {
    let mut dialect = None;
    let mut first = frame::read(input).await.map_err(FetchError::Child)?;
    if let Frame::Dialect(told) = first {
        dialect = Some(told);
        first = frame::read(input).await.map_err(FetchError::Child)?;
    }
    let tip = match first {
        Frame::Unchanged(tip) => return Ok(Answer { fetched: Fetched::Unchanged(commit_id(&tip)?), dialect }),
        Frame::Tip(tip) => commit_id(&tip)?,
        Frame::Failure(failure) => return Err(from_child(failure)),
        Frame::Dialect(_) | Frame::Statement(..) | Frame::Object(..) | Frame::End => return Err(out_of_order()),
    };
    let format = if tip.as_str().len() == 64 { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 };
    let (mut objects, mut statements) = (ObjectSet::new(format), Vec::new());
    loop {
        match frame::read(input).await.map_err(FetchError::Child)? {
            Frame::Object(id, kind, bytes) => objects.insert(id, kind, bytes)?,
            Frame::Statement(..) if statements.len() >= MAX_STATEMENTS => return Err(out_of_order()),
            Frame::Statement(id, bytes) => statements.push(Brought { id: id.to_string(), bytes }),
            Frame::End => return Ok(Answer { fetched: Fetched::New(tip, objects, statements), dialect }),
            Frame::Failure(failure) => return Err(from_child(failure)),
            Frame::Dialect(_) | Frame::Unchanged(_) | Frame::Tip(_) => return Err(out_of_order()),
        }
    }
}

fn out_of_order() -> FetchError {
    FetchError::Child(io::Error::new(io::ErrorKind::InvalidData, "frames out of order"))
}

fn commit_id(text: &str) -> Result<CommitId, FetchError> {
    CommitId::parse(text).map_err(|error| FetchError::Child(io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn from_child(failure: frame::Failure) -> FetchError {
    match failure.kind {
        FailureKind::Unreachable => FetchError::Unreachable(failure.message),
        FailureKind::RefMissing => FetchError::RefMissing(failure.message),
        FailureKind::Transfer | FailureKind::Limit => FetchError::Transfer(failure.message),
        FailureKind::Local => FetchError::Local(failure.message),
    }
}
