//! The local API: what services on this machine may ask of machined. Each caller is known by its cgroup.
//!
//! The peer's process id is the kernel's word (SO_PEERCRED), and the cgroup of that process names the service. Unprivileged helpers
//! in the same cgroup (gitsync's fetch child) are not the service: the user must be root.

use crate::api::orders;
use crate::model::Model;
use crate::recoveries;
use crate::wire;
use jiff::Timestamp;
use machined_access::{AuditApi, AuditOutcome, AuditRecord, IdentityError, LEAF_LIFETIME};
use machined_api::local_server::Local;
use machined_api::{
    ApplyReply, ApplyRequest, AuditReply, AuditRequest, Bundle, CheckStateReply, CheckStateRequest, CommitRecord,
    ContextReply, ContextRequest, IssueLeafReply, IssueLeafRequest, ReportAcceptedReply, ReportAcceptedRequest,
    ReportCommitReply, ReportCommitRequest, ReportConditionReply, ReportConditionRequest, ReportRecoveriesReply,
    ReportRecoveriesRequest, ReportSourcesReply, ReportSourcesRequest, SealStateReply, SealStateRequest, SignMarkReply,
    SignMarkRequest,
};
use machined_controllers::identity::MachineKey;
use machined_controllers::introduction::Introduced;
use machined_controllers::ledger::{Apply, ApplyError, DesiredMachine, RawDesired};
use machined_controllers::services::{CONTROLPLANE, GITSYNC};
use machined_controllers::time::TimeStatus;
use machined_controllers::trust::{Presence, PresenceRequest, Rollback, TrustRecord, TrustRequest};
use machined_controllers::upgrade::UpgradeStatus;
use machined_host::cgroup_of;
use machined_ids::{Generation, Seq};
use machined_reconcile::story;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// Names in one leaf; a machine has a few addresses and names.
const LEAF_NAMES_MAX: usize = 64;

/// Audit records in one message; the control plane sends what came in one moment.
const AUDIT_RECORDS_MAX: usize = 256;

/// Who is at the other end of a local connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A service of machined, by name.
    Service(String),
    /// Anybody else, with what they are.
    Stranger(String),
}

impl Caller {
    /// Judges a peer by its user and its cgroup ("/cairn/services/gitsync").
    fn judge(uid: u32, cgroup: Option<&str>) -> Self {
        let service = cgroup.and_then(|cgroup| cgroup.strip_prefix("/cairn/services/"));
        match service {
            Some(name) if uid == 0 && !name.is_empty() && !name.contains('/') => Caller::Service(name.to_owned()),
            Some(_) | None => Caller::Stranger(format!("user {uid} in cgroup {}", cgroup.unwrap_or("unknown"))),
        }
    }
}

/// A local connection whose peer was judged.
pub(crate) struct LocalStream {
    stream: UnixStream,
    caller: Caller,
}

impl LocalStream {
    /// Judges the peer of a connection.
    pub(crate) fn new(stream: UnixStream) -> Self {
        let caller = match stream.peer_cred() {
            Ok(peer) => {
                let cgroup = peer.pid().and_then(|pid| cgroup_of(pid.unsigned_abs()));
                Caller::judge(peer.uid(), cgroup.as_deref())
            }
            Err(error) => Caller::Stranger(format!("unknown: {error}")),
        };
        LocalStream { stream, caller }
    }
}

#[cfg(test)]
impl LocalStream {
    /// A connection of a given caller.
    pub(crate) fn of(stream: UnixStream, caller: Caller) -> Self {
        LocalStream { stream, caller }
    }
}

impl Connected for LocalStream {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves services.
pub(crate) struct LocalService {
    model: Model,
}

/// The caller's service when it is one of `allowed`, else what the caller is.
fn judge<T>(request: &Request<T>, allowed: &[&'static str]) -> Result<&'static str, String> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Service(name)) => allowed.iter().find(|allowed| *allowed == name).copied().ok_or(name.clone()),
        Some(Caller::Stranger(what)) => Err(what.clone()),
        None => Err("unknown".to_owned()),
    }
}

