//! The pipeline: request info -> authentication -> audit -> in-flight limit -> authorization -> the registry or another handler.
//!
//! Called by the TLS listener for each HTTP request and by the in-process transport. Holds no state of its own but limits and
//! metrics: everything that must last is in the store.

use crate::audit;
use crate::authz::{self, Attributes};
use crate::body::{self, Body};
use crate::caller::{Caller, MASTERS, Refused};
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::nodes::NodeConnector;
use crate::request::{RequestInfo, Target};
use crate::respond::{self, Answer};
use crate::tenure::{self, Tenure};
use crate::tokens::ServiceAccountKeys;
use crate::{node_scope, other, resource, reviews};
use controlplane_store::Store;
use controlplane_types::{ApiError, KindInfo, Reason, Registry};
use http::{HeaderValue, Request, Response, header};
use machined_reconcile::Supervisor;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// Reads served at once, as upstream's default; more are answered with 429 so that memory stays bounded.
const READS_IN_FLIGHT_MAX: usize = 400;

/// Writes served at once, as upstream's default.
const WRITES_IN_FLIGHT_MAX: usize = 200;

/// Longest time for a request that does not stream, as upstream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Seconds after which a client that met a full server should come back.
const RETRY_AFTER_SECONDS: u32 = 1;

/// What a server is to know besides its store.
#[derive(Clone)]
pub struct Options {
    /// Range of cluster IPs: first address and prefix length. Its first host address is the `kubernetes` Service.
    pub service_range: (Ipv4Addr, u8),
    /// Address and port that the `kubernetes` Service leads to; `None` leaves the Service without endpoints.
    pub advertise: Option<(Ipv4Addr, u16)>,
    /// Certificates of the Kubernetes authorities that clients are to trust, in PEM, served at `/.well-known/cairn/ca.pem`.
    pub ca_pem: Option<watch::Receiver<String>>,
    /// Way to the node agents; `None` answers logs and exec with 503.
    pub nodes: Option<Arc<dyn NodeConnector>>,
    /// Owner of the tasks that tunnel commands.
    pub supervisor: Supervisor,
    /// Keys that sign service-account tokens; `None` answers token requests with 503.
    pub tokens: Option<Arc<ServiceAccountKeys>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            service_range: (Ipv4Addr::new(10, 96, 0, 0), 12),
            advertise: None,
            ca_pem: None,
            nodes: None,
            supervisor: Supervisor::new(),
            tokens: None,
        }
    }
}

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) kinds: Registry,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl ApiServer {
    /// A server over a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, options: Options) -> ApiServer {
        let mut kinds = Registry::builtin();
        reviews::register(&mut kinds);
        ApiServer(Arc::new(Inner {
            store,
            options,
            metrics: Metrics::default(),
            kinds,
            reads: Arc::new(Semaphore::new(READS_IN_FLIGHT_MAX)),
            writes: Arc::new(Semaphore::new(WRITES_IN_FLIGHT_MAX)),
        }))
    }

    /// Makes the objects that every cluster has, where they are missing.
    ///
    /// # Errors
    /// [`Failure`] when the store cannot be written.
    pub async fn bootstrap(&self) -> Result<(), Failure> {
        crate::bootstrap::run(&self.0).await
    }

    /// Makes the `kubernetes` Service lead to the API servers at these addresses; pods find them there. Does nothing on a server without
    /// an address to advertise.
    ///
    /// # Errors
    /// [`Failure`] when the store cannot be written.
    pub async fn advertise(&self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), Failure> {
        crate::bootstrap::advertise(&self.0, addresses).await
    }

    /// Deletes events that were last seen over an hour before `now`; says how many. To be called every few minutes.
    ///
    /// # Errors
    /// [`Failure`] when the store cannot be read or written.
    pub async fn expire_events(&self, now: jiff::Timestamp) -> Result<usize, Failure> {
        crate::expiry::expire_events(&self.0, now).await
    }

    /// Answers one request. Who asks is its extension [`Caller`] (or [`Refused`]); without either nobody is asking.
    pub async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let info = RequestInfo::parse(request.method(), request.uri());
        let accept_gzip = respond::accepts_gzip(request.headers());
        let caller = self.0.identify(&mut request).await;
        let tenure = request.extensions().get::<Tenure>().cloned();
        let span_caller = caller.as_ref().ok().cloned();
        let answer = match caller {
            Ok(caller) => self.0.limited(&info, &caller, request).await,
            Err(failure) => Err(failure),
        };
        let response = match answer {
            Ok(answer) => respond::response(answer, &info, accept_gzip),
            Err(failure) => respond::failure(&failure),
        };
        let mut response = response.map(|body| tenure::bound(body, tenure));
        add_headers(&mut response);
        let status = response.status().as_u16();
        self.0.metrics.observe(&info, status, started.elapsed());
        audit::record(&info, span_caller.as_ref(), status, started.elapsed());
        // For whoever keeps an audit log of the connection: a token's owner is known here only.
        if let Some(caller) = span_caller {
            response.extensions_mut().insert(caller);
        }
        response
    }
}

