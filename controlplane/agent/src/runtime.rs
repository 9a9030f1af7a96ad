//! What the agent needs of a container runtime, and what a runtime says of its containers.
//!
//! [`Runtime`] is implemented by [`crate::containerd`] and by a fake in tests. A container's identity, its exit and
//! its restart history live in the runtime, so that a restarted agent knows everything it knew before.

use crate::images::ImageHandle;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// Name of a container in the runtime: 64 hexadecimal digits, a function of pod uid, container name and attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContainerId(String);

impl ContainerId {
    /// The id of an attempt at a container; the same again after a crash, so that a half-made one is found.
    #[must_use]
    pub(crate) fn of(pod_uid: &str, kind: Kind, name: &str, attempt: u32) -> Self {
        Self(hex(&Sha256::digest(format!("{pod_uid}/{}/{name}/{attempt}", kind.label()))))
    }

    /// An id that the runtime told.
    #[must_use]
    pub(crate) fn from_runtime(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Holds the pod's namespaces.
    Sandbox,
    /// One of the pod's init containers.
    Init,
    /// One of the pod's containers.
    App,
}

impl Kind {
    /// As it is written in labels.
    #[must_use]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Init => "init",
            Self::App => "app",
        }
    }

    /// Reads a label.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Sandbox, Self::Init, Self::App].into_iter().find(|kind| kind.label() == text)
    }
}

/// A container as the runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// Its id.
    pub(crate) id: ContainerId,
    /// Pod it belongs to.
    pub(crate) pod: PodKey,
    /// What it is for.
    pub(crate) kind: Kind,
    /// Name in the pod; empty for the sandbox.
    pub(crate) name: String,
    /// 0 for the first one of that name, one more each time.
    pub(crate) attempt: u32,
    /// How many short runs in a row came before it; decides the next back-off.
    pub(crate) short_runs: u32,
    /// Image as the pod names it.
    pub(crate) image: String,
    /// Digest of the image.
    pub(crate) image_id: String,
    /// Address, of a sandbox.
    pub(crate) address: Option<String>,
    /// What it is doing.
    pub(crate) state: State,
}

/// A pod's names; they do not change in its life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodKey {
    /// Unique over time.
    pub(crate) uid: String,
    /// Namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Made and never started: the agent died in between.
    Created,
    /// A process runs.
    Running {
        /// Since when.
        started: Timestamp,
        /// Process id on the host.
        pid: u32,
    },
    /// It has ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code; 128 and the signal when a signal ended it.
    pub(crate) code: i32,
    /// When it was started, if it ever was.
    pub(crate) started: Option<Timestamp>,
    /// When it ended.
    pub(crate) finished: Timestamp,
    /// For people and machines: "Completed", "Error", "OOMKilled", "ContainerCannotRun", "Unknown".
    pub(crate) reason: String,
    /// What went wrong, when it never ran.
    pub(crate) message: Option<String>,
}

/// A container to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewContainer {
    /// Pod it belongs to.
    pub(crate) pod: PodKey,
    /// What it is for.
    pub(crate) kind: Kind,
    /// Name in the pod; empty for the sandbox.
    pub(crate) name: String,
    /// See [`Container::attempt`].
    pub(crate) attempt: u32,
    /// See [`Container::short_runs`].
    pub(crate) short_runs: u32,
    /// Image as the pod names it.
    pub(crate) image: String,
    /// Its root file system.
    pub(crate) root: Root,
    /// Address, of a sandbox.
    pub(crate) address: Option<String>,
    /// The OCI runtime specification as JSON.
    pub(crate) spec: serde_json::Value,
    /// Where output goes; none discards it.
    pub(crate) log: Option<PathBuf>,
    /// Whether the process has a terminal; its output is one stream then.
    pub(crate) terminal: bool,
    /// Whether the process has a standard input.
    pub(crate) stdin: bool,
}

/// What became of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Started {
    /// The container.
    pub(crate) id: ContainerId,
    /// Why its program could not be started, if it could not; the container has ended then.
    pub(crate) problem: Option<String>,
}

/// What a container's root is made of.
#[derive(Clone, Debug)]
pub(crate) enum Root {
    /// A folder of the host, named in the specification.
    Folder,
    /// A writable layer on an unpacked image.
    Image(ImageHandle),
}

/// A command to run in a container.
#[derive(Clone, Debug)]
pub(crate) struct Exec {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Whether it gets a terminal.
    pub(crate) terminal: bool,
    /// Whether it gets a standard input.
    pub(crate) stdin: bool,
}

/// How a short command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExecResult {
    /// Exit code.
    pub(crate) code: i32,
    /// Beginning of what it wrote to both outputs, see [`EXEC_OUTPUT_LIMIT`].
    pub(crate) output: Vec<u8>,
}

/// Bytes kept of a probe's or hook's output; it goes into an event message.
pub(crate) const EXEC_OUTPUT_LIMIT: usize = 10 * 1024;

/// The runtime could not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// It cannot be reached; everything that runs goes on.
    #[error("cannot reach the container runtime at {socket}")]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refused.
    #[error("the container runtime cannot {doing}: {message}")]
    Refused {
        /// What was asked, with names.
        doing: String,
        /// What it said.
        message: String,
    },
    /// A pipe or file beside the container failed.
    #[error("cannot {doing} {path}")]
    File {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It did not end in time.
    #[error("{what} took longer than {}", humantime(*.limit))]
    Late {
        /// What.
        what: String,
        /// The limit.
        limit: Duration,
    },
}

fn humantime(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f32())
}

/// A container runtime.
///
/// Every method may be repeated: what is there already is kept, what is gone already is no error.
pub(crate) trait Runtime: Send + Sync + 'static {
    /// The containers of one pod, oldest attempt first. Records exits that it notices.
    fn containers(&self, pod_uid: &str) -> impl Future<Output = Result<Vec<Container>, RuntimeError>> + Send;

    /// Every pod that has containers here.
    fn pods(&self) -> impl Future<Output = Result<Vec<PodKey>, RuntimeError>> + Send;

    /// Makes and starts a container.
    fn start(&self, new: NewContainer) -> impl Future<Output = Result<Started, RuntimeError>> + Send;

    /// Sends a signal to the first process.
    fn signal(&self, id: &ContainerId, signal: i32) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Waits until the container's first process has ended.
    fn ended(&self, id: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes an ended container with its writable layer.
    fn remove(&self, id: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Runs a command in a container and waits for its end, at most `limit`.
    fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        limit: Duration,
    ) -> impl Future<Output = Result<ExecResult, RuntimeError>> + Send;
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
