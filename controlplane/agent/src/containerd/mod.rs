//! containerd's native API as the agent's [`Runtime`](crate::runtime::Runtime).
//!
//! One lazy gRPC channel that connects again by itself, so a containerd that restarts is met as errors for a while
//! and nothing else. Everything happens in our own containerd namespace; what lies in others is never touched.

mod containers;
mod content;
mod events;
mod exec;
mod labels;
mod snapshots;
mod streams;

pub(crate) use exec::{ExecInput, ExecOutput, ExecSession};
pub(crate) use streams::{OutputReader, Pipes};

use crate::logs::LogPumps;
use crate::runtime::RuntimeError;
use containerd_client::tonic::transport::{Channel, Endpoint};
use containerd_client::tonic::{Code, Request, Status};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Our namespace in containerd.
const NAMESPACE: &str = "cairn";
/// Longest a call may take that does not wait for a process: unpacking a large layer on a slow disk needs minutes.
const CALL_LIMIT: Duration = Duration::from_secs(300);

/// Where containerd is and how containers are made.
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// Its socket, default /run/containerd/containerd.sock.
    pub socket: PathBuf,
    /// Snapshotter, default overlayfs.
    pub snapshotter: String,
    /// cgroup that shims are put into, which must exist; none leaves them with containerd.
    pub shim_cgroup: Option<String>,
    /// Folder for the pipes of running containers, gone after a reboot.
    pub pipes: PathBuf,
}

impl Default for ContainerdConfig {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/containerd/containerd.sock"),
            snapshotter: "overlayfs".to_owned(),
            shim_cgroup: None,
            pipes: PathBuf::from("/run/cairn/agent/pipes"),
        }
    }
}

/// A client of containerd. Clones share the channel.
#[derive(Clone)]
pub(crate) struct Containerd {
    channel: Channel,
    config: Arc<ContainerdConfig>,
    pumps: Arc<LogPumps>,
    /// Held while an exit is recorded.
    settling: Arc<tokio::sync::Mutex<()>>,
    /// Held while an image's accounts are looked at.
    looks: Arc<tokio::sync::Mutex<()>>,
}

impl Containerd {
    /// A client that connects at its first call. Must be called inside of a tokio runtime.
    #[must_use]
    pub(crate) fn new(config: ContainerdConfig, pumps: Arc<LogPumps>) -> Self {
        let socket = config.socket.clone();
        let connector = tower::service_fn(move |_uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        // The address is never used: the connector always opens the socket.
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector);
        Self { channel, config: Arc::new(config), pumps, settling: Arc::default(), looks: Arc::default() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let namespace = NAMESPACE.parse().expect("because the name is plain ASCII");
        request.metadata_mut().insert("containerd-namespace", namespace);
        request.set_timeout(CALL_LIMIT);
        request
    }

    /// A request that waits for a process, which may take as long as the process runs.
    fn waiting_request<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.metadata_mut().remove("grpc-timeout");
        request
    }

    fn failed<D: Into<String>>(&self, doing: D) -> impl FnOnce(Status) -> RuntimeError + use<D> {
        let (doing, socket): (String, _) = (doing.into(), self.config.socket.clone());
        move |status| match status.code() {
            Code::Unavailable => RuntimeError::Unreachable { socket, source: Box::new(status) },
            _other => RuntimeError::Refused { doing, message: status.message().to_owned() },
        }
    }

    /// Asks for containerd's version.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn version(&self) -> Result<String, RuntimeError> {
        let mut client = containerd_client::services::v1::version_client::VersionClient::new(self.channel.clone());
        let answer = client.version(self.request(())).await.map_err(self.failed("tell its version"))?;
        Ok(answer.into_inner().version)
    }
}

/// Makes "it is there already" a success.
fn unless_there(result: Result<(), Status>) -> Result<(), Status> {
    result.or_else(|status| if status.code() == Code::AlreadyExists { Ok(()) } else { Err(status) })
}

/// Makes "there is no such thing" a success.
fn unless_gone<T>(result: Result<T, Status>) -> Result<Option<T>, Status> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}
