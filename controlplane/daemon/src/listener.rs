//! The TLS listener of the Kubernetes API: accepts connections, says who asks, hands requests to the API server.
//!
//! One task accepts, one task per connection serves; both belong to the Supervisor. Never looks into a request beyond its
//! `authorization` header, and leaves an audit record of each.

use crate::audit::{Audit, Call};
use crate::identify::{Asking, identify};
use crate::table::Table;
use controlplane_apiserver::{ApiServer, Body, BoxError, Caller};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use machined_access::{Proven, tls};
use machined_reconcile::{Restart, Stop, Supervisor};
use rustls::pki_types::UnixTime;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections open at once; more wait in the kernel's queue. Each costs some tens of KiB.
const CONNECTIONS_MAX: usize = 4096;

/// Longest TLS handshake; a client that is slower is not one of ours.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for the head of an HTTP/1.1 request: nobody holds a connection by typing slowly.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams of one HTTP/2 connection at once, as upstream's default.
const STREAMS_MAX: u32 = 250;

/// Longest that open requests are waited for when the process ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that a connection needs.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) api: ApiServer,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) table: Table,
    pub(crate) audit: Audit,
    pub(crate) supervisor: Supervisor,
}

impl Listener {
    /// Accepts until the process ends.
    pub(crate) async fn run(self, socket: Arc<TcpListener>, mut stop: Stop) -> Result<(), io::Error> {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            let stream = tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Out of file descriptors, or the client is gone already: no reason to end.
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = stop.requested() => return Ok(()),
            };
            let connection = Arc::new(Mutex::new(Some((self.clone(), stream, place))));
            self.supervisor.spawn("api connection", Restart::Never, move |stop| {
                let taken = connection.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move {
                    if let Some((listener, stream, _place)) = taken {
                        listener.connection(stream, stop).await;
                    }
                    Ok::<_, Infallible>(())
                }
            });
        }
    }

    async fn connection(self, stream: TcpStream, mut stop: Stop) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection closed before it began");
            return;
        }
        let remote = stream.peer_addr().ok();
        let handshake = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                return;
            }
            Err(_) => return,
        };
        let peer = tls::peer(stream.get_ref().1.peer_certificates(), UnixTime::now());
        let proven = Arc::new(Proven::new(peer));
        let service = service_fn(move |request| answer(self.clone(), remote, Arc::clone(&proven), request));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.requested() => {
                connection.as_mut().graceful_shutdown();
                // Watches do not end by themselves; what is left is cut.
                tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection broke");
        }
    }
}