fn context_of(model: &Model) -> ContextReply {
    // Orders first: with a number of orders go only machines that were applied before the next order, or knowing it.
    let trust = model.trust.get(TrustRecord::ID).unwrap_or_default();
    let rollback = model.rollback.get(Rollback::ID);
    let desired = model.desired.get(DesiredMachine::ID).map(|desired| desired.raw);
    let introduction = match model.introduced.get(Introduced::ID) {
        Some(Introduced::As(introduction)) => Some(introduction),
        Some(Introduced::Not) | None => None,
    };
    let bundle = model.deliveries.newest();
    let presence = model.presence.get(Presence::ID).unwrap_or_default();
    let text = |of: fn(&RawDesired) -> String| desired.as_ref().map(of).unwrap_or_default();
    let access = desired.as_ref().map(|raw| serde_json::to_vec(&raw.access).expect("because its map keys are strings"));
    ContextReply {
        machine: text(|raw| raw.machine.to_string()),
        identity: model.identity(),
        introduction: introduction.as_ref().map(|found| found.json.clone().into_bytes()).unwrap_or_default(),
        repositories: introduction.map(|found| found.repositories).unwrap_or_default(),
        generation: desired.as_ref().map_or(0, |raw| raw.generation.0),
        step: text(|raw| raw.step.to_string()),
        commit: text(|raw| raw.commit.to_string()),
        cluster_kdl: text(|raw| raw.cluster_kdl.clone()),
        machine_kdl: text(|raw| raw.machine_kdl.clone()),
        access: access.unwrap_or_default(),
        addresses: model.addresses(),
        order: trust.order.as_ref().map(wire::order),
        time_synchronised: model.time.get(TimeStatus::ID).is_some_and(|time| time.synchronised),
        bundle: bundle.map(|b| Bundle { path: b.path.display().to_string(), sha256: b.sha256.to_string() }),
        accepted: trust.accepted.as_ref().map(wire::position),
        presence: presence.confirmed.map(|recovery| recovery.to_string()).unwrap_or_default(),
        orders: trust.orders,
        image_settled: model.upgrade.get(UpgradeStatus::ID).is_some_and(|upgrade| upgrade.phase == UpgradeStatus::IDLE),
        counted: rollback == Some(Rollback::Newest),
        image: model.upgrade.get(UpgradeStatus::ID).as_ref().map(wire::image),
        doubt: match rollback {
            Some(Rollback::Doubted(doubt)) => Some(wire::doubt(&doubt)),
            Some(Rollback::Newest | Rollback::Undetectable) | None => None,
        },
    }
}

/// Wire to values; says which field is wrong.
fn desired_of(request: ApplyRequest) -> Result<RawDesired, Status> {
    fn field<T, E: std::fmt::Display>(name: &str, parsed: Result<T, E>) -> Result<T, Status> {
        parsed.map_err(|error| Status::invalid_argument(format!("{name}: {error}")))
    }
    Ok(RawDesired {
        generation: Generation(request.generation),
        step: field("step", request.step.parse())?,
        commit: field("commit", request.commit.parse())?,
        seq: Seq(request.seq),
        signer: field("signer", request.signer.parse())?,
        machine: field("machine", request.machine.parse())?,
        cluster_kdl: request.cluster_kdl,
        machine_kdl: request.machine_kdl,
        access: field("access", serde_json::from_slice(&request.access))?,
    })
}

fn not_signed(error: &IdentityError) -> Status {
    match error {
        IdentityError::Form { .. } => Status::invalid_argument(story(error)),
        // The service asks again; a TPM may be busy.
        IdentityError::Chip(_) | IdentityError::NotSigned => Status::unavailable(story(error)),
    }
}

fn refused(error: &ApplyError) -> Status {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    match error {
        ApplyError::NotReady { .. } => Status::unavailable(text),
        ApplyError::OlderOrders { .. } => Status::aborted(text),
        ApplyError::Older { .. } | ApplyError::Reused(_) => Status::failed_precondition(text),
        ApplyError::Documents(_) | ApplyError::OtherMachine { .. } | ApplyError::OtherCluster { .. } => {
            Status::invalid_argument(text)
        }
        ApplyError::Write(_) => Status::internal(text),
    }
}

impl LocalService {
    pub(crate) fn new(model: Model) -> Self {
        LocalService { model }
    }

    /// Lets a call in when its caller is one of `allowed`; gives the service's name. Refusals are in the audit log.
    fn admit<T>(
        &self,
        request: &Request<T>,
        call: &'static str,
        allowed: &[&'static str],
    ) -> Result<&'static str, Status> {
        judge(request, allowed).map_err(|caller| {
            let message = format!("{call} is for {} only", allowed.join(" and "));
            let record = AuditRecord::new(Timestamp::now(), AuditApi::Local, call).from(caller);
            self.model.audit.add(record.ended(AuditOutcome::Refused, &message));
            Status::permission_denied(message)
        })
    }

    fn key(&self) -> Result<MachineKey, Status> {
        self.model.keys.get(MachineKey::ID).ok_or_else(|| Status::unavailable("the identity key is not loaded yet"))
    }

