//! The machine API with a real client over TLS on loopback: who gets in, and who does not.

mod disk_keys;
mod leaving;
mod metrics;
mod orders;
mod presence;
mod resets;
mod streams;

use crate::audit_log::AUDIT_LOG;
use crate::deliveries::Deliveries;
use crate::leaving::{ControlPlane, Leaving, Resets};
use crate::model::{Books, Inboxes, Model};
use crate::power::Power;
use crate::servers;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use machined_access::{
    Access, AccessTable, AuditRecord, IdentityKey, LOGIN_NAMESPACE, Leaf, LeafKey, LoginStatement, MachineEntry,
    MachineRole, Person, RoleEntry, SignedLogin, ssh_fingerprint, tls,
};
use machined_api::machine_client::MachineClient;
use machined_api::maintenance_client::MaintenanceClient;
use machined_api::{
    EventsRequest, IdentifyRequest, IntroduceRequest, LogsRequest, RestartServiceRequest, StatusRequest, VersionRequest,
};
use machined_controllers::block::{Encryption, STATE, ShareBookController, Volume};
use machined_controllers::files::{FileError, FilesHost, Lasting};
use machined_controllers::identity::MachineKey;
use machined_controllers::introduction::{Introduced, Introduction};
use machined_controllers::ledger::{DesiredMachine, LedgerRead, RawDesired};
use machined_controllers::network::LinkStatus;
use machined_controllers::reset::ResetOrder;
use machined_controllers::services::{RestartRequests, ServiceState, ServiceStatus};
use machined_controllers::trust::{PresenceController, TrustController};
use machined_controllers::upgrade::{AloneOr, ImageNote, UpgradeStatus};
use machined_host::LinuxTpm;
use machined_ids::{ClusterId, Fingerprint, Generation, Seq, StepId};
use machined_reconcile::{Restart, Supervisor, Trigger};
use machined_runtime::{Inbox, Ports, Store, Writer};
use rustls::pki_types::ServerName;
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// A machine API on a free port, with the writers of what it shows.
struct Machine {
    supervisor: Supervisor,
    address: std::net::SocketAddr,
    identity: Fingerprint,
    model: Model,
    introduced: Writer<Introduced>,
    desired: Writer<DesiredMachine>,
    ledger: Writer<LedgerRead>,
    links: Writer<LinkStatus>,
    services: Writer<ServiceStatus>,
    volumes: Writer<Volume>,
    encryption: Writer<Encryption>,
    upgrade: Writer<UpgradeStatus>,
    resets: ResetsAsked,
    folder: tempfile::TempDir,
}

/// Resets that were written down.
#[derive(Clone, Default)]
struct ResetsAsked(Arc<std::sync::Mutex<Vec<ResetOrder>>>);

impl ResetsAsked {
    fn taking(&self) -> Resets {
        let asked = self.clone();
        Arc::new(move |order| {
            asked.0.lock().expect("because no holder panics").push(order);
            Box::pin(async { Ok(()) })
        })
    }

    fn all(&self) -> Vec<ResetOrder> {
        self.0.lock().expect("because no holder panics").clone()
    }
}

/// Files in memory.
#[derive(Default)]
struct MemoryFiles(std::sync::Mutex<std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>>);

impl FilesHost for MemoryFiles {
    async fn read(&self, path: &std::path::Path, _limit: usize) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.0.lock().expect("because no holder panics").get(path).cloned())
    }
    async fn replace(&self, path: &std::path::Path, bytes: &[u8], _: Lasting) -> Result<(), FileError> {
        self.0.lock().expect("because no holder panics").insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }
    async fn set(&self, _: &std::path::Path, _: &str) -> Result<bool, FileError> {
        Ok(false)
    }
}

fn cluster() -> ClusterId {
    CLUSTER.parse().expect("because it is an id")
}

