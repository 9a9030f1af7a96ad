//! machined's Local socket: where this machine stands in its cluster, and leaves for this service.
//!
//! Wire types end here: [`Place`] is what the rest of the program knows.

use crate::leaf::LeafSource;
use controlplane_types::rollout::{FailedImage, ImageReport};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use machined_access::{AccessTable, AuditRecord, LeafKey};
use machined_api::local_client::LocalClient;
use machined_api::{
    AuditRequest, Condition, ContextReply, ContextRequest, ImageState, IssueLeafRequest, ReportConditionRequest,
};
use machined_config::{Cidr, ClusterConfig, MachineConfig, Problems};
use machined_reconcile::{Restart, Stop, Supervisor};
use rustls::pki_types::CertificateDer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

/// Shortest time between two leaves, should machined ever hand out one that is nearly over.
const RENEWAL_MIN: Duration = Duration::from_secs(60);

/// Where this machine stands: the documents of the applied step and the access table of the accepted one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) cluster: ClusterConfig,
    pub(crate) machine: MachineConfig,
    pub(crate) access: AccessTable,
    /// Addresses of the machine's links.
    pub(crate) addresses: Vec<Cidr>,
    /// What became of images on this machine.
    pub(crate) images: ImageReport,
    /// Whether the running image stays: it is not on trial, and none is about to be.
    pub(crate) settled: bool,
}

/// Why machined could not be asked, or its answer not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    #[error("cannot reach machined at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("machined refused {call}")]
    Call {
        call: &'static str,
        #[source]
        source: Box<tonic::Status>,
    },
    #[error("machined ended the stream of contexts")]
    Ended,
    #[error("the applied step's documents cannot be read")]
    Documents(#[source] Box<Problems>),
    #[error("machined sent {what} that cannot be read")]
    Value {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("a key for this service cannot be made")]
    Key(#[source] machined_access::IdentityError),
}

/// A connection to machined.
#[derive(Clone)]
pub(crate) struct Local {
    client: LocalClient<Channel>,
}

fn refused(call: &'static str) -> impl FnOnce(tonic::Status) -> LocalError {
    move |source| LocalError::Call { call, source: Box::new(source) }
}

impl Local {
    /// Connects to the socket.
    pub(crate) async fn connect(path: &Path) -> Result<Local, LocalError> {
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The authority is not looked at on a Unix socket, but HTTP/2 wants one.
        let endpoint = Endpoint::from_static("http://machined.local");
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|source| LocalError::Connect { path: path.to_owned(), source })?;
        Ok(Local { client: LocalClient::new(channel) })
    }

    /// Follows this machine's place: returns the first that is complete, and keeps `Place` up to date afterwards.
    pub(crate) async fn place(&self, supervisor: &Supervisor) -> Result<watch::Receiver<Place>, LocalError> {
        let mut stream = self.contexts().await?;
        let first = loop {
            let reply = stream.message().await.map_err(refused("Context"))?.ok_or(LocalError::Ended)?;
            if let Some(place) = place(reply)? {
                break place;
            }
        };
        let (sender, receiver) = watch::channel(first);
        let (sender, local) = (Arc::new(sender), self.clone());
        supervisor
            .spawn("machine context", Restart::Always, move |stop| local.clone().follow(Arc::clone(&sender), stop));
        Ok(receiver)
    }

    /// Hands over audit records.
    pub(crate) async fn audit(&self, records: &[AuditRecord]) -> Result<(), LocalError> {
        let records = records.iter().map(|record| record.clone().to_json().into_bytes()).collect();
        self.client.clone().audit(AuditRequest { records }).await.map(drop).map_err(refused("Audit"))
    }

    /// Tells machined a condition of this machine.
    pub(crate) async fn condition(&self, condition: Condition) -> Result<(), LocalError> {
        let request = ReportConditionRequest { condition: Some(condition) };
        self.client.clone().report_condition(request).await.map(drop).map_err(refused("ReportCondition"))
    }

    async fn contexts(&self) -> Result<tonic::Streaming<ContextReply>, LocalError> {
        let answer = self.client.clone().context(ContextRequest {}).await.map_err(refused("Context"))?;
        Ok(answer.into_inner())
    }

    async fn follow(self, sender: Arc<watch::Sender<Place>>, mut stop: Stop) -> Result<(), LocalError> {
        let mut stream = self.contexts().await?;
        loop {
            let reply = tokio::select! {
                reply = stream.message() => reply.map_err(refused("Context"))?.ok_or(LocalError::Ended)?,
                () = stop.requested() => return Ok(()),
            };
            if let Some(next) = place(reply)? {
                sender.send_if_modified(|current| {
                    let changed = *current != next;
                    if changed {
                        *current = next;
                    }
                    changed
                });
            }
        }
    }

    /// A leaf for this service, renewed at two thirds of its life.
    pub(crate) async fn leaf(&self, names: Vec<String>, supervisor: &Supervisor) -> Result<LeafSource, LocalError> {
        let key = Arc::new(LeafKey::generate().map_err(LocalError::Key)?);
        let (chain, expires) = self.issue(&key.spki(), &names).await?;
        let (sender, receiver) = watch::channel(chain);
        let (sender, local, spki) = (Arc::new(sender), self.clone(), key.spki());
        let expires = Arc::new(std::sync::Mutex::new(expires));
        supervisor.spawn("leaf", Restart::Always, move |stop| {
            let expires = Arc::clone(&expires);
            local.clone().renew(spki.clone(), names.clone(), expires, Arc::clone(&sender), stop)
        });
        Ok(LeafSource::new(key, receiver))
    }

    async fn renew(
        self,
        spki: Vec<u8>,
        names: Vec<String>,
        expires: Arc<std::sync::Mutex<Timestamp>>,
        sender: Arc<watch::Sender<Vec<CertificateDer<'static>>>>,
        mut stop: Stop,
    ) -> Result<(), LocalError> {
        loop {
            let until = *expires.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep((left * 2 / 3).max(RENEWAL_MIN)) => {}
                () = stop.requested() => return Ok(()),
            }
            let (chain, until) = self.issue(&spki, &names).await?;
            *expires.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = until;
            sender.send_replace(chain);
        }
    }

    async fn issue(
        &self,
        spki: &[u8],
        names: &[String],
    ) -> Result<(Vec<CertificateDer<'static>>, Timestamp), LocalError> {
        let request = IssueLeafRequest { spki: spki.to_vec(), names: names.to_vec() };
        let reply = self.client.clone().issue_leaf(request).await.map_err(refused("IssueLeaf"))?.into_inner();
        let expires = reply.expires.parse();
        let expires =
            expires.map_err(|source: jiff::Error| LocalError::Value { what: "a time", source: source.into() })?;
        tracing::debug!(%expires, "got a leaf");
        Ok((reply.chain.into_iter().map(CertificateDer::from).collect(), expires))
    }
}

