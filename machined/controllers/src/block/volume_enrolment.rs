//! The part of the volume controller that gives keys into the hands of peers, once both volumes are open and the machine's step is known.

use super::encryption::{self, Encryption, EncryptionError, Kept};
use super::enrolment::{Due, Enrolling, Held, Wanted, due};
use super::layout::{VOLUMES, VolumeSpec};
use super::peers::{PeerHost, peers_of};
use super::volume_spec::{NO_CLUSTER, VolumeController};
use super::{BlockError, BlockHost};
use crate::identity::MachineKey;
use crate::ledger::DesiredMachine;
use crate::tpm::TpmHost;
use machined_luks::{Header, ShareId};
use machined_reconcile::story;
use std::path::PathBuf;

impl<H: BlockHost, T: TpmHost, P: PeerHost> VolumeController<H, T, P> {
    /// Gives volumes into the hands of peers as far as that is due; true when nothing is left to do.
    pub(super) async fn enrol(&mut self) -> bool {
        let (Some(own), Some(desired)) =
            (self.inputs.keys.get(MachineKey::ID), self.inputs.desired.get(DesiredMachine::ID))
        else {
            return true;
        };
        let wanted = Wanted::of(&desired, &own.fingerprint);
        if self.enrolled.as_ref() == Some(&wanted) {
            return true;
        }
        let mut done = true;
        for spec in &VOLUMES {
            if !matches!(self.encryption.current().get(spec.target), Some(Encryption::Open { .. })) {
                continue;
            }
            let (kept, settled) = match self.enrol_one(spec, &own, &wanted).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(label = spec.label, error = story(&error), "no new peers for the disk key");
                    let held = self.header(spec).await.map(|(_, header, _)| Held::of(&header)).unwrap_or_default();
                    (kept(&held, &story(&error)), false)
                }
            };
            done &= settled;
            if let Some(Encryption::Open { by, recovery, kept: before }) = self.encryption.current().get(spec.target)
                && *before != kept
            {
                tracing::info!(label = spec.label, ?kept, "who has the disk key");
                self.encryption.put(spec.target, Encryption::Open { by: *by, recovery: *recovery, kept });
            }
        }
        self.enrolled = done.then_some(wanted);
        done
    }

    /// A volume's partition with its header.
    async fn header(&self, spec: &VolumeSpec) -> Result<(PathBuf, Header, Vec<u8>), EncryptionError> {
        let device = self.host.partition(spec.label).await?;
        let device = device.ok_or_else(|| BlockError::Access {
            device: PathBuf::from(spec.label),
            source: std::io::Error::other("the partition is gone"),
        })?;
        let front = self.host.front(&device).await?;
        Ok((device, Header::parse(&front)?, front))
    }

    /// Names of the shares that any header of this machine needs.
    async fn shares_held(&self) -> Result<Vec<ShareId>, EncryptionError> {
        let mut held = Vec::new();
        for spec in &VOLUMES {
            if matches!(self.encryption.current().get(spec.target), Some(Encryption::Open { .. })) {
                held.extend(peers_of(&self.header(spec).await?.1).into_iter().map(|peer| peer.id));
            }
        }
        Ok(held)
    }

    /// One volume; gives who has its key now, and whether nothing is left to do.
    async fn enrol_one(
        &self,
        spec: &'static VolumeSpec,
        own: &MachineKey,
        wanted: &Wanted,
    ) -> Result<(Kept, bool), EncryptionError> {
        let (device, mut header, front) = self.header(spec).await?;
        // Before anything else: after a power cut, a copy may still hold an open key that the other one no longer has.
        if let Some(settling) = header.settle(&front, &mut encryption::draw(&*self.host))? {
            self.host.write(&device, settling).await?;
        }
        let held = Held::of(&header);
        match due(&held, wanted) {
            Due::Nothing => Ok((kept(&held, ""), true)),
            Due::Waits(why) => Ok((kept(&held, why), true)),
            Due::Shares { some, all } => {
                let key = match self.keys.get(spec.target) {
                    Some((_, key)) => key.clone(),
                    // machined was started again and has forgotten it.
                    None => self.unlock(None, &header, &front).await?.0,
                };
                let names = self.shares_held().await?;
                let (host, peers) = (&*self.host, &*self.peers);
                let enrolling = Enrolling { host, peers, own, wanted, held: &names };
                let peers = enrolling.enrol((&device, &key), (&some, &all)).await?;
                let missing = wanted.peers.difference(&peers).count();
                let note = match missing {
                    0 => String::new(),
                    missing => format!("{missing} more control-plane machines do not keep it yet"),
                };
                Ok((Kept::ByPeers { count: peers.len(), note }, missing == 0))
            }
        }
    }
}

/// Who has a volume's key, before the machine's step was looked at.
pub(super) fn at_first(header: &Header) -> Kept {
    let held = Held::of(header);
    kept(&held, if held.open { NO_CLUSTER } else { "" })
}

/// Who has a volume's key, as its header says.
fn kept(held: &Held, note: &str) -> Kept {
    match held {
        Held { open: true, .. } => Kept::InTheClear { why: note.to_owned() },
        Held { peers, .. } if peers.is_empty() => Kept::Here,
        Held { peers, .. } => Kept::ByPeers { count: peers.len(), note: note.to_owned() },
    }
}
