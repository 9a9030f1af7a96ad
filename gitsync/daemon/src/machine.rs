//! machined's local socket, as far as gitsync asks things of it. Wire types end here.

use gitsync_fetch::RepositoryUrl;
use gitsync_verify::{Action, Introduction, Order, Refusal};
use jiff::Timestamp;
use machined_access::AccessTable;
use machined_api::local_client::LocalClient;
use machined_api::{
    ApplyRequest, CheckStateRequest, CommitRecord, Condition, ContextReply, ContextRequest, IssueLeafRequest,
    ReportAcceptedRequest, ReportCommitRequest, ReportConditionRequest, ReportRecoveriesRequest, ReportSourcesRequest,
    SealStateRequest, SignMarkRequest, TrustPosition, WaitingRecovery,
};
use machined_ids::{CommitId, Digest, Epoch, Fingerprint, Generation, MachineName, PrincipalName, Seq, StepId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// What machined says about this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// Fingerprint of the identity key.
    pub(crate) identity: Fingerprint,
    /// What the machine was introduced to, once it was.
    pub(crate) introduction: Option<Introduction>,
    /// Where the repository is, in order.
    pub(crate) repositories: Vec<RepositoryUrl>,
    /// The last activation that machined took; 0 before the first.
    pub(crate) generation: Generation,
    /// The step of that activation.
    pub(crate) step: Option<StepId>,
    /// The hold or pin that people ordered.
    pub(crate) order: Option<Order>,
    /// Counts what people ordered; what is computed from this context carries it.
    pub(crate) orders: u64,
    /// Whether the machine's clock follows a time server.
    pub(crate) time_synchronised: bool,
    /// A bundle that somebody brought.
    pub(crate) bundle: Option<Bundle>,
    /// The recovery that somebody at the console vouched for, by the SHA-256 of its body.
    pub(crate) presence: Option<Digest>,
    /// What this machine told machined that it accepted; machined's own record, so that an old state is noticed.
    pub(crate) accepted: Option<Reached>,
    /// A TPM counts what is accepted.
    pub(crate) counted: bool,
    /// Why that record may be an old one; nothing moves then.
    pub(crate) doubt: Option<Doubt>,
    /// Fingerprints of the machines that the step names whose people machined looks up.
    pub(crate) machines: BTreeSet<Fingerprint>,
}

/// Why machined's record may be an old copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doubt {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A bundle that somebody brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    /// SHA-256 in hex; tells one bundle from the next.
    pub(crate) sha256: String,
}

/// How far this machine had come, by machined's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
    pub(crate) step: StepId,
}

