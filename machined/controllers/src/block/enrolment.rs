//! Gives a volume's key into the hands of peers: which step of that is due, and the step itself.
//!
//! ```text
//! open key --a peer keeps a share and gave it back--> peers
//! peers ----one left the step, or a new one is found--> peers, by a new secret
//! ```
//!
//! Nothing is taken out of the header before what replaces it was given back by a peer and opened the key slot on the disk. Must never make a
//! volume less protected than it was: peers that are gone do not bring an open key back.

use super::encryption::{draw, has_recovery};
use super::peers::{PeerHost, ShareToKeep, peers_of};
use super::{BlockHost, EncryptionError};
use crate::identity::MachineKey;
use crate::ledger::DesiredMachine;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use machined_ids::Fingerprint;
use machined_luks::{Header, OPEN_TOKEN, PEERS_MAX, PEERS_TOKEN, PeerShare, Secret, ShareId, VolumeKey, peers_token};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Addresses that are asked at once: the cluster's endpoints and where peers were found before.
const ADDRESSES_MAX: usize = 24;

/// The machines that should keep shares, and where to look for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The other control-plane machines of the accepted step.
    pub(super) peers: BTreeSet<Fingerprint>,
    /// The cluster's endpoints.
    endpoints: Vec<String>,
    /// Whether this machine is one of the control plane itself.
    control_plane: bool,
}

impl Wanted {
    /// As the machine's step says.
    pub(super) fn of(desired: &DesiredMachine, own: &Fingerprint) -> Self {
        let table = &desired.raw.access;
        let identities = table.machines.values().map(|machine| &machine.identity);
        let peers = identities.filter(|identity| *identity != own && table.is_control_plane(identity));
        Wanted {
            peers: peers.take(PEERS_MAX).cloned().collect(),
            endpoints: desired.cluster.endpoints.clone(),
            control_plane: table.is_control_plane(own),
        }
    }
}

/// What the header says of where a volume's key is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) open: bool,
    pub(super) recovery: bool,
    pub(super) peers: BTreeSet<Fingerprint>,
}