impl Inner {
    /// The kind that a path names.
    pub(crate) fn kind(&self, group: &str, version: &str, resource: &str) -> Result<Arc<KindInfo>, ApiError> {
        self.kinds.resource(group, version, resource).cloned().ok_or_else(ApiError::no_such_resource)
    }

    /// Authentication: the connection's caller, or the service account whose token came with the request.
    async fn identify(&self, request: &mut Request<Body>) -> Result<Caller, Failure> {
        if let Some(Refused(why)) = request.extensions_mut().remove::<Refused>() {
            return Err(ApiError::new(Reason::Unauthorized, format!("Unauthorized: {why}")).into());
        }
        if let Some(caller) = request.extensions_mut().remove::<Caller>() {
            return Ok(caller);
        }
        match (bearer(request), &self.options.tokens) {
            (Some(token), Some(keys)) => {
                let (caller, tenure) = keys.authenticate(self, token).await?;
                request.extensions_mut().insert(tenure);
                Ok(caller)
            }
            (Some(_), None) => Err(ApiError::unauthorized().into()),
            (None, _) => Ok(Caller::anonymous()),
        }
    }

    /// Limits and time, then authorization and the work.
    async fn limited(&self, info: &RequestInfo, caller: &Caller, request: Request<Body>) -> Result<Answer, Failure> {
        if info.is_long_running() {
            return self.authorized(info, caller, request).await;
        }
        let pool = if info.verb.is_read() { &self.reads } else { &self.writes };
        // Whoever repairs the cluster must get in, and its health must be visible, however full it is.
        let exempt = caller.in_group(MASTERS) || info.target == Target::Other;
        let _permit = match pool.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) if exempt => None,
            Err(_) => {
                let message = "Too many requests, please try again later.";
                return Err(ApiError::too_many_requests(message, RETRY_AFTER_SECONDS).into());
            }
        };
        let work = self.authorized(info, caller, request);
        tokio::time::timeout(REQUEST_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| Err(ApiError::timeout("request did not complete within 60s").into()))
    }

    async fn authorized(&self, info: &RequestInfo, caller: &Caller, request: Request<Body>) -> Result<Answer, Failure> {
        let asked = Attributes::of(info, request.method());
        self.authorize(caller, &asked, &info.query).await?;
        match &info.target {
            Target::Other => other::serve(self, info, request),
            Target::Resource(path) => Box::pin(resource::serve(self, info, path, caller, request)).await,
        }
    }

    /// Says no with the error that the client gets.
    pub(crate) async fn authorize(
        &self,
        caller: &Caller,
        asked: &Attributes,
        query: &crate::query::Query,
    ) -> Result<(), Failure> {
        let allowed = authz::allows(caller, asked) && node_scope::allows(self, caller, asked, query).await?;
        if allowed { Ok(()) } else { Err(authz::refusal(caller, asked).into()) }
    }
}

fn bearer(request: &Request<Body>) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Headers of every answer: no caches between, and the flow-control headers by which clients know that we limit for them.
fn add_headers(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    headers.insert("x-kubernetes-pf-flowschema-uid", HeaderValue::from_static(FLOW_SCHEMA_UID));
    headers.insert("x-kubernetes-pf-prioritylevel-uid", HeaderValue::from_static(PRIORITY_LEVEL_UID));
}

/// Identity of the one flow schema there is; clients only look whether the header is there.
const FLOW_SCHEMA_UID: &str = "c0a1c0de-0000-4000-8000-000000000001";
/// Identity of the one priority level there is.
const PRIORITY_LEVEL_UID: &str = "c0a1c0de-0000-4000-8000-000000000002";

/// A response of the kind that has no body worth naming.
pub(crate) fn plain(code: u16, content_type: &'static str, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = http::StatusCode::from_u16(code).expect("because our own status codes are valid");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