    fn tell_of(&self, record: &CommitRecord) {
        let kind = match record.state.as_str() {
            "accepted" => "CommitAccepted",
            "refused" => "CommitRefused",
            "healthy" => "CommitHealthy",
            "reverted" => "CommitReverted",
            // machined itself tells of what it applied; the others are seen in the list.
            _ => return,
        };
        let message = match record.reason.as_str() {
            "" if record.message.is_empty() => record.subject.clone(),
            "" => record.message.clone(),
            reason => format!("{reason}: {}", record.message),
        };
        self.model.events.add(kind, format!("commit/{}", record.commit), message);
    }
}

#[tonic::async_trait]
impl Local for LocalService {
    type ContextStream = Pin<Box<dyn Stream<Item = Result<ContextReply, Status>> + Send>>;

    async fn context(&self, request: Request<ContextRequest>) -> Result<Response<Self::ContextStream>, Status> {
        self.admit(&request, "Context", &[GITSYNC, CONTROLPLANE])?;
        let mut model = self.model.clone();
        let contexts = async_stream::stream! {
            let mut told = None;
            model.known().await;
            loop {
                let context = context_of(&model);
                if told.as_ref() != Some(&context) {
                    told = Some(context.clone());
                    yield Ok(context);
                }
                model.changed().await;
            }
        };
        Ok(Response::new(Box::pin(contexts)))
    }

