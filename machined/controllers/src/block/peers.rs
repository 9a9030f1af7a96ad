//! Peers: control-plane machines that keep shares of this machine's volume secrets, and give them back at its next start.
//!
//! What a peer says is not believed: a share counts when the key slot opens with what comes of it. The protocol is in decision 0020.

use super::EncryptionError;
use crate::identity::MachineKey;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use machined_ids::Fingerprint;
use machined_luks::{Header, PEERS_TOKEN, PeerShare, Secret, ShareId, VolumeKey, parse_peers_token};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

/// Why a peer did not do what it was asked. The texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nobody who is expected answers there.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// It answered that it does not.
    #[error("refused: {0}")]
    Refused(String),
}

/// A share on its way to a peer.
#[derive(Debug, Clone)]
pub struct ShareToKeep {
    /// Its name.
    pub id: ShareId,
    /// It.
    pub share: Secret,
    /// This machine's other shares that are still of use to it; the peer forgets the rest.
    pub held: Vec<ShareId>,
}

/// Who was found at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Its identity, proven by the handshake.
    pub identity: Fingerprint,
    /// The address as numbers; a name may be out of reach at the next start.
    pub address: String,
}

/// The way to peers: machined on other machines. Each call ends within seconds.
pub trait PeerHost: Send + Sync + 'static {
    /// Has whoever of `among` is at `address` keep a share, as the machine of `own`.
    fn keep(
        &self,
        own: &MachineKey,
        address: &str,
        among: &BTreeSet<Fingerprint>,
        share: ShareToKeep,
    ) -> impl Future<Output = Result<Reached, PeerError>> + Send;
    /// Asks whoever of `shares` is at `address` for its share; gives who that was, too.
    fn release(
        &self,
        own: &MachineKey,
        address: &str,
        shares: &BTreeMap<Fingerprint, ShareId>,
    ) -> impl Future<Output = Result<(Fingerprint, Secret), PeerError>> + Send;
}

/// The peers that a header names.
pub(super) fn peers_of(header: &Header) -> Vec<PeerShare> {
    header.tokens(PEERS_TOKEN).filter_map(parse_peers_token).flatten().collect()
}

/// The volume's key, by whichever peer gives a share that opens it first.
pub(super) async fn release<P: PeerHost>(
    host: &P,
    own: Option<&MachineKey>,
    header: &Header,
    front: &[u8],
) -> Result<VolumeKey, EncryptionError> {
    let peers = peers_of(header);
    let own = own.ok_or(EncryptionError::NoIdentity)?;
    let part = own.disk_part().ok_or(EncryptionError::IdentityElsewhere)?;
    let shares: BTreeMap<Fingerprint, ShareId> = peers.iter().map(|peer| (peer.identity.clone(), peer.id)).collect();
    let addresses: BTreeSet<&String> = peers.iter().flat_map(|peer| &peer.addresses).collect();
    let shares = &shares;
    let ask = |address: &'_ String| {
        let address = address.clone();
        async move { (host.release(own, &address, shares).await, address) }
    };
    let mut asked: FuturesUnordered<_> = addresses.into_iter().map(ask).collect();
    let mut said = Vec::new();
    while let Some((answer, address)) = asked.next().await {
        let opened = answer.map_err(|error| error.to_string()).and_then(|(identity, share)| {
            let peer = peers.iter().find(|peer| peer.identity == identity).ok_or("is another machine")?;
            let secret = peer.unwrap(&share, header.uuid(), &part);
            header.open(front, &*secret).map_err(|_| "gave a share that opens nothing".to_owned())
        });
        match opened {
            Ok(key) => return Ok(key),
            Err(why) => said.push(format!("{address} {why}")),
        }
    }
    said.sort();
    Err(EncryptionError::Peers(said.join("; ")))
}
