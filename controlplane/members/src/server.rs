//! Hears the other members: looks at who calls, hands the message to this member, answers.

use crate::keys::{HandOut, Keyring, Knower, hand_out, serving};
use crate::listener::{self, Caller};
use crate::records::{AnnounceError, Announcement, Birth, announce};
use crate::wire::members_server::{Members, MembersServer};
use crate::wire::{JoinReply, JoinRequest, KeysReply, KeysRequest, MESSAGE_LIMIT, Packet, VoteCall, status};
use crate::{SERVICE, Trust};
use controlplane_replica::{Replica, SnapshotInFlight, SnapshotMeta, Vote};
use machined_access::Peer;
use machined_access::tls::{self, ServerKeys};
use machined_ids::{ClusterLevel, Digest, Fingerprint};
use machined_reconcile::Stop;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Finished handshakes that wait to be taken; that happens at once.
const READY_STREAMS: usize = 8;

/// A connection that says nothing is asked whether it still lives.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How often the own leaf is looked at; it is renewed long before it ends.
const LEAF_PERIOD: Duration = Duration::from_secs(600);

/// Why members are not heard any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The own leaf cannot be shown.
    #[error("the certificate for other members cannot be used")]
    Tls(#[from] rustls::Error),
    /// gRPC ended.
    #[error("the store's peers cannot be served")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves other members on `socket` until told to stop.
///
/// # Errors
/// [`ServeError`]; started again, it goes on.
pub async fn serve(
    socket: Arc<TcpListener>,
    replica: Arc<Replica>,
    trust: Arc<dyn Trust>,
    ring: Arc<dyn Keyring>,
    mut stop: Stop,
) -> Result<(), ServeError> {
    let keys = ServerKeys::new(trust.leaf())?;
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(Arc::clone(&keys), &["h2"])?));
    let service = Service { replica, trust: Arc::clone(&trust), ring, gathering: Mutex::new(()) };
    let service =
        MembersServer::new(service).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT);
    let (streams, ready) = mpsc::channel(READY_STREAMS);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(ready), async move { stop.requested().await });
    tokio::select! {
        served = serving => Ok(served?),
        () = listener::accept(&socket, acceptor, streams) => Ok(()),
        renewed = renew(&*trust, &keys) => Ok(renewed?),
    }
}

/// Shows the newest leaf; connections that stand keep the old one.
async fn renew(trust: &dyn Trust, keys: &ServerKeys) -> Result<(), rustls::Error> {
    loop {
        tokio::time::sleep(LEAF_PERIOD).await;
        keys.set_machine(trust.leaf())?;
    }
}

struct Service {
    replica: Arc<Replica>,
    trust: Arc<dyn Trust>,
    ring: Arc<dyn Keyring>,
    /// One snapshot at a time is received.
    gathering: Mutex<()>,
}

impl Service {
    /// The control-plane machine that calls, by the roster of this moment: one that was taken out is not heard from then on.
    fn machine<T>(&self, request: &Request<T>) -> Result<(Fingerprint, Knower), Status> {
        let roster = self.trust.roster();
        let caller = request.extensions().get::<Caller>();
        let known = caller.and_then(|caller| match &caller.peer {
            Peer::Machine { identity, service } if service == SERVICE => {
                let (name, _) = roster.machines.iter().find(|(_, known)| *known == identity)?;
                Some((identity.clone(), Knower { machine: name.clone(), seq: roster.seq }))
            }
            Peer::Machine { .. } | Peer::Key(_) | Peer::Anonymous => None,
        });
        known.ok_or_else(|| {
            let address =
                caller.and_then(|caller| caller.address).map_or_else(String::new, |one: SocketAddr| one.to_string());
            tracing::warn!(address, "somebody who is no member of the control plane spoke to the store");
            Status::permission_denied("only control-plane machines of the accepted step are heard")
        })
    }
}

impl Service {
    /// A set of keys for a machine of the roster, who gets them being on record before.
    async fn reveal(&self, keys: &Digest, identity: &Fingerprint, knower: &Knower) -> Result<Vec<u8>, Status> {
        let lacking = || Status::unavailable("this machine does not have these keys itself yet");
        if !self.ring.held().contains(keys) {
            return Err(lacking());
        }
        hand_out(&*self.replica, keys, identity, knower).await.map_err(withheld)?;
        self.ring.reveal(keys).ok_or_else(lacking)
    }
}

