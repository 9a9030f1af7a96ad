//! What every controller is given.

use controlplane_client::{Client, ClientError, Informers, Recorder, Transport};
use machined_reconcile::Supervisor;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What the daemon tells the controllers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The machine that they run on, for events.
    pub instance: String,
    /// The certificates that pods should trust the API server by, in PEM.
    pub root_ca: String,
    /// The pod network: first address and prefix length. Each node gets a /24 of it.
    pub pods: (Ipv4Addr, u8),
    /// Who keeps the store.
    pub group: Arc<dyn crate::StoreGroup>,
}

/// Shared by all controllers of the process.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Arc<Informers>,
    pub(crate) supervisor: Supervisor,
    pub(crate) settings: Settings,
}

impl Context {
    pub(crate) fn new(transport: Arc<dyn Transport>, supervisor: &Supervisor, settings: Settings) -> Self {
        let client = Client::new(transport);
        let informers = Arc::new(Informers::new(client.clone(), supervisor.clone()));
        Context { client, informers, supervisor: supervisor.clone(), settings }
    }

    /// A recorder that signs as `component`.
    pub(crate) fn recorder(&self, component: &str) -> Recorder {
        Recorder::start(self.client.clone(), &self.supervisor, component, &self.settings.instance)
    }
}

/// A step of a plan could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub(crate) struct StepError {
    /// What was being done, with the object's name.
    pub(crate) doing: String,
    #[source]
    pub(crate) source: ClientError,
}

/// Names what was being done when a request failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, StepError>;
}

impl<T> Doing<T> for Result<T, ClientError> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|source| StepError { doing: what(), source })
    }
}
