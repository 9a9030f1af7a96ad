//! machined as gitsync sees it: the Local service on a socket, with a real identity key and a memory of what it was told.

use jiff::Timestamp;
use machined_access::{AccessTable, IdentityKey};
use machined_api::local_server::{Local, LocalServer};
use machined_api::{
    ApplyReply, ApplyRequest, AuditReply, AuditRequest, CheckStateReply, CheckStateRequest, CommitRecord, Condition,
    ContextReply, ContextRequest, IssueLeafReply, IssueLeafRequest, Order, ReportAcceptedReply, ReportAcceptedRequest,
    ReportCommitReply, ReportCommitRequest, ReportConditionReply, ReportConditionRequest, ReportRecoveriesReply,
    ReportRecoveriesRequest, ReportSourcesReply, ReportSourcesRequest, SealStateReply, SealStateRequest, SignMarkReply,
    SignMarkRequest, TrustPosition, WaitingRecovery,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

/// What machined was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) applied: Vec<ApplyRequest>,
    pub(crate) commits: BTreeMap<String, CommitRecord>,
    pub(crate) conditions: BTreeMap<String, Condition>,
    pub(crate) sources: Option<ReportSourcesRequest>,
    pub(crate) accepted: Vec<ReportAcceptedRequest>,
    /// Recoveries that wait, as told last.
    pub(crate) recoveries: Vec<WaitingRecovery>,
    /// Machines that were computed before people's newest order.
    pub(crate) late: usize,
}

/// A machined for one test. Clones are the same.
#[derive(Clone)]
pub(crate) struct Machined {
    pub(crate) identity: Arc<IdentityKey>,
    context: watch::Sender<ContextReply>,
    told: Arc<Mutex<Told>>,
    /// What people order right before the next machine is handed down.
    meanwhile: Arc<Mutex<Option<Order>>>,
}

impl Machined {
    pub(crate) fn new() -> Self {
        let identity = Arc::new(IdentityKey::generate().expect("because there is randomness"));
        let context = ContextReply { identity: identity.fingerprint().to_string(), ..ContextReply::default() };
        Machined { identity, context: watch::Sender::new(context), told: Arc::default(), meanwhile: Arc::default() }
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("because no holder panics")
    }

    /// Introduces the machine, as maintenance mode would.
    pub(crate) fn introduce(&self, introduction: &str, repositories: &[String]) {
        self.context.send_modify(|context| {
            context.introduction = introduction.as_bytes().to_vec();
            context.repositories = repositories.to_vec();
        });
    }

    /// Changes what gitsync is told.
    pub(crate) fn say(&self, change: impl FnOnce(&mut ContextReply)) {
        self.context.send_modify(change);
    }

    /// What people order, or that they end it.
    pub(crate) fn order(&self, order: Option<Order>) {
        self.say(|context| {
            context.order = order;
            context.orders += 1;
        });
    }

    /// Has people order something when the next machine is on its way here: after gitsync read its context, before this takes it.
    pub(crate) fn order_meanwhile(&self, order: Order) {
        *self.meanwhile.lock().expect("because no holder panics") = Some(order);
    }

    /// A condition that it was told.
    pub(crate) fn condition(&self, kind: &str) -> Option<Condition> {
        self.told().conditions.get(kind).cloned()
    }

    /// What it has on its disk.
    pub(crate) fn disk(&self) -> ContextReply {
        self.context.borrow().clone()
    }

    /// Puts an older copy of its disk back, and starts again.
    pub(crate) fn put_back(&self, disk: ContextReply) {
        self.told().applied.retain(|applied| applied.generation <= disk.generation);
        self.told().accepted.clear();
        self.forget();
        self.context.send_replace(disk);
    }

    /// Forgets what it had in memory, as a restart does; the ledger stays.
    pub(crate) fn forget(&self) {
        let mut told = self.told();
        told.commits.clear();
        told.conditions.clear();
    }

    /// Serves on a socket until the task is aborted.
    pub(crate) async fn serve(self, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("because the folder is the test's own");
        let served = tonic::transport::Server::builder().add_service(LocalServer::new(self));
        served.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("because the socket was just made");
    }
}

#[tonic::async_trait]
impl Local for Machined {
    type ContextStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<ContextReply, Status>> + Send>>;

    async fn context(&self, _: Request<ContextRequest>) -> Result<Response<Self::ContextStream>, Status> {
        Ok(Response::new(Box::pin(WatchStream::new(self.context.subscribe()).map(Ok))))
    }