async fn machine() -> Machine {
    let (store, supervisor) = (Store::new(), Supervisor::new());
    let mut ports = Ports::new(&store, "trust");
    let tpm = Arc::new(LinuxTpm::at(Path::new("/dev/no-tpm")));
    let (controller, orders) =
        TrustController::new(&mut ports, Arc::new(MemoryFiles::default()), tpm, Box::new(Timestamp::now));
    machined_runtime::start(&supervisor, &ports, controller);
    let mut ports = Ports::new(&store, "presence");
    let (controller, presence) = PresenceController::new(&mut ports, Arc::new(MemoryFiles::default()));
    machined_runtime::start(&supervisor, &ports, controller);
    let mut ports = Ports::new(&store, "disk shares");
    let (controller, shares) =
        ShareBookController::new(&mut ports, Arc::new(MemoryFiles::default()), Box::new(Timestamp::now));
    machined_runtime::start(&supervisor, &ports, controller);
    let folder = tempfile::tempdir().expect("because there is a temporary folder");
    let books = Books { deliveries: Deliveries::at(folder.path()), ..Books::default() };
    let inboxes = Inboxes {
        introduce: Inbox::new(Trigger::new()),
        apply: Inbox::new(Trigger::new()),
        orders,
        presence,
        restarts: RestartRequests::default(),
        upgrades: Inbox::new(Trigger::new()),
        volumes: Inbox::new(Trigger::new()),
        shares,
    };
    let power = Power::new();
    let nobody = ControlPlane::at(&folder.path().join("permits.sock"));
    let resets = ResetsAsked::default();
    let permits = AloneOr::new(store.reader(), nobody);
    let leaving = Leaving::new(permits, power.clone(), books.events.clone(), resets.taking(), store.reader());
    let model = Model::new(&store, inboxes, (power, leaving), books, Default::default());
    let key = MachineKey::new(IdentityKey::generate().expect("because the system has randomness"));
    let identity = key.fingerprint.clone();
    let keys: Writer<MachineKey> = store.writer().expect("because nobody else writes it");
    keys.put(MachineKey::ID, key);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("because loopback has free ports");
    let address = listener.local_addr().expect("because it is bound");
    let (served, mut listener) = (model.clone(), Some(listener));
    supervisor.spawn("machine API", Restart::Never, move |stop| {
        let listener = listener.take().expect("because it is started once");
        servers::machine_api(served.clone(), listener, stop)
    });
    Machine {
        supervisor,
        address,
        identity,
        model,
        introduced: store.writer().expect("because nobody else writes it"),
        desired: store.writer().expect("because nobody else writes it"),
        ledger: store.writer().expect("because nobody else writes it"),
        links: store.writer().expect("because nobody else writes it"),
        services: store.writer().expect("because nobody else writes it"),
        volumes: store.writer().expect("because nobody else writes it"),
        encryption: store.writer().expect("because nobody else writes it"),
        upgrade: store.writer().expect("because nobody else writes it"),
        resets,
        folder,
    }
}

/// A person's SSH key and client key.
struct Ada {
    ssh: PrivateKey,
    client: LeafKey,
}

impl Ada {
    fn new(seed: u8) -> Self {
        let ssh = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
        Ada { ssh: ssh.into(), client: LeafKey::generate().expect("because the system has randomness") }
    }

    /// A login as `cairnctl login` makes it, for a client key.
    fn login(&self, client_key: Fingerprint) -> String {
        self.login_for(client_key, SignedDuration::from_hours(1))
    }

    fn login_for(&self, client_key: Fingerprint, life: SignedDuration) -> String {
        let issued = Timestamp::now();
        let expires = issued + life;
        let statement = LoginStatement { cluster: cluster(), client_key, issued, expires };
        let text = statement.to_string();
        let signature = self.ssh.sign(LOGIN_NAMESPACE, HashAlg::Sha512, text.as_bytes());
        let signature =
            signature.and_then(|signature| signature.to_pem(LineEnding::LF)).expect("because it is ed25519");
        SignedLogin::new(statement, &signature).expect("because the signature is armoured").to_token()
    }

    fn own_login(&self) -> String {
        self.login(self.client.fingerprint())
    }

    fn leaf(&self) -> Leaf {
        self.client.self_signed(Timestamp::now()).expect("because P-256 keys sign")
    }
}

fn with_login<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("Bearer {token}").parse().expect("because tokens are ASCII");
    request.metadata_mut().insert("authorization", header);
    request
}

