//! The listener over real TLS: who is let in, and who is cut off.

use super::*;
use controlplane_apiserver::{MASTERS, NodeConnector, NodeError, Options, empty_body, full_body};
use controlplane_store::BoxFuture;
use http::StatusCode;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use jiff::SignedDuration;
use machined_access::{
    Access, AccessTable, AuditOutcome, AuditRecord, IdentityKey, LOGIN_NAMESPACE, LeafKey, LoginStatement, Person,
    RoleEntry, SignedLogin, ssh_fingerprint,
};
use machined_ids::{ClusterId, PrincipalName, Seq, StepId};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// Longest wait for something that a test expects; reached only when it fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("because it is a name")
}

fn ssh(seed: u8) -> PrivateKey {
    Ed25519Keypair::from_seed(&[seed; 32]).into()
}

fn table_with(seq: u64, people: &[(&str, &PrivateKey)], access: Access) -> AccessTable {
    let person = |(who, ssh): &(&str, &PrivateKey)| {
        let key = ssh_fingerprint(ssh.public_key().key_data());
        (name(who), Person { keys: [key].into(), roles: [name("team")].into() })
    };
    AccessTable {
        cluster: CLUSTER,
        seq: Seq(seq),
        step: StepId::from_bytes([1; 32]),
        people: people.iter().map(person).collect(),
        roles: [(name("team"), RoleEntry { access })].into(),
        machines: Default::default(),
        images: Default::default(),
    }
}

fn table(seq: u64, people: &[(&str, &PrivateKey)]) -> AccessTable {
    table_with(seq, people, Access::Admin)
}

fn login_for(ssh: &PrivateKey, client: &LeafKey, life: SignedDuration) -> String {
    let issued = Timestamp::now();
    let expires = issued + life;
    let statement = LoginStatement { cluster: CLUSTER, client_key: client.fingerprint(), issued, expires };
    let signature = ssh.sign(LOGIN_NAMESPACE, HashAlg::Sha512, statement.to_string().as_bytes());
    let signature = signature.and_then(|s| s.to_pem(LineEnding::LF)).expect("because ed25519 keys sign");
    SignedLogin::new(statement, &signature).expect("because it is armoured").to_token()
}

fn login(ssh: &PrivateKey, client: &LeafKey) -> String {
    login_for(ssh, client, SignedDuration::from_hours(1))
}

/// An agent that speaks whatever the WebSocket is told back, and writes a log that has no end.
struct Agent;

impl NodeConnector for Agent {
    fn call<'a>(
        &'a self,
        _node: &'a str,
        _address: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, NodeError>> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(4096);
            let serve = service_fn(|request| async { Ok::<_, Infallible>(agent(request)) });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(theirs), serve).with_upgrades());
            let (mut sender, connection) = handshake(TokioIo::new(ours)).await.expect("because it is HTTP");
            tokio::spawn(connection.with_upgrades());
            let answer = sender.send_request(request).await.expect("because it answers");
            Ok(answer.map(|body| body.map_err(BoxError::from).boxed_unsync()))
        })
    }
}

fn agent(mut request: Request<Incoming>) -> Response<Body> {
    if !request.uri().path().starts_with("/exec") {
        let lines = futures_util::stream::once(async { Ok(hyper::body::Frame::data(Bytes::from("a line\n"))) });
        let lines = futures_util::StreamExt::chain(lines, futures_util::stream::pending());
        return Response::new(http_body_util::StreamBody::new(lines).boxed_unsync());
    }
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(&mut request).await.expect("because the other side switches too");
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::io::copy(&mut read, &mut write).await
    });
    let mut answer = Response::new(empty_body());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (header, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        answer.headers_mut().insert(header, value.parse().expect("because it is a header value"));
    }
    answer
}

/// A listener on a free port, for the people of a table.
struct Lab {
    supervisor: Supervisor,
    machine: IdentityKey,
    address: SocketAddr,
    writer: crate::table::TableWriter,
    records: mpsc::Receiver<AuditRecord>,
}

impl Lab {
    async fn new(first: AccessTable) -> Self {
        let supervisor = Supervisor::new();
        let machine = IdentityKey::generate().expect("because there is randomness");
        let key = LeafKey::generate().expect("because there is randomness");
        let chain = machine.issue_leaf(&key.spki(), "controlplane", &[tls::MACHINE_NAME.to_owned()], Timestamp::now());
        let keys = tls::ServerKeys::new(key.with_chain(chain.expect("because the key is good")));
        let tls = tls::server_config(keys.expect("because the key is good"), &["http/1.1"]);
        let options = Options { nodes: Some(Arc::new(Agent)), supervisor: supervisor.clone(), ..Options::default() };
        let api = ApiServer::new(Arc::new(controlplane_store::LocalStore::new()), options);
        api.bootstrap().await.expect("because the store is in memory");
        run_a_pod(&api).await;
        let (writer, table) = crate::table::table(first);
        let (audit, records) = crate::audit::for_tests();
        let tls = Arc::new(tls.expect("because the provider is complete"));
        let listener = Listener { api, tls, table, audit, supervisor: supervisor.clone() };
        let socket = Arc::new(TcpListener::bind("127.0.0.1:0").await.expect("because loopback has free ports"));
        let address = socket.local_addr().expect("because it is bound");
        supervisor.spawn("api listener", Restart::Never, move |stop| listener.clone().run(Arc::clone(&socket), stop));
        Lab { supervisor, machine, address, writer, records }
    }