fn unannounced(error: AnnounceError) -> Status {
    match error {
        AnnounceError::Store(error) => failed(error),
        AnnounceError::TooOld(error) => Status::failed_precondition(error.to_string()),
    }
}

fn withheld(error: HandOut) -> Status {
    match error {
        HandOut::Store(_) | HandOut::Unclear(_) => failed(error),
        HandOut::Withheld(_) => Status::permission_denied(error.to_string()),
    }
}

fn answer<T: Serialize>(value: &T) -> Result<Response<Packet>, Status> {
    Packet::of(value).map(Response::new).map_err(status)
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

fn open<T: for<'de> serde::Deserialize<'de>>(packet: Packet) -> Result<T, Status> {
    packet.open().map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl Members for Service {
    async fn append(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        self.machine(&request)?;
        let answered = self.replica.raft().append_entries(open(request.into_inner())?).await;
        answer(&answered.map_err(failed)?)
    }

    async fn vote(&self, request: Request<VoteCall>) -> Result<Response<Packet>, Status> {
        self.machine(&request)?;
        let VoteCall { pre, request } = request.into_inner();
        let request = open(request.ok_or_else(|| Status::invalid_argument("a vote without a request"))?)?;
        let raft = self.replica.raft();
        let answered = if pre { raft.pre_vote(request).await } else { raft.vote(request).await };
        answer(&answered.map_err(failed)?)
    }

    async fn snapshot(&self, request: Request<Streaming<Packet>>) -> Result<Response<Packet>, Status> {
        self.machine(&request)?;
        let busy = || Status::resource_exhausted("another snapshot is being received");
        let _alone = self.gathering.try_lock().map_err(|_| busy())?;
        let mut packets = request.into_inner();
        let head = packets.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot without its head"))?;
        let (vote, meta): (Vote, SnapshotMeta) = open(head)?;
        let replica = Arc::clone(&self.replica);
        let mut gathering = blocking(move || replica.gather()).await?;
        while let Some(packet) = packets.message().await? {
            let piece = packet.into_body().map_err(status)?;
            gathering = blocking(move || gathering.add(&piece).map(|()| gathering)).await?;
        }
        let snapshot = SnapshotInFlight { meta, snapshot: gathering.finish().map_err(status)? };
        answer(&self.replica.raft().install_full_snapshot(vote, snapshot).await.map_err(failed)?)
    }

    async fn transfer(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        self.machine(&request)?;
        let answered = self.replica.raft().handle_transfer_leader(open(request.into_inner())?).await;
        answer(&answered.map_err(failed)?)
    }

    async fn propose(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        self.machine(&request)?;
        answer(&self.replica.lead(open(request.into_inner())?).await.map_err(failed)?)
    }

    async fn read_index(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        self.machine(&request)?;
        answer(&self.replica.read_index().await.map_err(failed)?)
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let (identity, knower) = self.machine(&request)?;
        let JoinRequest { birth, address, speaks } = request.into_inner();
        let birth = birth.try_into().map_err(|_| Status::invalid_argument("a birth has 16 bytes"))?;
        address
            .parse::<SocketAddr>()
            .map_err(|_| Status::invalid_argument("an address has an IP address and a port"))?;
        let (machine, speaks) = (knower.machine.clone(), ClusterLevel(speaks));
        // It says itself that its release stays, once it is a member.
        let from = Announcement { birth: Birth(birth), machine, address, seq: knower.seq, speaks, settled: false };
        let id = announce(&*self.replica, &from).await.map_err(unannounced)?;
        let keys = serving(&self.replica, &*self.trust, &*self.ring).await.map_err(withheld)?;
        let welcome = self.reveal(&keys, &identity, &knower).await?;
        Ok(Response::new(JoinReply { id, welcome }))
    }

    async fn keys(&self, request: Request<KeysRequest>) -> Result<Response<KeysReply>, Status> {
        let (identity, knower) = self.machine(&request)?;
        let keys: [u8; 32] =
            request.into_inner().keys.try_into().map_err(|_| Status::invalid_argument("a digest has 32 bytes"))?;
        let secret = self.reveal(&Digest::from_bytes(keys), &identity, &knower).await?;
        Ok(Response::new(KeysReply { secret }))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(status)
}