fn entry(name: &str) -> (machined_ids::MachineName, MachineEntry) {
    let entry = MachineEntry { identity: Fingerprint::from_sha256(&[9; 32]), role: MachineRole::ControlPlane };
    (name.parse().expect("because it is a name"), entry)
}

impl Machine {
    async fn channel(&self, own: Option<Leaf>) -> Result<Channel, tonic::transport::Error> {
        self.channel_expecting(self.identity.clone(), own).await
    }

    async fn channel_expecting(
        &self,
        identity: Fingerprint,
        own: Option<Leaf>,
    ) -> Result<Channel, tonic::transport::Error> {
        let config = tls::pinned_client_config(BTreeSet::from([identity]), own, &["h2"]);
        let config = Arc::new(config.expect("because the keys are good"));
        let address = self.address;
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let config = Arc::clone(&config);
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from(tls::MACHINE_NAME).expect("because the constant is a DNS name");
                TlsConnector::from(config).connect(name, stream).await.map(TokioIo::new)
            }
        });
        Endpoint::from_static("http://machine.cairn.internal").connect_with_connector(connector).await
    }

    async fn people(&self, own: Leaf) -> MachineClient<Channel> {
        MachineClient::new(self.channel(Some(own)).await.expect("because the API listens"))
    }

    /// Makes `ada` known with an access, in a cluster that names no machines.
    fn accept(&self, ada: &Ada, access: Access) {
        self.accept_among(ada, access, &[]);
    }

    /// Makes `ada` known with an access, in a cluster of these machines.
    fn accept_among(&self, ada: &Ada, access: Access, machines: &[&str]) {
        self.accept_table(ada, access, machines.iter().map(|name| entry(name)).collect());
    }

    fn accept_table(&self, ada: &Ada, access: Access, machines: BTreeMap<machined_ids::MachineName, MachineEntry>) {
        let name: machined_ids::PrincipalName = "ada".parse().expect("because it is a name");
        let role: machined_ids::PrincipalName = "team".parse().expect("because it is a name");
        let key = ssh_fingerprint(ada.ssh.public_key().key_data());
        let person = Person { keys: BTreeSet::from([key]), roles: BTreeSet::from([role.clone()]) };
        let step = StepId::from_bytes([7; 32]);
        let table = AccessTable {
            cluster: cluster(),
            seq: Seq(1),
            step,
            people: [(name.clone(), person)].into(),
            roles: [(role, RoleEntry { access })].into(),
            machines,
            images: Default::default(),
        };
        let network = "network {\n pods \"10.244.0.0/16\"\n services \"10.96.0.0/12\"\n domain \"cluster.local\"\n }";
        let raw = RawDesired {
            generation: Generation(1),
            step,
            commit: "c".repeat(40).parse().expect("because it is an id"),
            seq: Seq(1),
            signer: name,
            machine: "cp1".parse().expect("because it is a name"),
            cluster_kdl: format!(
                "cluster {{\n id \"{CLUSTER}\"\n name \"demo\"\n level 1\n bootstrap \"cp1\"\n endpoint \"10.0.2.15\"\n {network}\n}}"
            ),
            machine_kdl: format!("machine \"cp1\" {{\n identity \"{}\"\n role \"worker\"\n}}", self.identity),
            access: table,
        };
        self.desired.put(DesiredMachine::ID, DesiredMachine::read(raw).expect("because the documents are good"));
    }

    /// Lets the trust record be read.
    fn mount_state(&self) {
        self.volumes.put(STATE, Volume { device: Default::default(), formatted: false });
    }

    /// What the audit log says, oldest first.
    fn audit(&self) -> Vec<AuditRecord> {
        let past = self.model.logs.tail(AUDIT_LOG).expect("because it was opened").past;
        past.iter().map(|line| serde_json::from_slice(&line.bytes).expect("because each line is a record")).collect()
    }

    async fn end(self) {
        self.supervisor.stop(Duration::from_secs(1)).await;
    }
}

/// A machine whose upgrades are in this phase.
fn phase(machine: &Machine, phase: &'static str) {
    let running = ImageNote::default();
    let status =
        UpgradeStatus { phase, message: String::new(), target: None, running, slot: None, other: None, last: None };
    machine.upgrade.put(UpgradeStatus::ID, status);
}

