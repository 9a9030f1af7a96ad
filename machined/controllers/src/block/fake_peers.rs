//! Peers in memory: machines that keep shares, go away, leave the repository, and lie.

use super::peers::{PeerError, PeerHost, Reached, ShareToKeep};
use crate::identity::MachineKey;
use machined_ids::Fingerprint;
use machined_luks::{Secret, ShareId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

/// One peer.
#[derive(Default, Clone)]
pub(super) struct FakePeer {
    pub(super) down: bool,
    /// It gives another share than it was given.
    pub(super) lies: bool,
    /// Machines that are not in its step.
    pub(super) refuses: BTreeSet<Fingerprint>,
    shares: BTreeMap<(Fingerprint, ShareId), Secret>,
}

impl FakePeer {
    /// How many shares it keeps, of whomever.
    pub(super) fn shares(&self) -> usize {
        self.shares.len()
    }
}

/// Machines by number; the one of number 1 answers at "10.0.0.1" and at "peer1".
#[derive(Default)]
pub(super) struct FakePeers {
    peers: Mutex<BTreeMap<u8, FakePeer>>,
    pub(super) calls: Mutex<usize>,
}

/// Who a peer is.
pub(super) fn peer(number: u8) -> Fingerprint {
    Fingerprint::from_sha256(&[number; 32])
}

impl FakePeers {
    /// A network where nobody answers.
    pub(super) fn alone() -> Self {
        let down = FakePeer { down: true, ..FakePeer::default() };
        FakePeers { peers: Mutex::new((1..10).map(|number| (number, down.clone())).collect()), ..FakePeers::default() }
    }
    fn all(&self) -> MutexGuard<'_, BTreeMap<u8, FakePeer>> {
        self.peers.lock().expect("because no test panics with it")
    }
    pub(super) fn change(&self, number: u8, change: impl FnOnce(&mut FakePeer)) {
        change(self.all().entry(number).or_default());
    }
    pub(super) fn get(&self, number: u8) -> FakePeer {
        self.all().get(&number).cloned().unwrap_or_default()
    }
    /// Whoever is at an address, if it is one of those and answers this machine.
    fn reach(
        &self,
        own: &MachineKey,
        address: &str,
        expected: impl Fn(&Fingerprint) -> bool,
    ) -> Result<(u8, Fingerprint), PeerError> {
        *self.calls.lock().expect("because no test panics with it") += 1;
        let number = address.strip_prefix("10.0.0.").or_else(|| address.strip_prefix("peer"));
        let number: u8 = number.and_then(|number| number.parse().ok()).expect("because it is an address of a peer");
        let all = self.all();
        match all.get(&number) {
            Some(found) if found.down => Err(PeerError::Unreachable("nobody answers".to_owned())),
            Some(_) if !expected(&peer(number)) => Err(PeerError::Unreachable("somebody else".to_owned())),
            Some(found) if found.refuses.contains(&own.fingerprint) => {
                Err(PeerError::Refused("not in the accepted step".to_owned()))
            }
            Some(_) => Ok((number, peer(number))),
            None => Err(PeerError::Unreachable("no such machine".to_owned())),
        }
    }
}

impl PeerHost for FakePeers {
    async fn keep(
        &self,
        own: &MachineKey,
        address: &str,
        among: &BTreeSet<Fingerprint>,
        share: ShareToKeep,
    ) -> Result<Reached, PeerError> {
        let (number, identity) = self.reach(own, address, |found| among.contains(found))?;
        let mut all = self.all();
        let shares = &mut all.get_mut(&number).expect("because it was just reached").shares;
        shares.retain(|(machine, id), _| *machine != own.fingerprint || share.held.contains(id));
        shares.insert((own.fingerprint.clone(), share.id), share.share);
        Ok(Reached { identity, address: format!("10.0.0.{number}") })
    }

    async fn release(
        &self,
        own: &MachineKey,
        address: &str,
        shares: &BTreeMap<Fingerprint, ShareId>,
    ) -> Result<(Fingerprint, Secret), PeerError> {
        let (number, identity) = self.reach(own, address, |found| shares.contains_key(found))?;
        let found = self.get(number);
        let share = found.shares.get(&(own.fingerprint.clone(), shares[&identity]));
        let mut share = share.cloned().ok_or_else(|| PeerError::Refused("keeps no such share".to_owned()))?;
        share[0] ^= u8::from(found.lies);
        Ok((identity, share))
    }
}