    async fn issue_leaf(&self, request: Request<IssueLeafRequest>) -> Result<Response<IssueLeafReply>, Status> {
        let now = Timestamp::now();
        let chain = self.identity.issue_leaf(&request.into_inner().spki, "gitsync", &[], now);
        let chain = chain.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let expires = (now + machined_access::LEAF_LIFETIME).to_string();
        Ok(Response::new(IssueLeafReply { chain: chain.into_iter().map(|der| der.to_vec()).collect(), expires }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let request = request.into_inner();
        let meanwhile = self.meanwhile.lock().expect("because no holder panics").take();
        if meanwhile.is_some() {
            self.order(meanwhile);
        }
        if request.orders < self.context.borrow().orders {
            self.told().late += 1;
            return Err(Status::aborted("people ordered something since"));
        }
        let known = self.context.borrow().generation;
        let same = self.told().applied.last() == Some(&request);
        if request.generation < known || (request.generation == known && !same) {
            return Err(Status::failed_precondition(format!("generation {known} is applied")));
        }
        let table: AccessTable = serde_json::from_slice(&request.access)
            .map_err(|error| Status::invalid_argument(format!("access: {error}")))?;
        assert!(!table.people.is_empty(), "nobody could reach the machine");
        self.context.send_modify(|context| {
            context.generation = request.generation;
            context.step.clone_from(&request.step);
            context.commit.clone_from(&request.commit);
            context.machine.clone_from(&request.machine);
        });
        self.told().applied.push(request);
        Ok(Response::new(ApplyReply {}))
    }

    async fn report_commit(
        &self,
        request: Request<ReportCommitRequest>,
    ) -> Result<Response<ReportCommitReply>, Status> {
        let record = request.into_inner().commit.ok_or_else(|| Status::invalid_argument("no commit"))?;
        self.told().commits.insert(record.commit.clone(), record);
        Ok(Response::new(ReportCommitReply {}))
    }

    async fn report_condition(
        &self,
        request: Request<ReportConditionRequest>,
    ) -> Result<Response<ReportConditionReply>, Status> {
        let condition = request.into_inner().condition.ok_or_else(|| Status::invalid_argument("no condition"))?;
        self.told().conditions.insert(condition.r#type.clone(), condition);
        Ok(Response::new(ReportConditionReply {}))
    }

    async fn report_sources(
        &self,
        request: Request<ReportSourcesRequest>,
    ) -> Result<Response<ReportSourcesReply>, Status> {
        self.told().sources = Some(request.into_inner());
        Ok(Response::new(ReportSourcesReply {}))
    }

    async fn seal_state(&self, request: Request<SealStateRequest>) -> Result<Response<SealStateReply>, Status> {
        let seal = self.identity.seal(&request.into_inner().state);
        Ok(Response::new(SealStateReply { seal: seal.map_err(|error| Status::internal(error.to_string()))? }))
    }

    async fn check_state(&self, request: Request<CheckStateRequest>) -> Result<Response<CheckStateReply>, Status> {
        let CheckStateRequest { state, seal } = request.into_inner();
        Ok(Response::new(CheckStateReply { good: self.identity.check_seal(&state, &seal) }))
    }

    async fn sign_mark(&self, request: Request<SignMarkRequest>) -> Result<Response<SignMarkReply>, Status> {
        let signature = self.identity.sign_mark(&request.into_inner().lines);
        let signature = signature.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(SignMarkReply { signature, public_key: self.identity.public_key() }))
    }

    async fn report_accepted(
        &self,
        request: Request<ReportAcceptedRequest>,
    ) -> Result<Response<ReportAcceptedReply>, Status> {
        let offered = request.get_ref().accepted.clone().ok_or_else(|| Status::invalid_argument("no position"))?;
        let place = |position: &TrustPosition| (position.epoch, position.seq);
        if self.context.borrow().accepted.as_ref().is_some_and(|known| place(known) > place(&offered)) {
            return Err(Status::failed_precondition("a later position was accepted"));
        }
        let proven = request.get_ref().proven;
        if self.context.borrow().doubt.is_some() && !proven {
            return Err(Status::failed_precondition("what is the newest position is doubted"));
        }
        self.context.send_modify(|context| {
            context.accepted = Some(offered);
            context.doubt = None;
        });
        self.told().accepted.push(request.into_inner());
        Ok(Response::new(ReportAcceptedReply {}))
    }

    async fn report_recoveries(
        &self,
        request: Request<ReportRecoveriesRequest>,
    ) -> Result<Response<ReportRecoveriesReply>, Status> {
        self.told().recoveries = request.into_inner().recoveries;
        Ok(Response::new(ReportRecoveriesReply {}))
    }

    async fn audit(&self, _: Request<AuditRequest>) -> Result<Response<AuditReply>, Status> {
        Err(Status::permission_denied("gitsync has nothing to tell"))
    }
}