#[tokio::test]
async fn a_person_with_a_login_sees_the_machine() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept(&ada, Access::Reader);
    let mut client = machine.people(ada.leaf()).await;
    let status = client.status(with_login(StatusRequest {}, &ada.own_login())).await.expect("because she may");
    let status = status.into_inner();
    assert_eq!((status.name.as_str(), status.phase.as_str()), ("cp1", "running"));
    assert_eq!(status.identity, machine.identity.to_string());
    machine.end().await;
}

#[tokio::test]
async fn without_a_login_and_before_a_step_nobody_is_known() {
    let (machine, ada) = (machine().await, Ada::new(1));
    let mut client = machine.people(ada.leaf()).await;
    let early = client.version(with_login(VersionRequest {}, &ada.own_login())).await;
    assert_eq!(early.expect_err("because no step was accepted").code(), Code::Unavailable);
    machine.accept(&ada, Access::Admin);
    let silent = client.version(Request::new(VersionRequest {})).await;
    assert_eq!(silent.expect_err("because she did not log in").code(), Code::Unauthenticated);
    machine.end().await;
}

#[tokio::test]
async fn t70_a_login_relayed_with_another_client_key_is_worth_nothing() {
    let (machine, ada, eve) = (machine().await, Ada::new(1), Ada::new(2));
    machine.accept(&ada, Access::Admin);
    let mut thief = machine.people(eve.leaf()).await;
    let relayed = thief.status(with_login(StatusRequest {}, &ada.own_login())).await;
    assert_eq!(relayed.expect_err("because the login names Ada's client key").code(), Code::Unauthenticated);
    let own = thief.status(with_login(StatusRequest {}, &eve.own_login())).await;
    assert_eq!(own.expect_err("because no principal has Eve's SSH key").code(), Code::Unauthenticated);
    machine.end().await;
}

#[tokio::test]
async fn t71_a_reader_changes_nothing_and_removal_counts_on_the_next_call_of_an_open_connection() {
    let (machine, ada, bob) = (machine().await, Ada::new(1), Ada::new(3));
    machine.accept(&ada, Access::Reader);
    let status = ServiceStatus {
        state: ServiceState::Running,
        healthy: true,
        pid: Some(1),
        restarts: 0,
        message: String::new(),
    };
    machine.services.put("gitsync", status);
    let mut client = machine.people(ada.leaf()).await;
    let restart = || with_login(RestartServiceRequest { name: "gitsync".to_owned() }, &ada.own_login());
    let refused = client.restart_service(restart()).await;
    assert_eq!(refused.expect_err("because readers change nothing").code(), Code::PermissionDenied);
    machine.accept(&ada, Access::Operator);
    client.restart_service(restart()).await.expect("because operators may, on the same connection");
    machine.accept(&bob, Access::Operator);
    let removed = client.restart_service(restart()).await;
    assert_eq!(removed.expect_err("because Ada is gone").code(), Code::Unauthenticated);
    machine.end().await;
}

#[tokio::test]
async fn logs_and_events_are_followed() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept(&ada, Access::Reader);
    machine.model.logs.add("gitsync", Timestamp::now(), b"first".to_vec());
    let mut client = machine.people(ada.leaf()).await;
    let request = LogsRequest { service: "gitsync".to_owned(), follow: true, tail: 0 };
    let lines = client.logs(with_login(request, &ada.own_login())).await.expect("because she may");
    let mut lines = lines.into_inner();
    let first = lines.message().await.expect("because the stream lives").expect("because one line is kept");
    machine.model.logs.add("gitsync", Timestamp::now(), b"second".to_vec());
    let second = lines.message().await.expect("because the stream lives").expect("because one line came");
    assert_eq!((first.line.as_slice(), second.line.as_slice()), (&b"first"[..], &b"second"[..]));
    let request = EventsRequest { tail: 0, follow: true };
    let events = client.events(with_login(request, &ada.own_login())).await.expect("because she may");
    machine.model.events.add("ServiceStarted", "service/gitsync", "process 7");
    let event = events.into_inner().message().await.expect("because the stream lives").expect("because one came");
    assert_eq!(event.subject, "service/gitsync");
    machine.end().await;
}