/// What machined said makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error("machined names the identity {0:?}")]
    Identity(String, #[source] machined_ids::IdError),
    #[error("machined holds an introduction that cannot be read")]
    Introduction(#[source] Refusal),
    #[error("machined holds an order with {what} {text:?}")]
    Order { what: &'static str, text: String },
    #[error("machined holds a confirmation of recovery {0:?}")]
    Presence(String, #[source] machined_ids::IdError),
    #[error("machined holds an accepted position with step {0:?}")]
    Accepted(String, #[source] machined_ids::IdError),
}

fn order(order: machined_api::Order) -> Result<Order, ContextError> {
    let action = match order.kind.as_str() {
        "hold" => Action::Hold,
        "pin" => Action::Pin { seq: Seq(order.seq) },
        _ => return Err(ContextError::Order { what: "kind", text: order.kind }),
    };
    let until: Timestamp =
        order.until.parse().map_err(|_| ContextError::Order { what: "end", text: order.until.clone() })?;
    Ok(Order { action, by: order.by, until: Some(until), reason: order.reason })
}

fn presence(text: &str) -> Result<Option<Digest>, ContextError> {
    let parsed = (!text.is_empty()).then(|| Digest::parse(text)).transpose();
    parsed.map_err(|error| ContextError::Presence(text.to_owned(), error))
}

fn reached(position: TrustPosition) -> Result<Reached, ContextError> {
    let step = StepId::parse(&position.step).map_err(|error| ContextError::Accepted(position.step.clone(), error))?;
    Ok(Reached { epoch: Epoch(position.epoch), seq: Seq(position.seq), step })
}

/// The machines of a table; none before there is one.
fn machines(access: &[u8]) -> BTreeSet<Fingerprint> {
    let table: Option<AccessTable> = serde_json::from_slice(access).ok();
    table.map(|table| table.machines.into_values().map(|machine| machine.identity).collect()).unwrap_or_default()
}

impl TryFrom<ContextReply> for Context {
    type Error = ContextError;

    fn try_from(reply: ContextReply) -> Result<Self, ContextError> {
        let identity = reply.identity.parse().map_err(|e| ContextError::Identity(reply.identity.clone(), e))?;
        let introduction = match reply.introduction.as_slice() {
            [] => None,
            json => Some(Introduction::from_json(json).map_err(ContextError::Introduction)?),
        };
        let url = |text: &String| match RepositoryUrl::parse(text) {
            Ok(url) => Some(url),
            Err(error) => {
                tracing::warn!(%error, "a repository is left out");
                None
            }
        };
        Ok(Context {
            identity,
            introduction,
            repositories: reply.repositories.iter().filter_map(url).collect(),
            generation: Generation(reply.generation),
            step: StepId::parse(&reply.step).ok(),
            order: reply.order.map(order).transpose()?,
            orders: reply.orders,
            time_synchronised: reply.time_synchronised,
            bundle: reply.bundle.map(|bundle| Bundle { path: bundle.path.into(), sha256: bundle.sha256 }),
            presence: presence(&reply.presence)?,
            accepted: reply.accepted.map(reached).transpose()?,
            machines: machines(&reply.access),
            counted: reply.counted,
            doubt: reply.doubt.map(|doubt| Doubt { reason: doubt.reason, message: doubt.message }),
        })
    }
}

/// What a machine should be, handed down to machined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DesiredMachine {
    pub(crate) generation: Generation,
    pub(crate) step: StepId,
    pub(crate) commit: CommitId,
    pub(crate) seq: Seq,
    pub(crate) signer: PrincipalName,
    pub(crate) machine: MachineName,
    pub(crate) cluster_kdl: String,
    pub(crate) machine_kdl: String,
    pub(crate) access: AccessTable,
    /// The newest order that was known; machined refuses what was computed before a newer one.
    pub(crate) orders: u64,
}

/// A call to machined failed.
#[derive(Debug, thiserror::Error)]
#[error("machined did not {call}: {}", status.message())]
pub(crate) struct MachineError {
    call: &'static str,
    #[source]
    status: Status,
}

impl MachineError {
    /// Whether machined took this generation or position, or a later one, with another content.
    pub(crate) fn is_older(&self) -> bool {
        self.status.code() == tonic::Code::FailedPrecondition
    }

    /// Whether people ordered something that this did not know.
    pub(crate) fn misses_an_order(&self) -> bool {
        self.status.code() == tonic::Code::Aborted
    }
}

fn failed(call: &'static str) -> impl FnOnce(Status) -> MachineError {
    move |status| MachineError { call, status }
}

/// machined, on its socket. Cheap to clone; connects when it is used and again after machined restarts.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    client: LocalClient<Channel>,
}

impl Machine {
    pub(crate) fn at(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        // The socket has no name; HTTP wants one.
        let endpoint = Endpoint::from_static("http://machined.local");
        Machine { client: LocalClient::new(endpoint.connect_with_connector_lazy(connector)) }
    }

    /// The machine's place, again whenever it changes.
    pub(crate) async fn contexts(&self) -> Result<Streaming<ContextReply>, MachineError> {
        let reply = self.client.clone().context(ContextRequest {}).await.map_err(failed("say what this machine is"))?;
        Ok(reply.into_inner())
    }

    pub(crate) async fn apply(&self, desired: &DesiredMachine) -> Result<(), MachineError> {
        let access = serde_json::to_vec(&desired.access).expect("because its map keys are strings");
        let request = ApplyRequest {
            generation: desired.generation.0,
            step: desired.step.to_string(),
            commit: desired.commit.to_string(),
            seq: desired.seq.0,
            signer: desired.signer.to_string(),
            machine: desired.machine.to_string(),
            cluster_kdl: desired.cluster_kdl.clone(),
            machine_kdl: desired.machine_kdl.clone(),
            access,
            orders: desired.orders,
        };
        self.client.clone().apply(request).await.map(drop).map_err(failed("take the desired machine"))
    }

    pub(crate) async fn report_commit(&self, record: CommitRecord) -> Result<(), MachineError> {
        let request = ReportCommitRequest { commit: Some(record) };
        self.client.clone().report_commit(request).await.map(drop).map_err(failed("take a report"))
    }

    pub(crate) async fn report_condition(&self, condition: Condition) -> Result<(), MachineError> {
        let request = ReportConditionRequest { condition: Some(condition) };
        self.client.clone().report_condition(request).await.map(drop).map_err(failed("take a condition"))
    }

    pub(crate) async fn report_sources(&self, report: ReportSourcesRequest) -> Result<(), MachineError> {
        self.client.clone().report_sources(report).await.map(drop).map_err(failed("take figures of the sources"))
    }

    pub(crate) async fn seal(&self, state: Vec<u8>) -> Result<Vec<u8>, MachineError> {
        let reply = self.client.clone().seal_state(SealStateRequest { state }).await;
        reply.map(|reply| reply.into_inner().seal).map_err(failed("seal the trust state"))
    }

    pub(crate) async fn check(&self, state: Vec<u8>, seal: Vec<u8>) -> Result<bool, MachineError> {
        let reply = self.client.clone().check_state(CheckStateRequest { state, seal }).await;
        reply.map(|reply| reply.into_inner().good).map_err(failed("check the trust state's seal"))
    }

    /// The machine's signature over the lines of a mark, and its public key.
    pub(crate) async fn sign_mark(&self, lines: Vec<u8>) -> Result<(Vec<u8>, Vec<u8>), MachineError> {
        let reply = self.client.clone().sign_mark(SignMarkRequest { lines }).await;
        reply.map(|reply| reply.into_inner()).map(|r| (r.signature, r.public_key)).map_err(failed("sign a mark"))
    }

    /// Tells what is accepted; when this returns, machined remembers it through a power cut.
    pub(crate) async fn report_accepted(
        &self,
        accepted: TrustPosition,
        mark: String,
        proven: bool,
    ) -> Result<(), MachineError> {
        let request = ReportAcceptedRequest { accepted: Some(accepted), mark, proven };
        self.client.clone().report_accepted(request).await.map(drop).map_err(failed("remember what is accepted"))
    }

    /// Tells which recoveries wait, for the console.
    pub(crate) async fn report_recoveries(&self, recoveries: Vec<WaitingRecovery>) -> Result<(), MachineError> {
        let request = ReportRecoveriesRequest { recoveries };
        self.client.clone().report_recoveries(request).await.map(drop).map_err(failed("show the recoveries that wait"))
    }

    /// A leaf for this service: its chain in DER, and when it ends.
    pub(crate) async fn leaf(&self, spki: Vec<u8>) -> Result<(Vec<Vec<u8>>, String), MachineError> {
        let reply = self.client.clone().issue_leaf(IssueLeafRequest { spki, names: Vec::new() }).await;
        reply.map(|reply| reply.into_inner()).map(|r| (r.chain, r.expires)).map_err(failed("issue a leaf"))
    }
}