    async fn connect(&self, client: &LeafKey) -> SendRequest<Empty<Bytes>> {
        let own = client.self_signed(Timestamp::now()).expect("because P-256 keys sign");
        let config = tls::pinned_client_config([self.machine.fingerprint()].into(), Some(own), &["http/1.1"]);
        let stream = TcpStream::connect(self.address).await.expect("because it listens");
        let server = ServerName::try_from(tls::MACHINE_NAME).expect("because it is a DNS name");
        let config = Arc::new(config.expect("because the keys are good"));
        let stream = TlsConnector::from(config).connect(server, stream).await.expect("because it is pinned");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("because it is HTTP");
        let mut connection = Some(connection.with_upgrades());
        self.supervisor
            .spawn("client", Restart::Never, move |_| connection.take().expect("because it is started once"));
        sender
    }

    /// Opens a stream as a client of its own.
    async fn open(&self, path: &str, token: &str, client: &LeafKey, upgrade: bool) -> Response<Incoming> {
        let mut sender = self.connect(client).await;
        let mut request =
            Request::get(path).header("host", "localhost").header("authorization", format!("Bearer {token}"));
        if upgrade {
            request = request.header("connection", "upgrade").header("upgrade", "websocket");
        }
        let request = request.body(Empty::new()).expect("because the parts are good");
        sender.send_request(request).await.expect("because it answers")
    }
}