#[tokio::test]
async fn t87_maintenance_is_gone_once_the_machine_belongs_to_a_cluster() {
    let machine = machine().await;
    machine.introduced.put(Introduced::ID, Introduced::Not);
    let mut client = MaintenanceClient::new(machine.channel(None).await.expect("because the API listens"));
    let identified = client.identify(IdentifyRequest {}).await.expect("because it is in maintenance");
    assert_eq!(identified.into_inner().identity, machine.identity.to_string());
    let hash = "ab".repeat(32);
    let json = format!(
        r#"{{"cluster":"{CLUSTER}","ref":"refs/heads/main","commit":"{}","commitSha256":"{hash}","tree":"{hash}","policy":"{hash}"}}"#,
        "c".repeat(40)
    );
    let introduction = Introduction::parse(json.as_bytes(), vec!["http://git.example/a".to_owned()]);
    machine.introduced.put(Introduced::ID, Introduced::As(introduction.expect("because it is good")));
    let request = IntroduceRequest { introduction: json.into_bytes(), repositories: vec!["http://evil".to_owned()] };
    let second = client.introduce(request).await;
    assert_eq!(second.expect_err("because there is one already").code(), Code::FailedPrecondition);
    assert!(client.identify(IdentifyRequest {}).await.is_err());
    machine.end().await;
}

#[tokio::test]
async fn a_service_is_told_its_place_only_when_all_of_it_is_known() {
    use crate::api::local_service::{Caller, LocalService, LocalStream};
    use machined_api::ContextRequest;
    use machined_api::local_client::LocalClient;
    use machined_api::local_server::LocalServer;

    let (machine, ada) = (machine().await, Ada::new(1));
    let (ours, theirs) = tokio::net::UnixStream::pair().expect("because there are sockets");
    let stream = LocalStream::of(theirs, Caller::Service("gitsync".to_owned()));
    let incoming =
        tokio_stream::StreamExt::chain(tokio_stream::iter([Ok::<_, std::io::Error>(stream)]), tokio_stream::pending());
    let server = LocalServer::new(LocalService::new(machine.model.clone()));
    machine.supervisor.spawn("local API", Restart::Never, {
        let mut serving = Some(tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming));
        move |_| serving.take().expect("because it is started once")
    });
    let mut ours = Some(TokioIo::new(ours));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let ours = ours.take().ok_or(std::io::ErrorKind::AddrInUse);
        async move { ours.map_err(std::io::Error::from) }
    });
    let channel = Endpoint::from_static("http://machined").connect_with_connector(connector).await;
    let mut client = LocalClient::new(channel.expect("because the other end is served"));
    let contexts = client.context(ContextRequest {}).await.expect("because gitsync may ask");
    let mut contexts = contexts.into_inner();
    tokio::select! {
        biased;
        early = contexts.message() => panic!("told too early: {early:?}"),
        () = tokio::task::yield_now() => {}
    }
    machine.introduced.put(Introduced::ID, Introduced::Not);
    machine.links.put("eth0", link("10.0.2.15/24"));
    machine.accept(&ada, Access::Reader);
    machine.ledger.put(LedgerRead::ID, LedgerRead);
    tokio::select! {
        biased;
        early = contexts.message() => panic!("told before it is known what people ordered: {early:?}"),
        () = tokio::task::yield_now() => {}
    }
    machine.mount_state();
    let context = contexts.message().await.expect("because the stream lives").expect("because all is known");
    assert_eq!((context.machine.as_str(), context.generation), ("cp1", 1));
    assert_eq!(context.addresses, ["10.0.2.15/24"]);
    machine.end().await;
}

fn link(address: &str) -> LinkStatus {
    LinkStatus {
        index: 2,
        hardware: vec![2, 0, 0, 0, 0, 1],
        physical: true,
        loopback: false,
        up: true,
        carrier: true,
        addresses: vec![address.parse().expect("because it is an address")],
        gateways: Vec::new(),
    }
}

#[tokio::test]
async fn a_client_that_expects_another_machine_does_not_connect() {
    let machine = machine().await;
    let other = IdentityKey::generate().expect("because the system has randomness").fingerprint();
    assert!(machine.channel_expecting(other, None).await.is_err());
    assert!(machine.channel(None).await.is_ok());
    machine.end().await;
}
