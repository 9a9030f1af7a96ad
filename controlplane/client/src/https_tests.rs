//! The HTTPS transport against a TLS server on loopback.

use crate::{Body, Client, HttpsTransport, Object, full_body};
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use machined_access::{IdentityKey, LeafKey, tls};
use rustls::pki_types::ServerName;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A server that answers every request with a Node named after HTTP version and authorization.
struct Server {
    address: SocketAddr,
    identity: IdentityKey,
    connections: Arc<AtomicUsize>,
    /// Changing it drops all connections.
    drop_all: watch::Sender<()>,
    _accepting: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let identity = IdentityKey::generate().expect("because keys can be generated");
        let key = LeafKey::generate().expect("because keys can be generated");
        let chain = identity.issue_leaf(&key.spki(), "test", &[tls::MACHINE_NAME.to_owned()], Timestamp::now());
        let leaf = key.with_chain(chain.expect("because the name is a name"));
        let keys = tls::ServerKeys::new(leaf).expect("because the leaf is of the key");
        let config = tls::server_config(keys, &["h2", "http/1.1"]).expect("because the provider is complete");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("because loopback has ports");
        let address = listener.local_addr().expect("because it listens");
        let connections = Arc::new(AtomicUsize::new(0));
        let (drop_all, dropped) = watch::channel(());
        let count = Arc::clone(&connections);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("because it listens");
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, mut dropped) = (acceptor.clone(), dropped.clone());
                // Only what is said from now on is meant for this one.
                dropped.mark_unchanged();
                running.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let serving = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
                    tokio::select! {
                        _ended = serving => {}
                        _told = dropped.changed() => {}
                    }
                });
            }
        });
        Server { address, identity, connections, drop_all, _accepting: accepting }
    }

    fn client(&self, servers: Vec<SocketAddr>) -> Client {
        let pinned = [self.identity.fingerprint()].into();
        let config = tls::pinned_client_config(pinned, None, &[]).expect("because the provider is complete");
        let name = ServerName::try_from(tls::MACHINE_NAME).expect("because it is a name");
        let transport = HttpsTransport::new(servers, name, &config).expect("because it is a name");
        Client::new(Arc::new(transport.with_authorization(HeaderValue::from_static("Bearer x"))))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let version = if request.version() == Version::HTTP_2 { "h2" } else { "old" };
    let who = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("nobody");
    let node = format!(r#"{{"metadata":{{"name":"{version} {who}"}}}}"#);
    Ok(Response::new(full_body(node)))
}

async fn name(client: &Client) -> String {
    client.all::<Node>().get("n").await.expect("because the server answers").name().to_owned()
}

#[tokio::test]
async fn requests_share_one_connection_and_carry_the_authorization() {
    let server = Server::start().await;
    let client = server.client(vec![server.address]);
    let mut requests = JoinSet::new();
    assert_eq!(name(&client).await, "h2 Bearer x");
    for _ in 0..20 {
        let client = client.clone();
        requests.spawn(async move { name(&client).await });
    }
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.expect("because no request panics"), "h2 Bearer x");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_lost_connection_is_replaced() {
    let server = Server::start().await;
    let client = server.client(vec![server.address]);
    name(&client).await;
    server.drop_all.send_replace(());
    // The request that finds the connection dead may fail: whether the server had got it is not known. Those after it do not.
    let replaced = async {
        while client.all::<Node>().get("n").await.is_err() || server.connections() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), replaced).await.expect("because the client reconnects");
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let server = Server::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("because loopback has ports");
    let nobody = closed.local_addr().expect("because it listens");
    drop(closed);
    assert_eq!(name(&server.client(vec![nobody, server.address])).await, "h2 Bearer x");
}

#[tokio::test]
async fn a_server_that_is_not_the_expected_one_gets_no_request() {
    let (server, other) = (Server::start().await, Server::start().await);
    let client = server.client(vec![other.address]);
    let refused = client.all::<Node>().get("n").await.expect_err("because the identity is another");
    assert!(matches!(refused, crate::ClientError::Transport { .. }), "{refused}");
}
