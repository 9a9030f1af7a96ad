//! A real API server over a store in memory, behind mTLS as on a machine.

use controlplane_apiserver::{ApiServer, Body, BoxError, Caller, Options};
use controlplane_store::LocalStore;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use machined_access::{IdentityKey, LeafKey, Peer, tls};
use machined_ids::Fingerprint;
use rustls::pki_types::UnixTime;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

type Exchange = (Request<Body>, oneshot::Sender<Response<Body>>);

/// Answers on a thread of its own, one task a request.
fn serve(server: ApiServer) -> mpsc::Sender<Exchange> {
    let (sender, mut exchanges) = mpsc::channel::<Exchange>(64);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answers = tokio::task::LocalSet::new();
        answers.block_on(&runtime.expect("because threads can be made"), async move {
            while let Some((request, answer)) = exchanges.recv().await {
                let server = server.clone();
                // A client that is gone needs no answer.
                tokio::task::spawn_local(async move { answer.send(server.handle(request).await).map_err(drop) });
            }
        });
    });
    sender
}

async fn answer(
    server: mpsc::Sender<Exchange>,
    caller: Caller,
    request: Request<Incoming>,
) -> Result<Response<Body>, oneshot::error::RecvError> {
    let boxed = |error: hyper::Error| -> BoxError { Box::new(error) };
    let mut request = request.map(|body| body.map_err(boxed).boxed_unsync());
    request.extensions_mut().insert(caller);
    let (sender, receiver) = oneshot::channel();
    server.send((request, sender)).await.expect("because the thread lives as long as a sender does");
    receiver.await
}

/// The API server of one test. Clones are the same.
#[derive(Clone)]
pub(crate) struct Cluster {
    server: ApiServer,
    /// Workers' gitsyncs that are let in, by identity.
    workers: Arc<Mutex<BTreeMap<Fingerprint, String>>>,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let server = ApiServer::new(Arc::new(LocalStore::new()), Options::default());
        server.bootstrap().await.expect("because the store is in memory");
        Cluster { server, workers: Arc::default() }
    }

    /// Lets the gitsync of a worker in as such, at every machine.
    pub(crate) fn admit(&self, worker: &str, identity: Fingerprint) {
        self.workers.lock().expect("because no holder panics").insert(identity, worker.to_owned());
    }

    /// Listens with a leaf of the machine; every gitsync of that machine is let in as gitsync.
    pub(crate) async fn listen(&self, identity: &IdentityKey, address: SocketAddr) -> SocketAddr {
        let key = LeafKey::generate().expect("because there is randomness");
        let chain = identity.issue_leaf(&key.spki(), "controlplane", &[tls::MACHINE_NAME.to_owned()], Timestamp::now());
        let leaf = key.with_chain(chain.expect("because the key is good"));
        let keys = tls::ServerKeys::new(leaf).expect("because the key is good");
        let config = tls::server_config(keys, &["h2", "http/1.1"]).expect("because the provider is complete");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).await.expect("because the port is free");
        let address = listener.local_addr().expect("because it listens");
        let (server, own) = (serve(self.server.clone()), identity.fingerprint());
        let workers = Arc::clone(&self.workers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, own, acceptor) = (server.clone(), own.clone(), acceptor.clone());
                let workers = Arc::clone(&workers);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let chain = stream.get_ref().1.peer_certificates();
                    let caller = match tls::peer(chain, UnixTime::now()) {
                        Peer::Machine { identity, service } if identity == own && service == "gitsync" => {
                            Caller::gitsync("")
                        }
                        Peer::Machine { identity, service } if service == "gitsync" => {
                            let workers = workers.lock().expect("because no holder panics");
                            workers
                                .get(&identity)
                                .map_or_else(Caller::anonymous, |name| Caller::gitsync_of_worker(name, ""))
                        }
                        Peer::Machine { .. } | Peer::Key(_) | Peer::Anonymous => Caller::anonymous(),
                    };
                    let service = service_fn(move |request| answer(server.clone(), caller.clone(), request));
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A connection that breaks off is the client's to notice.
                    let _broken = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        address
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let text = body.map(|body| body.to_string()).unwrap_or_default();
        let body: Body = controlplane_apiserver::full_body(text);
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(
            "content-type",
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
        );
        let mut request = request.body(body).expect("because the parts are good");
        // Nobody but gitsync writes its kinds.
        let caller = match path.contains("/cairn.dev/") {
            true => Caller::gitsync(""),
            false => Caller::authenticated("test", [controlplane_apiserver::MASTERS.to_owned()], ""),
        };
        request.extensions_mut().insert(caller);
        let response = self.server.handle(request).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("because it is in memory").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// An object, if it is there.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let (status, object) = self.call("GET", path, None).await;
        (status == 200).then_some(object)
    }

    /// Changes an object behind gitsync's back.
    pub(crate) async fn patch(&self, path: &str, patch: Value) {
        let (status, answer) = self.call("PATCH", path, Some(patch)).await;
        assert_eq!(status, 200, "{answer}");
    }
}