    async fn issue_leaf(&self, request: Request<IssueLeafRequest>) -> Result<Response<IssueLeafReply>, Status> {
        let service = self.admit(&request, "IssueLeaf", &[GITSYNC, CONTROLPLANE])?;
        let IssueLeafRequest { spki, names } = request.into_inner();
        if names.len() > LEAF_NAMES_MAX {
            return Err(Status::invalid_argument(format!("a leaf has at most {LEAF_NAMES_MAX} names")));
        }
        let now = Timestamp::now();
        let key = self.key()?;
        let chain = key.issue_leaf(spki, service, names.clone(), now).await.map_err(|error| not_signed(&error))?;
        let record = AuditRecord::new(now, AuditApi::Local, format!("IssueLeaf {}", names.join(" ")));
        self.model.audit.add(record.from(service));
        let chain = chain.into_iter().map(|der| der.as_ref().to_vec()).collect();
        Ok(Response::new(IssueLeafReply { chain, expires: (now + LEAF_LIFETIME).to_string() }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        self.admit(&request, "Apply", &[GITSYNC])?;
        let request = request.into_inner();
        let orders = request.orders;
        let answer = self
            .model
            .apply
            .ask(Apply { desired: desired_of(request)?, orders })
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        answer.map_err(|error| {
            let status = refused(&error);
            tracing::warn!(reason = status.message(), "a desired machine is refused");
            self.model.events.add("ApplyRefused", "machine", status.message());
            status
        })?;
        Ok(Response::new(ApplyReply {}))
    }

    async fn report_commit(
        &self,
        request: Request<ReportCommitRequest>,
    ) -> Result<Response<ReportCommitReply>, Status> {
        self.admit(&request, "ReportCommit", &[GITSYNC])?;
        let record = request.into_inner().commit.ok_or_else(|| Status::invalid_argument("commit is missing"))?;
        if self.model.reports.commit(record.clone()) {
            self.tell_of(&record);
        }
        Ok(Response::new(ReportCommitReply {}))
    }

    async fn report_condition(
        &self,
        request: Request<ReportConditionRequest>,
    ) -> Result<Response<ReportConditionReply>, Status> {
        let service = self.admit(&request, "ReportCondition", &[GITSYNC, CONTROLPLANE])?;
        let condition =
            request.into_inner().condition.ok_or_else(|| Status::invalid_argument("condition is missing"))?;
        if !self.model.reports.condition(service, condition) {
            return Err(Status::resource_exhausted("this service has too many conditions"));
        }
        Ok(Response::new(ReportConditionReply {}))
    }

    async fn report_sources(
        &self,
        request: Request<ReportSourcesRequest>,
    ) -> Result<Response<ReportSourcesReply>, Status> {
        self.admit(&request, "ReportSources", &[GITSYNC])?;
        self.model.reports.set_sources(request.into_inner());
        Ok(Response::new(ReportSourcesReply {}))
    }

    async fn seal_state(&self, request: Request<SealStateRequest>) -> Result<Response<SealStateReply>, Status> {
        self.admit(&request, "SealState", &[GITSYNC])?;
        let key = self.key()?;
        let seal = key.seal(request.into_inner().state).await.map_err(|error| not_signed(&error))?;
        Ok(Response::new(SealStateReply { seal }))
    }

    async fn check_state(&self, request: Request<CheckStateRequest>) -> Result<Response<CheckStateReply>, Status> {
        self.admit(&request, "CheckState", &[GITSYNC])?;
        let CheckStateRequest { state, seal } = request.into_inner();
        Ok(Response::new(CheckStateReply { good: self.key()?.check_seal(&state, &seal) }))
    }

    async fn sign_mark(&self, request: Request<SignMarkRequest>) -> Result<Response<SignMarkReply>, Status> {
        self.admit(&request, "SignMark", &[GITSYNC])?;
        let key = self.key()?;
        let signature = key.sign_mark(request.into_inner().lines).await.map_err(|error| not_signed(&error))?;
        Ok(Response::new(SignMarkReply { signature, public_key: key.public_key() }))
    }

    async fn report_accepted(
        &self,
        request: Request<ReportAcceptedRequest>,
    ) -> Result<Response<ReportAcceptedReply>, Status> {
        self.admit(&request, "ReportAccepted", &[GITSYNC])?;
        let ReportAcceptedRequest { accepted, mark, proven } = request.into_inner();
        let accepted = accepted.ok_or_else(|| Status::invalid_argument("accepted is missing"))?;
        let position = wire::accepted_of(accepted)?;
        orders::ask(&self.model, TrustRequest::Accept { position, proven }).await?;
        self.model.reports.set_mark(mark);
        Ok(Response::new(ReportAcceptedReply {}))
    }

    async fn report_recoveries(
        &self,
        request: Request<ReportRecoveriesRequest>,
    ) -> Result<Response<ReportRecoveriesReply>, Status> {
        self.admit(&request, "ReportRecoveries", &[GITSYNC])?;
        let waiting = recoveries::read(request.into_inner().recoveries)?;
        let digests = waiting.iter().map(|waiting| waiting.body).collect();
        let asked = self.model.confirm.ask(PresenceRequest::Waiting(digests)).await;
        let asked = asked.map_err(|error| Status::unavailable(error.to_string()))?;
        asked.map_err(|error| Status::unavailable(error.to_string()))?;
        self.model.recoveries.put(waiting);
        Ok(Response::new(ReportRecoveriesReply {}))
    }

    async fn audit(&self, request: Request<AuditRequest>) -> Result<Response<AuditReply>, Status> {
        self.admit(&request, "Audit", &[CONTROLPLANE])?;
        let records = request.into_inner().records;
        if records.len() > AUDIT_RECORDS_MAX {
            return Err(Status::invalid_argument(format!("at most {AUDIT_RECORDS_MAX} records at once")));
        }
        for record in records {
            let record: AuditRecord = serde_json::from_slice(&record)
                .map_err(|error| Status::invalid_argument(format!("a record cannot be read: {error}")))?;
            if record.api != AuditApi::Cluster {
                return Err(Status::invalid_argument("the control plane tells of the cluster's API only"));
            }
            self.model.audit.add(record);
        }
        Ok(Response::new(AuditReply {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call_by(caller: Caller) -> Request<()> {
        let mut request = Request::new(());
        request.extensions_mut().insert(caller);
        request
    }

    #[test]
    fn a_service_is_known_by_its_cgroup_and_only_as_root() {
        let judge = |uid, cgroup| Caller::judge(uid, Some(cgroup));
        assert_eq!(judge(0, "/cairn/services/gitsync"), Caller::Service("gitsync".to_owned()));
        assert!(matches!(judge(900, "/cairn/services/gitsync"), Caller::Stranger(_)));
        assert!(matches!(judge(0, "/cairn/services/gitsync/child"), Caller::Stranger(_)));
        assert!(matches!(judge(0, "/pods/cairn/services/gitsync"), Caller::Stranger(_)));
        assert!(matches!(judge(0, "/cairn/services/"), Caller::Stranger(_)));
        assert!(matches!(Caller::judge(0, None), Caller::Stranger(_)));
    }

    #[test]
    fn only_gitsync_hands_down_machines() {
        let allowed = [GITSYNC];
        let service = |name: &str| call_by(Caller::Service(name.to_owned()));
        assert_eq!(judge(&service(GITSYNC), &allowed).ok(), Some(GITSYNC));
        assert!(judge(&service(CONTROLPLANE), &allowed).is_err());
        assert!(judge(&call_by(Caller::Stranger(String::new())), &allowed).is_err());
        assert!(judge(&Request::new(()), &allowed).is_err());
    }
}
