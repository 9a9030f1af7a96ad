//! The services that machined runs: what each should be, how it stands, and the machine in between.

mod service_config;
mod service_machine;
mod service_spec;

pub use service_config::{CONTAINERD, CONTROLPLANE, GITSYNC, ServiceConfigController, Stopping};
pub use service_machine::{Action, Phase, STOP_GRACE, ServiceMachine, Wish};
pub use service_spec::{RestartRequests, ServiceController};

use machined_runtime::Resource;
use std::future::Future;

/// How to see that a running service does its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Something answers on this Unix socket.
    Socket(String),
    /// The process runs.
    Process,
}

/// How far a stop signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The main process only; children are left alone, whoever they belong to.
    Main,
    /// Everything in the service's cgroup once the main process had its time.
    Group,
}

/// Where a service's processes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// With machined: they see the whole machine.
    Machine,
    /// Behind the walls around containers: they see what containers may see, and what they start stays there.
    BehindWalls,
}

/// A service that should run; the id is its name. Taking it out of the store stops it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where it runs.
    pub place: Place,
    /// How to see that it works.
    pub health: Health,
    /// Who is signalled when it must end.
    pub reach: Reach,
    /// Names of services that must be healthy before this one starts.
    pub after: Vec<String>,
}

impl Resource for ServiceSpec {
    const KIND: &'static str = "service";
}

/// How a service stands; the id is its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Where it is in its life.
    pub state: ServiceState,
    /// Whether it does its work.
    pub healthy: bool,
    /// Main process, while there is one.
    pub pid: Option<u32>,
    /// Starts after the first one, since boot.
    pub restarts: u32,
    /// What it waits for, or how it ended last.
    pub message: String,
}

impl Resource for ServiceStatus {
    const KIND: &'static str = "service status";
}

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// It may not start yet.
    Waiting,
    /// It runs and is not healthy yet.
    Starting,
    /// It runs and was healthy.
    Running,
    /// It was asked to end.
    Stopping,
    /// It ended and will be started again.
    Backoff,
    /// It should not run and does not.
    Finished,
}

impl ServiceState {
    /// The word in the machine API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ServiceState::Waiting => "waiting",
            ServiceState::Starting => "starting",
            ServiceState::Running => "running",
            ServiceState::Stopping => "stopping",
            ServiceState::Backoff => "backoff",
            ServiceState::Finished => "finished",
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody knows: it was gone when machined came back.
    Unknown,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exited with code {code}"),
            Ended::Signal(signal) => write!(f, "killed by signal {signal}"),
            Ended::Unknown => f.write_str("ended while machined was away"),
        }
    }
}

/// Why a service could not be started or signalled.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct ServiceError {
    /// What was being done: "start gitsync".
    pub doing: String,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// A stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// Please end: SIGTERM to the main process.
    Terminate,
    /// End: SIGKILL, as far as the service's [`Reach`] goes.
    Kill,
}

/// Processes and cgroups of services. The host fires the controller's trigger when a process ends.
pub trait ServiceHost: Send + Sync + 'static {
    /// Starts the command in the service's own cgroup, its output going to the service's log. Gives the main process.
    fn launch(&self, name: &str, spec: &ServiceSpec) -> impl Future<Output = Result<u32, ServiceError>> + Send;
    /// The main process that an earlier machined left running, if there is one.
    fn adopt(&self, name: &str) -> impl Future<Output = Option<u32>> + Send;
    /// Processes that ended since the last call.
    fn ended(&self) -> Vec<(u32, Ended)>;
    /// Signals a service. A process that is gone already is not an error.
    fn signal(&self, name: &str, pid: u32, signal: StopSignal, reach: Reach) -> Result<(), ServiceError>;
    /// Whether the service does its work.
    fn healthy(&self, health: &Health) -> impl Future<Output = bool> + Send;
}