async fn run_a_pod(api: &ApiServer) {
    let post = async |path: &str, object: Value| {
        let mut request = Request::post(path).header("content-type", "application/json");
        let caller = Caller::authenticated("test", [MASTERS.to_owned()], "");
        request.extensions_mut().expect("because the parts are good").insert(caller);
        let request = request.body(full_body(object.to_string())).expect("because the parts are good");
        let status = api.handle(request).await.status();
        assert_eq!(status, 201, "{path}");
    };
    let addresses = json!([{"type": "InternalIP", "address": "10.0.2.15"}]);
    post("/api/v1/nodes", json!({"metadata": {"name": "n1"}, "status": {"addresses": addresses}})).await;
    let spec = json!({"nodeName": "n1", "containers": [{"name": "main", "image": "example.org/web:1"}]});
    post("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "p"}, "spec": spec})).await;
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
    let (ada, bob) = (ssh(1), ssh(2));
    let mut lab = Lab::new(table(1, &[("ada", &ada)])).await;
    let client = LeafKey::generate().expect("because there is randomness");
    let token = login(&ada, &client);
    let mut sender = lab.connect(&client).await;
    assert_eq!(get(&mut sender, &token).await, 200);
    lab.writer.replace(table(2, &[("bob", &bob)]));
    assert_eq!(get(&mut sender, &token).await, 401, "ada is gone, and her connection is the same");
    // A relayed login is worth nothing on another client's connection (T70), and a re-introduction counts from zero again.
    lab.writer.replace(table(0, &[("ada", &ada)]));
    assert_eq!(get(&mut sender, &token).await, 200);
    let thief = LeafKey::generate().expect("because there is randomness");
    let mut stolen = lab.connect(&thief).await;
    assert_eq!(get(&mut stolen, &token).await, 401);

    let own = ssh_fingerprint(ada.public_key().key_data()).to_string();
    let allowed = ("ada".to_owned(), own, AuditOutcome::Allowed, "200".to_owned());
    let refused = (String::new(), String::new(), AuditOutcome::Refused, "401".to_owned());
    for expected in [allowed.clone(), refused.clone(), allowed, refused] {
        let record = lab.records.recv().await.expect("because every call leaves one");
        assert_eq!(record.method, "GET /api/v1/namespaces", "the query is not in the log");
        assert!(record.remote.starts_with("127.0.0.1:"), "{record:?}");
        assert_eq!((record.who, record.key, record.outcome, record.reason), expected);
    }
    lab.supervisor.stop(Duration::from_secs(1)).await;
}

const WATCH: &str = "/api/v1/namespaces/default/pods?watch=true";
const LOG: &str = "/api/v1/namespaces/default/pods/p/log?follow=true";
const EXEC: &str = "/api/v1/namespaces/default/pods/p/exec?command=sh&stdin=true&stdout=true";

/// A watch, a log and a command of one person, each seen to work.
struct Streams {
    bodies: Vec<Incoming>,
    command: TokioIo<hyper::upgrade::Upgraded>,
}

impl Streams {
    async fn open(lab: &Lab, token: &str, client: &LeafKey) -> Self {
        let mut bodies = Vec::new();
        for path in [WATCH, LOG] {
            let answer = lab.open(path, token, client, false).await;
            assert_eq!(answer.status(), 200, "{path}");
            let mut body = answer.into_body();
            body.frame().await.expect("because the stream is open").expect("because it is");
            bodies.push(body);
        }
        let answer = lab.open(EXEC, token, client, true).await;
        assert_eq!(answer.status(), 101);
        let command = TokioIo::new(hyper::upgrade::on(answer).await.expect("because both sides switched"));
        let mut streams = Streams { bodies, command };
        streams.speak().await;
        streams
    }

    async fn speak(&mut self) {
        let mut heard = [0; 5];
        self.command.write_all(b"hello").await.expect("because the tunnel is open");
        self.command.read_exact(&mut heard).await.expect("because the tunnel is open");
        assert_eq!(&heard, b"hello");
    }

    /// Waits until each is cut off; nothing more comes before.
    async fn cut_off(mut self) {
        for mut body in self.bodies {
            let end = tokio::time::timeout(PATIENCE, body.frame()).await.expect("because it is cut off");
            assert!(end.is_some_and(|end| end.is_err()), "a stream that is cut off does not end as if it were whole");
        }
        let mut rest = [0; 1];
        let end = tokio::time::timeout(PATIENCE, self.command.read(&mut rest)).await.expect("because it is cut off");
        assert!(matches!(end, Ok(0) | Err(_)), "the command still speaks");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t71_a_watch_a_log_and_a_command_end_when_accepted_takes_their_reader_away() {
    let (ada, bob) = (ssh(1), ssh(2));
    let client = LeafKey::generate().expect("because there is randomness");
    let lab = Lab::new(table(1, &[("ada", &ada)])).await;
    let mut streams = Streams::open(&lab, &login(&ada, &client), &client).await;
    // What leaves ada as she is leaves her streams open.
    lab.writer.replace(table(2, &[("ada", &ada), ("bob", &bob)]));
    streams.speak().await;
    lab.writer.replace(table(3, &[("bob", &bob)]));
    streams.cut_off().await;
    // Her key was replaced, or her role gives less: the same.
    for less in [table(5, &[("ada", &bob)]), table_with(5, &[("ada", &ada)], Access::Reader)] {
        lab.writer.replace(table(4, &[("ada", &ada)]));
        let streams = Streams::open(&lab, &login(&ada, &client), &client).await;
        lab.writer.replace(less);
        streams.cut_off().await;
    }
    lab.supervisor.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_the_login_that_they_were_begun_with() {
    let ada = ssh(1);
    let client = LeafKey::generate().expect("because there is randomness");
    let lab = Lab::new(table(1, &[("ada", &ada)])).await;
    let token = login_for(&ada, &client, SignedDuration::from_secs(3));
    Streams::open(&lab, &token, &client).await.cut_off().await;
    lab.supervisor.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_worker_reaches_the_control_plane_as_its_node() {
    use crate::leaf::LeafSource;
    use crate::remote::Remote;
    use controlplane_client::{Client, ClientError, Reason};
    use k8s_openapi::api::core::v1::Node;
    use machined_access::{MachineEntry, MachineRole};
    use machined_ids::MachineName;

    let mut lab = Lab::new(table(1, &[])).await;
    let identity = IdentityKey::generate().expect("because there is randomness");
    let machine = |text: &str| MachineName::parse(text).expect("because it is a label");
    let entry = |key: &IdentityKey, role| MachineEntry { identity: key.fingerprint(), role };
    let both = |role| {
        let cp1 = (machine("cp1"), entry(&lab.machine, role));
        let w1 = (machine("w1"), entry(&identity, MachineRole::Worker));
        AccessTable { machines: [cp1, w1].into(), ..table(2, &[]) }
    };
    let (as_worker, as_control_plane) = (both(MachineRole::Worker), both(MachineRole::ControlPlane));
    let key = Arc::new(LeafKey::generate().expect("because there is randomness"));
    let chain = identity.issue_leaf(&key.spki(), "controlplane", &[tls::MACHINE_NAME.to_owned()], Timestamp::now());
    let (_renewal, chain) = tokio::sync::watch::channel(chain.expect("because the key is good"));
    let leaf = LeafSource::new(key, chain);
    lab.writer.replace(as_control_plane.clone());
    let (own, workers_table) = crate::table::table(as_worker);
    // Nobody listens at the first endpoint.
    let endpoints = vec!["127.0.0.1:1".to_owned(), lab.address.to_string()];
    let remote =
        Remote::new(endpoints, workers_table, leaf, &lab.supervisor).await.expect("because they are addresses");
    let nodes = Client::new(remote).all::<Node>();
    let asked = nodes.get("w1").await.expect_err("because no server is of the control plane");
    assert!(matches!(asked, ClientError::Transport { .. }), "{asked}");

    own.replace(as_control_plane);
    let asked = nodes.get("w1").await.expect_err("because there is no Node");
    assert!(matches!(&asked, ClientError::Refused { status, .. } if status.reason == Reason::NotFound), "{asked}");
    let record = lab.records.recv().await.expect("because a call was made").to_json();
    assert!(record.contains("system:node:w1"), "{record}");
}
