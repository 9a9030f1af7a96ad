//! The way to other machines' machineds, for the disk key: one connection for each call, pinned to the identities that are expected.
//!
//! Every call ends within [`CALL_LIMIT`], so that a peer that hangs holds up no other.

use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use machined_access::{LeafKey, tls};
use machined_api::disk_keys_client::DiskKeysClient;
use machined_api::{KeepRequest, MACHINE_API_PORT, ReleaseRequest};
use machined_controllers::block::{PeerError, PeerHost, Reached, ShareToKeep};
use machined_controllers::identity::MachineKey;
use machined_ids::Fingerprint;
use machined_luks::{Secret, ShareId};
use machined_reconcile::story;
use rustls::pki_types::ServerName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use zeroize::Zeroizing;

/// Longest time of one call, its connection included: a machine that writes a file and answers.
const CALL_LIMIT: Duration = Duration::from_secs(8);
/// Longest time to open a connection, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// Reaches peers over the network.
#[derive(Debug, Default)]
pub(crate) struct TlsPeers;

/// An open connection, and who is at its other end.
struct Line {
    client: DiskKeysClient<Channel>,
    reached: Reached,
}

fn unreachable(error: impl std::error::Error) -> PeerError {
    PeerError::Unreachable(story(&error))
}

/// What a peer answered that does not do it.
fn refused(status: &Status) -> PeerError {
    match status.code() {
        Code::Unimplemented => PeerError::Refused("its release keeps no disk keys; upgrade it".to_owned()),
        _ => PeerError::Refused(status.message().to_owned()),
    }
}

/// Address and port: machined's own, unless the address names one.
fn place(address: &str) -> (String, Option<u16>) {
    match address.parse::<SocketAddr>() {
        Ok(socket) => (socket.ip().to_string(), Some(socket.port())),
        Err(_) => (address.to_owned(), None),
    }
}

async fn open(own: &MachineKey, address: &str, expected: BTreeSet<Fingerprint>) -> Result<Line, PeerError> {
    let key = LeafKey::generate().map_err(unreachable)?;
    let names = vec![tls::MACHINE_NAME.to_owned()];
    let chain = own.issue_leaf(key.spki(), "machined", names, Timestamp::now()).await.map_err(unreachable)?;
    // The verifier says who it was only to itself.
    let found: Arc<Mutex<Option<Fingerprint>>> = Arc::default();
    let seen = Arc::clone(&found);
    let expect = move |identity: &Fingerprint| {
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity.clone());
        expected.contains(identity)
    };
    let config = tls::client_config(expect, Some(key.with_chain(chain)), &["h2"]).map_err(unreachable)?;
    let (host, port) = place(address);
    let stream = TcpStream::connect((host.as_str(), port.unwrap_or(MACHINE_API_PORT))).await.map_err(unreachable)?;
    let remote = stream.peer_addr().map_err(unreachable)?;
    let numeric = if port.is_some() { remote.to_string() } else { remote.ip().to_string() };
    let name = ServerName::try_from(tls::MACHINE_NAME).expect("because the name is a DNS name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(unreachable)?;
    let identity = found.lock().unwrap_or_else(PoisonError::into_inner).take();
    let identity = identity.ok_or_else(|| PeerError::Unreachable("it showed no identity".to_owned()))?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("the connection is used up")) }
    });
    // The authority is not looked at once the stream is there, but HTTP/2 wants one.
    let channel = Endpoint::from_static("http://machine.cairn.internal").connect_with_connector(connector).await;
    let client = DiskKeysClient::new(channel.map_err(unreachable)?);
    Ok(Line { client, reached: Reached { identity, address: numeric } })
}

async fn connect(own: &MachineKey, address: &str, expected: BTreeSet<Fingerprint>) -> Result<Line, PeerError> {
    let late = |_| PeerError::Unreachable(format!("nothing within {} s", CONNECT_LIMIT.as_secs()));
    tokio::time::timeout(CONNECT_LIMIT, open(own, address, expected)).await.map_err(late)?
}

async fn within<T>(call: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
    let late = |_| PeerError::Unreachable(format!("no answer within {} s", CALL_LIMIT.as_secs()));
    tokio::time::timeout(CALL_LIMIT, call).await.map_err(late)?
}

impl PeerHost for TlsPeers {
    async fn keep(
        &self,
        own: &MachineKey,
        address: &str,
        among: &BTreeSet<Fingerprint>,
        share: ShareToKeep,
    ) -> Result<Reached, PeerError> {
        within(async {
            let mut line = connect(own, address, among.clone()).await?;
            let request = KeepRequest {
                id: share.id.bytes().to_vec(),
                share: share.share.to_vec(),
                held: share.held.iter().map(|id| id.bytes().to_vec()).collect(),
            };
            line.client.keep(request).await.map_err(|status| refused(&status))?;
            Ok(line.reached)
        })
        .await
    }

    async fn release(
        &self,
        own: &MachineKey,
        address: &str,
        shares: &BTreeMap<Fingerprint, ShareId>,
    ) -> Result<(Fingerprint, Secret), PeerError> {
        within(async {
            let mut line = connect(own, address, shares.keys().cloned().collect()).await?;
            let identity = line.reached.identity;
            let id = shares.get(&identity).ok_or_else(|| PeerError::Unreachable("another machine".to_owned()))?;
            let request = ReleaseRequest { id: id.bytes().to_vec() };
            let reply = line.client.release(request).await.map_err(|status| refused(&status))?.into_inner();
            let share = Zeroizing::new(reply.share);
            let share = share.as_slice().try_into().map(Zeroizing::new);
            Ok((identity, share.map_err(|_| PeerError::Refused("its share is not 32 bytes".to_owned()))?))
        })
        .await
    }
}