/// The release before this one says nothing of images.
fn images(state: ImageState) -> ImageReport {
    let failed = state.failed.map(|failed| FailedImage {
        digest: failed.digest,
        attempt: Some(failed.attempt).filter(|attempt| *attempt != 0),
        reason: failed.reason,
    });
    ImageReport { good: Some(state.good).filter(|good| !good.is_empty()), failed }
}

/// The place in a reply; nothing while the machine has no applied step.
fn place(reply: ContextReply) -> Result<Option<Place>, LocalError> {
    if reply.generation == 0 || reply.machine.is_empty() || reply.access.is_empty() {
        return Ok(None);
    }
    let documents = |problems| LocalError::Documents(Box::new(problems));
    let path = format!("machines/{}.kdl", reply.machine);
    let access = serde_json::from_slice(&reply.access)
        .map_err(|source| LocalError::Value { what: "an access table", source: source.into() })?;
    let address = |text: &String| {
        text.parse::<Cidr>().map_err(|source| LocalError::Value { what: "an address", source: source.into() })
    };
    Ok(Some(Place {
        cluster: ClusterConfig::parse("cluster.kdl", &reply.cluster_kdl).map_err(documents)?,
        machine: MachineConfig::parse(&path, &reply.machine_kdl).map_err(documents)?,
        access,
        addresses: reply.addresses.iter().map(address).collect::<Result<_, _>>()?,
        images: images(reply.image.unwrap_or_default()),
        settled: reply.image_settled,
    }))
}