impl Held {
    pub(super) fn of(header: &Header) -> Self {
        Held {
            open: header.tokens(OPEN_TOKEN).next().is_some(),
            recovery: has_recovery(header),
            peers: peers_of(header).into_iter().map(|peer| peer.identity).collect(),
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// Nothing can be done; what people can do.
    Waits(&'static str),
    /// New shares: at least one of `some`, and all of `all`.
    Shares {
        /// Who is asked first.
        some: BTreeSet<Fingerprint>,
        /// Who keeps a share already and must not be lost.
        all: BTreeSet<Fingerprint>,
    },
}

/// Decides what is due.
pub(super) fn due(held: &Held, wanted: &Wanted) -> Due {
    let nobody = BTreeSet::new;
    if held.open {
        return match wanted {
            Wanted { peers, .. } if peers.is_empty() => {
                Due::Waits("there is no other control-plane machine that could keep it")
            }
            Wanted { control_plane: true, .. } if !held.recovery => Due::Waits(
                "a control-plane machine needs a recovery key first, for the day when all of them were off: cairnctl disk recovery-key",
            ),
            Wanted { peers, .. } => Due::Shares { some: peers.clone(), all: nobody() },
        };
    }
    if held.peers.is_empty() {
        return Due::Nothing;
    }
    if wanted.peers.is_empty() {
        return Due::Waits(
            "every peer has left the repository, so that only the recovery key opens it at the next start",
        );
    }
    let missing: BTreeSet<Fingerprint> = wanted.peers.difference(&held.peers).cloned().collect();
    if !held.peers.is_subset(&wanted.peers) {
        return Due::Shares { some: wanted.peers.clone(), all: nobody() };
    }
    match missing.is_empty() {
        true => Due::Nothing,
        false => Due::Shares { some: missing, all: held.peers.clone() },
    }
}

/// A peer that keeps a share and has shown to give it back.
struct Proved {
    identity: Fingerprint,
    addresses: Vec<String>,
    id: ShareId,
    share: Secret,
}

/// What the enrolment of one volume needs.
pub(super) struct Enrolling<'a, H, P> {
    pub(super) host: &'a H,
    pub(super) peers: &'a P,
    pub(super) own: &'a MachineKey,
    pub(super) wanted: &'a Wanted,
    /// Names of all shares that stand in the headers of this machine's volumes.
    pub(super) held: &'a [ShareId],
}

impl<H: BlockHost, P: PeerHost> Enrolling<'_, H, P> {
    /// Has peers keep new shares of a new secret, and puts it in the place of the key slots that they or anybody opened. Gives the peers.
    pub(super) async fn enrol(
        &self,
        (device, key): (&Path, &VolumeKey),
        (some, all): (&BTreeSet<Fingerprint>, &BTreeSet<Fingerprint>),
    ) -> Result<BTreeSet<Fingerprint>, EncryptionError> {
        let part = self.own.disk_part().ok_or(EncryptionError::IdentityElsewhere)?;
        let mut header = Header::parse(&self.host.front(device).await?)?;
        let known = peers_of(&header).into_iter().flat_map(|peer| peer.addresses);
        let addresses: BTreeSet<String> = self.wanted.endpoints.iter().cloned().chain(known).collect();
        let addresses: Vec<String> = addresses.into_iter().take(ADDRESSES_MAX).collect();
        let (mut proved, mut said) = self.gather(&addresses, some).await;
        if proved.is_empty() {
            return Err(EncryptionError::NoPeer(said.join("; ")));
        }
        if !all.is_empty() {
            let (more, why) = self.gather(&addresses, all).await;
            said.extend(why);
            proved.extend(more);
            if !all.iter().all(|peer| proved.iter().any(|proved| proved.identity == *peer)) {
                return Err(EncryptionError::NoPeer(said.join("; ")));
            }
        }
        let mut secret = Secret::default();
        self.host.random(&mut *secret);
        let wrap = |peer: &Proved| {
            let place = (peer.identity.clone(), peer.addresses.clone());
            PeerShare::wrap(place, (peer.id, &peer.share), header.uuid(), &part, &secret)
        };
        let shares: Vec<PeerShare> = proved.iter().map(wrap).collect();
        let old: Vec<_> = [OPEN_TOKEN, PEERS_TOKEN].into_iter().flat_map(|kind| header.slots_of(kind)).collect();
        let mut change = header.add(key, &*secret, peers_token(&shares), &old, &mut draw(self.host))?;
        let copies = change.split_off(1);
        self.host.write(device, change).await?;
        // The new key slot opens on the disk before the header names it instead of the old one.
        header.open(&self.host.front(device).await?, &*secret)?;
        let erased = old.into_iter().map(|slot| Header::erase(slot, &mut draw(self.host)));
        self.host.write(device, copies.into_iter().chain(erased).collect()).await?;
        Ok(proved.into_iter().map(|peer| peer.identity).collect())
    }

    /// Asks at all addresses at once for peers of `among`; gives those that keep a share and gave it back, and what the others said.
    async fn gather(&self, addresses: &[String], among: &BTreeSet<Fingerprint>) -> (Vec<Proved>, Vec<String>) {
        let mut draw = draw(self.host);
        let shares: Vec<(ShareId, Secret)> = addresses
            .iter()
            .map(|_| {
                let mut share = Secret::default();
                draw(&mut *share);
                (ShareId::generate(&mut draw), share)
            })
            .collect();
        // Two addresses may be one machine: it must not forget the first share for the second.
        let held: Vec<ShareId> = self.held.iter().copied().chain(shares.iter().map(|(id, _)| *id)).collect();
        let ask = |(address, (id, share)): (&String, (ShareId, Secret))| {
            let (address, held) = (address.clone(), held.clone());
            async move {
                let asked = self.try_one(&address, among, ShareToKeep { id, share, held }).await;
                asked.map_err(|why| format!("{address} {why}"))
            }
        };
        let mut asked: FuturesUnordered<_> = addresses.iter().zip(shares).map(ask).collect();
        let (mut proved, mut said) = (BTreeMap::<Fingerprint, Proved>::new(), Vec::new());
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(peer) => match proved.get_mut(&peer.identity) {
                    Some(known) => known.addresses.extend(peer.addresses),
                    None => drop(proved.insert(peer.identity.clone(), peer)),
                },
                Err(why) => said.push(why),
            }
        }
        said.sort();
        let tidy = |mut peer: Proved| {
            peer.addresses.sort();
            peer.addresses.dedup();
            peer
        };
        (proved.into_values().map(tidy).collect(), said)
    }

    async fn try_one(
        &self,
        address: &str,
        among: &BTreeSet<Fingerprint>,
        share: ShareToKeep,
    ) -> Result<Proved, String> {
        let (id, kept) = (share.id, share.share.clone());
        let reached = self.peers.keep(self.own, address, among, share).await.map_err(|error| error.to_string())?;
        let asked = BTreeMap::from([(reached.identity.clone(), id)]);
        let (identity, back) =
            self.peers.release(self.own, address, &asked).await.map_err(|error| error.to_string())?;
        if identity != reached.identity || back != kept {
            return Err("gave back another share than it was given".to_owned());
        }
        let addresses = [address.to_owned(), reached.address].into_iter().collect::<BTreeSet<_>>();
        Ok(Proved { identity, addresses: addresses.into_iter().collect(), id, share: kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machines(numbers: &[u8]) -> BTreeSet<Fingerprint> {
        numbers.iter().map(|number| Fingerprint::from_sha256(&[*number; 32])).collect()
    }

    fn wanted(peers: &[u8], control_plane: bool) -> Wanted {
        Wanted { peers: machines(peers), endpoints: Vec::new(), control_plane }
    }

    fn held(open: bool, recovery: bool, peers: &[u8]) -> Held {
        Held { open, recovery, peers: machines(peers) }
    }

    fn shares(some: &[u8], all: &[u8]) -> Due {
        Due::Shares { some: machines(some), all: machines(all) }
    }

    #[test]
    fn an_open_key_goes_to_peers_once_there_are_some() {
        assert!(matches!(due(&held(true, true, &[]), &wanted(&[], true)), Due::Waits(why) if why.contains("no other")));
        assert_eq!(due(&held(true, false, &[]), &wanted(&[1], false)), shares(&[1], &[]), "a worker");
        assert_eq!(due(&held(true, true, &[]), &wanted(&[1, 2], true)), shares(&[1, 2], &[]));
    }

    #[test]
    fn a_control_plane_machine_needs_a_recovery_key_first() {
        let due = due(&held(true, false, &[]), &wanted(&[1], true));
        assert!(matches!(due, Due::Waits(why) if why.contains("cairnctl disk recovery-key")), "{due:?}");
    }

    #[test]
    fn whoever_left_goes_out_even_while_others_are_away_and_whoever_came_waits_for_all() {
        assert_eq!(due(&held(false, true, &[1, 2]), &wanted(&[1, 2], true)), Due::Nothing);
        assert_eq!(due(&held(false, true, &[1, 2]), &wanted(&[2, 3], true)), shares(&[2, 3], &[]));
        assert_eq!(due(&held(false, true, &[1, 2]), &wanted(&[1, 2, 3], true)), shares(&[3], &[1, 2]));
    }

    #[test]
    fn peers_that_are_gone_bring_no_open_key_back() {
        assert!(matches!(due(&held(false, true, &[1]), &wanted(&[], true)), Due::Waits(_)));
        assert_eq!(due(&held(false, true, &[]), &wanted(&[1], true)), Due::Nothing, "a volume of the TPM");
    }
}
