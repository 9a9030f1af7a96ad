//! Enrolment with somebody between the person and the machine: what decides is the fingerprint that was read from the console.

use crate::lab::Lab;
use jiff::Timestamp;
use machined_access::{IdentityKey, Leaf, LeafKey, tls};
use machined_api::maintenance_server::{Maintenance, MaintenanceServer};
use machined_api::{IdentifyReply, IdentifyRequest, IntroduceReply, IntroduceRequest};
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

const REPOSITORY: &str = "http://git.example.org/demo.git";

fn identity() -> IdentityKey {
    IdentityKey::generate().expect("because the system has randomness")
}

/// A leaf's certificates by an identity, and the key that they are for.
fn leaf(identity: &IdentityKey) -> (Vec<CertificateDer<'static>>, LeafKey) {
    let key = LeafKey::generate().expect("because the system has randomness");
    let chain = identity.issue_leaf(&key.spki(), "machined", &[tls::MACHINE_NAME.to_owned()], Timestamp::now());
    (chain.expect("because the names are good"), key)
}

/// A server that shows certificates, whether or not it has their key.
fn acceptor(chain: Vec<CertificateDer<'static>>, key: &LeafKey) -> TlsAcceptor {
    let Leaf { key, .. } = key.with_chain(Vec::new());
    let signer = tls::provider().key_provider.load_private_key(key).expect("because it is a key");
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, signer));
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("because the provider has both versions")
        .with_no_client_auth();
    let mut config = config.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Somebody on the line. What was told to them after a handshake lies in `heard`, for each connection; nothing where there was no handshake.
struct Interceptor {
    address: SocketAddr,
    heard: mpsc::Receiver<Option<Vec<u8>>>,
}

impl Interceptor {
    async fn start(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("because loopback has free ports");
        let address = listener.local_addr().expect("because it is bound");
        let (tell, heard) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut said = None;
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut bytes = Vec::new();
                    // However the connection ends, what came until then was heard.
                    let _ended = stream.read_to_end(&mut bytes).await;
                    said = Some(bytes);
                }
                if tell.send(said).await.is_err() {
                    break;
                }
            }
        });
        Interceptor { address, heard }
    }
}

/// Runs `cairnctl enroll` for a machine whose console shows the identity of `console`.
fn enroll(lab: &Lab, address: SocketAddr, console: &IdentityKey) -> crate::lab::Said {
    let (address, fingerprint) = (address.to_string(), console.fingerprint().to_string());
    let words = [
        "enroll",
        "cp1",
        "--address",
        &address,
        "--fingerprint",
        &fingerprint,
        "--repository",
        REPOSITORY,
        "--no-push",
    ];
    lab.cairnctl(&lab.demo(), &words)
}

#[tokio::test(flavor = "multi_thread")]
async fn t89_an_interceptor_at_enrolment_is_told_nothing_and_enrols_nobody() {
    let (lab, machine, other) = (Lab::new(), identity(), identity());
    let before = lab.git(&lab.demo(), &["rev-parse", "HEAD"]);
    let (own_chain, own_key) = leaf(&other);
    let (real_chain, _) = leaf(&machine);
    let mixed = vec![own_chain[0].clone(), real_chain[1].clone()];
    for (what, acceptor) in [
        ("an identity of its own", acceptor(own_chain, &own_key)),
        ("the machine's certificates without their key", acceptor(real_chain, &own_key)),
        ("a leaf of its own under the machine's certificate", acceptor(mixed, &own_key)),
    ] {
        let mut interceptor = Interceptor::start(acceptor).await;
        let said = enroll(&lab, interceptor.address, &machine);
        assert_eq!(said.code, 1, "{what}: {said:?}");
        assert!(said.err.contains("fingerprint") && said.err.contains("console"), "{what}: {said:?}");
        let heard = interceptor.heard.recv().await.expect("because it listens");
        assert!(heard.is_none_or(|bytes| bytes.is_empty()), "{what}: something was told to it");
        assert_eq!(lab.git(&lab.demo(), &["rev-parse", "HEAD"]), before, "{what}: the repository names nobody");
        assert!(!lab.demo().join("machines/cp1.kdl").exists(), "{what}");
        let contexts = std::fs::read_to_string(lab.path(".config/cairn/contexts.json")).expect("because init wrote it");
        assert!(!contexts.contains("cp1"), "{what}: {contexts}");
    }
}

/// A machine in maintenance that keeps what it is told.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<Vec<IntroduceRequest>>>);

#[tonic::async_trait]
impl Maintenance for Waiting {
    async fn identify(&self, _request: Request<IdentifyRequest>) -> Result<Response<IdentifyReply>, Status> {
        Ok(Response::new(IdentifyReply::default()))
    }

    async fn introduce(&self, request: Request<IntroduceRequest>) -> Result<Response<IntroduceReply>, Status> {
        self.0.lock().expect("because nobody panics with it").push(request.into_inner());
        Ok(Response::new(IntroduceReply::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_on_the_console_is_introduced() {
    let (lab, machine, waiting) = (Lab::new(), identity(), Waiting::default());
    let (chain, key) = leaf(&machine);
    let acceptor = acceptor(chain, &key);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("because loopback has free ports");
    let address = listener.local_addr().expect("because it is bound");
    let (ready, streams) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut tls = acceptor.accept(stream).await.expect("because the fingerprint is this machine's");
            // tonic takes its own kinds of streams only.
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            ready.send(Ok::<_, std::io::Error>(ours)).await.expect("because the server lives");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tls, &mut theirs).await });
        }
    });
    let server = tonic::transport::Server::builder().add_service(MaintenanceServer::new(waiting.clone()));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(streams)));
    enroll(&lab, address, &machine).good();
    let told = waiting.0.lock().expect("because nobody panics with it");
    assert_eq!((told.len(), told[0].repositories.as_slice()), (1, &[REPOSITORY.to_owned()][..]));
    let document = std::fs::read_to_string(lab.demo().join("machines/cp1.kdl")).expect("because it was enrolled");
    assert!(document.contains(&machine.fingerprint().to_string()), "{document}");
}