/// Pause after a failed accept, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn answer(
    listener: Listener,
    remote: Option<SocketAddr>,
    proven: Arc<Proven>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let table = listener.table.current();
    match identify(&table, &proven, request.headers(), Timestamp::now()) {
        Asking::Caller(caller) => drop(request.extensions_mut().insert(caller)),
        Asking::Refused(refused) => drop(request.extensions_mut().insert(refused)),
        Asking::Token => {}
    }
    // Without the query: it may name what the log must not hold.
    let call = Call { remote, method: format!("{} {}", request.method(), request.uri().path()) };
    let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
    let response = listener.api.handle(request).await;
    listener.audit.add(call, response.extensions().get::<Caller>(), response.status());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane_apiserver::Options;
    use http_body_util::Empty;
    use hyper::body::Bytes;
    use hyper::client::conn::http1::{SendRequest, handshake};
    use jiff::SignedDuration;
    use machined_access::{
        Access, AccessTable, AuditOutcome, IdentityKey, LOGIN_NAMESPACE, LeafKey, LoginStatement, Person, RoleEntry,
        SignedLogin, ssh_fingerprint,
    };
    use machined_ids::{ClusterId, PrincipalName, Seq, StepId};
    use rustls::pki_types::ServerName;
    use ssh_key::private::Ed25519Keypair;
    use ssh_key::{HashAlg, LineEnding, PrivateKey};
    use tokio_rustls::TlsConnector;

    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

    fn name(text: &str) -> PrincipalName {
        PrincipalName::parse(text).expect("because it is a name")
    }

    fn table(seq: u64, people: &[(&str, &PrivateKey)]) -> AccessTable {
        let person = |(who, ssh): &(&str, &PrivateKey)| {
            let key = ssh_fingerprint(ssh.public_key().key_data());
            (name(who), Person { keys: [key].into(), roles: [name("team")].into() })
        };
        AccessTable {
            cluster: CLUSTER,
            seq: Seq(seq),
            step: StepId::from_bytes([1; 32]),
            people: people.iter().map(person).collect(),
            roles: [(name("team"), RoleEntry { access: Access::Admin })].into(),
            machines: Default::default(),
        }
    }

    fn login(ssh: &PrivateKey, client: &LeafKey) -> String {
        let issued = Timestamp::now();
        let expires = issued + SignedDuration::from_hours(1);
        let statement = LoginStatement { cluster: CLUSTER, client_key: client.fingerprint(), issued, expires };
        let signature = ssh.sign(LOGIN_NAMESPACE, HashAlg::Sha512, statement.to_string().as_bytes());
        let signature = signature.and_then(|s| s.to_pem(LineEnding::LF)).expect("because ed25519 keys sign");
        SignedLogin::new(statement, &signature).expect("because it is armoured").to_token()
    }

    async fn connect(
        address: SocketAddr,
        machine: &IdentityKey,
        client: &LeafKey,
        supervisor: &Supervisor,
    ) -> SendRequest<Empty<Bytes>> {
        let own = client.self_signed(Timestamp::now()).expect("because P-256 keys sign");
        let config = tls::pinned_client_config([machine.fingerprint()].into(), Some(own), &["http/1.1"]);
        let stream = TcpStream::connect(address).await.expect("because it listens");
        let server = ServerName::try_from(tls::MACHINE_NAME).expect("because it is a DNS name");
        let stream = TlsConnector::from(Arc::new(config.expect("because the keys are good"))).connect(server, stream);
        let (sender, connection) =
            handshake(TokioIo::new(stream.await.expect("because it is pinned"))).await.expect("because it is HTTP");
        let mut connection = Some(connection);
        supervisor.spawn("client", Restart::Never, move |_| connection.take().expect("because it is started once"));
        sender
    }

    async fn get(sender: &mut SendRequest<Empty<Bytes>>, token: &str) -> u16 {
        sender.ready().await.expect("because the connection stays open");
        let request = Request::get("/api/v1/namespaces?labelSelector=secret")
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::new());
        let request = request.expect("because the parts are good");
        let response = sender.send_request(request).await.expect("because the connection stays open");
        let status = response.status().as_u16();
        response.into_body().collect().await.expect("because the answer is whole");
        status
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn t71_who_is_removed_is_refused_on_the_next_request_of_an_open_connection_and_the_log_says_so() {
        let supervisor = Supervisor::new();
        let machine = IdentityKey::generate().expect("because there is randomness");
        let key = LeafKey::generate().expect("because there is randomness");
        let chain = machine.issue_leaf(&key.spki(), "controlplane", &[tls::MACHINE_NAME.to_owned()], Timestamp::now());
        let keys = tls::ServerKeys::new(key.with_chain(chain.expect("because the key is good")));
        let tls = tls::server_config(keys.expect("because the key is good"), &["http/1.1"]);
        let api = ApiServer::new(Arc::new(controlplane_store::LocalStore::new()), Options::default());
        api.bootstrap().await.expect("because the store is in memory");
        let (ada, bob): (PrivateKey, PrivateKey) =
            (Ed25519Keypair::from_seed(&[1; 32]).into(), Ed25519Keypair::from_seed(&[2; 32]).into());
        let (writer, table_of_step) = crate::table::table(table(1, &[("ada", &ada)]));
        let (audit, mut records) = crate::audit::for_tests();
        let tls = Arc::new(tls.expect("because the provider is complete"));
        let listener = Listener { api, tls, table: table_of_step, audit, supervisor: supervisor.clone() };
        let socket = Arc::new(TcpListener::bind("127.0.0.1:0").await.expect("because loopback has free ports"));
        let address = socket.local_addr().expect("because it is bound");
        supervisor.spawn("api listener", Restart::Never, move |stop| listener.clone().run(Arc::clone(&socket), stop));

        let client = LeafKey::generate().expect("because there is randomness");
        let token = login(&ada, &client);
        let mut sender = connect(address, &machine, &client, &supervisor).await;
        assert_eq!(get(&mut sender, &token).await, 200);
        writer.replace(table(2, &[("bob", &bob)]));
        assert_eq!(get(&mut sender, &token).await, 401, "ada is gone, and her connection is the same");
        // A relayed login is worth nothing on another client's connection (T70), and a re-introduction counts from zero again.
        writer.replace(table(0, &[("ada", &ada)]));
        assert_eq!(get(&mut sender, &token).await, 200);
        let thief = LeafKey::generate().expect("because there is randomness");
        let mut stolen = connect(address, &machine, &thief, &supervisor).await;
        assert_eq!(get(&mut stolen, &token).await, 401);

        let own = ssh_fingerprint(ada.public_key().key_data()).to_string();
        let allowed = ("ada".to_owned(), own, AuditOutcome::Allowed, "200".to_owned());
        let refused = (String::new(), String::new(), AuditOutcome::Refused, "401".to_owned());
        for expected in [allowed.clone(), refused.clone(), allowed, refused] {
            let record = records.recv().await.expect("because every call leaves one");
            assert_eq!(record.method, "GET /api/v1/namespaces", "the query is not in the log");
            assert!(record.remote.starts_with("127.0.0.1:"), "{record:?}");
            assert_eq!((record.who, record.key, record.outcome, record.reason), expected);
        }
        supervisor.stop(Duration::from_secs(1)).await;
    }
}
