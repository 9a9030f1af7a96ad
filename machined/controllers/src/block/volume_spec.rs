//! Brings up the volumes: finds each by its GPT label, formats an empty one, opens and checks the others, mounts, lays out folders.
//!
//! Both volumes are worked on at the same time, because formatting is what a first boot waits for longest. A partition
//! with unknown contents is never formatted: that is somebody's data until a person says otherwise.
//!
//! ```text
//! empty, TPM and policy           note "formatting" -> seal, unseal, header -> map -> mke2fs -> clear the note --> mount
//! empty, seed insists, no TPM     note "formatting" -> open key, header ----> map -> mke2fs -> clear the note --> mount
//! empty, seed insists, else       wait, and say what is missing
//! empty, else                     note "formatting" -----------------------------------> mke2fs -> clear the note --> mount
//! ext4                            ----------------------------------------------------------------------> check --> mount
//! LUKS2                           TPM, open key, peers, or the recovery key from the console --> map ---> check --> mount
//! ```
//!
//! A power cut before the note is cleared leaves a partition that counts as empty. Once both volumes are mounted PCR 11 is extended, and
//! until the machine starts again the TPM gives nothing out any more. Volumes whose key is with peers, or should be, are enrolled then.

use super::encryption::{self, Encryption, EncryptionError, Kept, Opener, VolumeInbox, VolumeReply, VolumeRequest};
use super::enrolment::Wanted;
use super::layout::{VOLUMES, VolumeSpec};
use super::peers::{self, PeerHost, peers_of};
use super::reseal::{Afterwards, Health};
use super::volume_enrolment::at_first;
use super::{BlockError, BlockHost, Contents, Volume, VolumeError};
use crate::identity::MachineKey;
use crate::introduction::Seed;
use crate::ledger::DesiredMachine;
use crate::tpm::TpmHost;
use init_boot::tpm::{Pcr, pcr_policy};
use init_boot::volumes_opened;
use machined_config::Insistence;
use machined_luks::{Header, RecoveryKey, Secret, SignedPolicy, TPM_TOKEN, Token, VolumeKey};
use machined_reconcile::{Outcome, story};
use machined_runtime::{Controller, Inbox, Ports, Reader, Writer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How soon to look again for a disk that the kernel has not shown yet; the kernel finds disks within a second or two.
const DISK_POLL: Duration = Duration::from_millis(200);
/// How soon to ask again for peers that did not answer, or whether the machine is healthy: nothing waits for it.
const LATER: Duration = Duration::from_secs(30);

/// An encrypted volume that is open: its partition and its key.
pub(super) type OpenKey = (PathBuf, VolumeKey);

/// A volume that was made or opened.
struct Opened {
    volume: Volume,
    encryption: Encryption,
    key: Option<OpenKey>,
    afterwards: Option<Afterwards>,
}

/// What keeps an open key where it is, at first.
pub(super) const NO_CLUSTER: &str = "the machine's cluster is not known yet";

/// How an empty partition becomes a volume.
#[derive(Debug)]
enum Way<'a> {
    Plain,
    Sealed(&'a SignedPolicy),
    OpenKey,
}

/// Decides it; the error says what is missing.
fn way(policy: Option<&SignedPolicy>, tpm: bool, insistence: Option<Insistence>) -> Result<Way<'_>, &'static str> {
    match (policy, tpm, insistence) {
        (Some(policy), true, _) => Ok(Way::Sealed(policy)),
        (_, _, None) => Ok(Way::Plain),
        (_, false, Some(Insistence::Tpm)) => Err("this machine has no TPM; switch it on in the firmware's setup"),
        (None, true, Some(Insistence::Tpm | Insistence::Required)) => Err(
            "the image was built without a policy key, which a TPM needs; start one that was built with: cairn-image build --policy-key",
        ),
        (_, false, Some(Insistence::Required)) => Ok(Way::OpenKey),
    }
}

/// What a controller is told by others.
pub(super) struct Inputs {
    pub(super) keys: Reader<MachineKey>,
    seeds: Reader<Seed>,
    pub(super) desired: Reader<DesiredMachine>,
}

/// Writes [`Volume`] and [`Encryption`].
pub struct VolumeController<H, T, P> {
    pub(super) host: Arc<H>,
    pub(super) tpm: Arc<T>,
    pub(super) peers: Arc<P>,
    pub(super) inputs: Inputs,
    volumes: Writer<Volume>,
    pub(super) encryption: Writer<Encryption>,
    inbox: VolumeInbox,
    /// By mount point.
    pub(super) keys: BTreeMap<&'static str, OpenKey>,
    /// What becomes of key slots once the machine is healthy, by mount point.
    pub(super) afterwards: BTreeMap<&'static str, Afterwards>,
    pub(super) healthy: Health,
    /// PCR 11 says that the volumes are open.
    sealed: bool,
    /// For which machines all that was due was done.
    pub(super) enrolled: Option<Wanted>,
}

impl<H: BlockHost, T: TpmHost, P: PeerHost> VolumeController<H, T, P> {
    /// Declares inputs and outputs at `ports`; gives the inbox too.
    pub fn new(
        ports: &mut Ports,
        host: Arc<H>,
        (tpm, peers): (Arc<T>, Arc<P>),
        healthy: Health,
    ) -> (Self, VolumeInbox) {
        let inbox: VolumeInbox = Inbox::new(ports.trigger());
        let inputs = Inputs { keys: ports.input(), seeds: ports.input(), desired: ports.input() };
        let (volumes, encryption) = (ports.output(), ports.output());
        let controller = VolumeController {
            host,
            tpm,
            peers,
            inputs,
            volumes,
            encryption,
            inbox: inbox.clone(),
            keys: BTreeMap::new(),
            afterwards: BTreeMap::new(),
            healthy,
            sealed: false,
            enrolled: None,
        };
        (controller, inbox)
    }

    /// Brings one volume up; nothing when it is up already, or the kernel does not show its partition yet.
    async fn bring_up(
        &self,
        spec: &'static VolumeSpec,
        policy: Option<&SignedPolicy>,
        recovery: Option<&RecoveryKey>,
    ) -> Result<Option<Opened>, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let target = Path::new(spec.target);
        if self.volumes.current().contains_key(spec.target) {
            return Ok(None);
        }
        let opened = if self.host.is_mounted(target).await.map_err(refused)? {
            self.mounted_earlier(spec).await.map_err(refused)?
        } else {
            let Some(device) = self.host.partition(label).await.map_err(refused)? else { return Ok(None) };
            let Some(mounted) = self.mount(spec, device, policy, recovery).await? else { return Ok(None) };
            mounted
        };
        for (folder, mode) in spec.folders {
            self.host.make_folder(&target.join(folder), *mode).await.map_err(refused)?;
        }
        let Volume { device, formatted } = &opened.volume;
        tracing::info!(label, device = %device.display(), formatted, encryption = ?opened.encryption, "volume is mounted");
        Ok(Some(opened))
    }

    /// An earlier machined of this start mounted it; its key is gone with that one.
    async fn mounted_earlier(&self, spec: &VolumeSpec) -> Result<Opened, BlockError> {
        let encrypted = match self.host.partition(spec.label).await? {
            Some(device) if self.host.contents(&device).await? == Contents::Luks => {
                Some(Header::parse(&self.host.front(&device).await?))
            }
            Some(_) | None => None,
        };
        let encryption = match encrypted {
            Some(header) => {
                let kept = header.as_ref().map_or(Kept::Here, at_first);
                Encryption::Open { by: Opener::Earlier, recovery: None, kept }
            }
            None => Encryption::Plain,
        };
        Ok(Opened {
            volume: Volume { device: PathBuf::new(), formatted: false },
            encryption,
            key: None,
            afterwards: None,
        })
    }

    async fn mount(
        &self,
        spec: &'static VolumeSpec,
        device: PathBuf,
        policy: Option<&SignedPolicy>,
        recovery: Option<&RecoveryKey>,
    ) -> Result<Option<Opened>, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let opened = match self.host.contents(&device).await.map_err(refused)? {
            Contents::Empty => {
                // What a seed insists on counts before anything is made.
                let Some(seed) = self.inputs.seeds.get(Seed::ID) else { return Ok(None) };
                let way = way(policy, self.tpm.is_present(), seed.encryption);
                self.format(spec, device, way.map_err(|why| VolumeError::Insisted { label, why })?).await?
            }
            Contents::Ext4 => {
                let volume = Volume { device, formatted: false };
                Opened { volume, encryption: Encryption::Plain, key: None, afterwards: None }
            }
            Contents::Luks => self.open(spec, device, policy, recovery).await?,
            Contents::Unknown => return Err(VolumeError::Unknown { label, device }),
        };
        let Volume { device, formatted } = &opened.volume;
        if !formatted {
            self.host.check(device).await.map_err(refused)?;
        }
        self.host.mount(device, Path::new(spec.target)).await.map_err(refused)?;
        Ok(Some(opened))
    }

    async fn format(&self, spec: &'static VolumeSpec, device: PathBuf, way: Way<'_>) -> Result<Opened, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let unable = |source| VolumeError::Encrypt { label, source };
        let bytes = self.host.note(&device, true).await.map_err(refused)?;
        let opened = match way {
            Way::Plain => {
                self.host.format(&device, label, bytes).await.map_err(refused)?;
                let volume = Volume { device: device.clone(), formatted: true };
                Opened { volume, encryption: Encryption::Plain, key: None, afterwards: None }
            }
            Way::Sealed(policy) => {
                let slot = encryption::seal(&*self.host, &*self.tpm, policy).await.map_err(unable)?;
                self.format_encrypted(spec, &device, bytes, slot, (Opener::Tpm, Kept::Here)).await?
            }
            Way::OpenKey => {
                let slot = encryption::in_the_clear(&*self.host);
                let kept = Kept::InTheClear { why: NO_CLUSTER.to_owned() };
                self.format_encrypted(spec, &device, bytes, slot, (Opener::OpenKey, kept)).await?
            }
        };
        self.host.note(&device, false).await.map_err(refused)?;
        Ok(opened)
    }

    async fn format_encrypted(
        &self,
        spec: &'static VolumeSpec,
        device: &Path,
        bytes: u64,
        slot: (Secret, Token),
        (by, kept): (Opener, Kept),
    ) -> Result<Opened, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let created = encryption::create(&*self.host, slot, (device, label), bytes).await;
        let (header, key) = created.map_err(|source| VolumeError::Encrypt { label, source })?;
        let mapped = self.host.map(&label.to_lowercase(), device, &header, &key).await.map_err(refused)?;
        let bytes = header.data_bytes().expect("because a new volume has a size");
        self.host.format(&mapped, label, bytes).await.map_err(refused)?;
        let volume = Volume { device: mapped, formatted: true };
        let encryption = Encryption::Open { by, recovery: Some(false), kept };
        Ok(Opened { volume, encryption, key: Some((device.to_owned(), key)), afterwards: None })
    }

    async fn open(
        &self,
        spec: &'static VolumeSpec,
        device: PathBuf,
        policy: Option<&SignedPolicy>,
        recovery: Option<&RecoveryKey>,
    ) -> Result<Opened, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let front = self.host.front(&device).await.map_err(refused)?;
        let locked = |recovery, source| VolumeError::Locked { label, recovery, source: Box::new(source) };
        let header = Header::parse(&front).map_err(|error| locked(false, error.into()))?;
        let has_recovery = encryption::has_recovery(&header);
        let typed = recovery.and_then(|key| header.open(&front, key.reveal().as_bytes()).ok());
        let (key, by, afterwards) = match typed {
            Some(key) => (key, Opener::RecoveryKey, self.seal_anew(policy, &header).await),
            None => self.unlock(policy, &header, &front).await.map_err(|source| locked(has_recovery, source))?,
        };
        let mapped = self.host.map(&label.to_lowercase(), &device, &header, &key).await.map_err(refused)?;
        let kept = at_first(&header);
        let encryption = Encryption::Open { by, recovery: Some(has_recovery), kept };
        let volume = Volume { device: mapped, formatted: false };
        Ok(Opened { volume, encryption, key: Some((device, key)), afterwards })
    }

    /// The volume's key without a person.
    pub(super) async fn unlock(
        &self,
        policy: Option<&SignedPolicy>,
        header: &Header,
        front: &[u8],
    ) -> Result<(VolumeKey, Opener, Option<Afterwards>), EncryptionError> {
        if let Some(key) = encryption::open_key(header, front) {
            return Ok((key, Opener::OpenKey, None));
        }
        if peers_of(header).is_empty() {
            let (key, opened) = encryption::unseal(&*self.tpm, policy, header, front).await?;
            let mut others = header.slots_of(TPM_TOKEN);
            others.retain(|slot| *slot != opened);
            return Ok((key, Opener::Tpm, (!others.is_empty()).then_some(Afterwards::Forget(others))));
        }
        let own = self.inputs.keys.get(MachineKey::ID);
        Ok((peers::release(&*self.peers, own.as_ref(), header, front).await?, Opener::Peer, None))
    }

    /// A secret for this TPM and this image's policy, where the one in the header did not open. It is tried now, before PCR 11 moves on, and
    /// written once the machine is healthy.
    async fn seal_anew(&self, policy: Option<&SignedPolicy>, header: &Header) -> Option<Afterwards> {
        let policy = policy.filter(|_| self.tpm.is_present() && !header.slots_of(TPM_TOKEN).is_empty())?;
        match encryption::seal(&*self.host, &*self.tpm, policy).await {
            Ok((secret, token)) => Some(Afterwards::Add(secret, token)),
            Err(error) => {
                tracing::warn!(error = story(&error), "the volume's key cannot be sealed anew by this TPM and image");
                None
            }
        }
    }

    /// Brings up both at the same time; gives how many came up, and the first failure.
    async fn bring_up_all(
        &mut self,
        policy: Option<&SignedPolicy>,
        recovery: Option<&RecoveryKey>,
    ) -> (usize, Result<(), VolumeError>) {
        let [state, ephemeral] = &VOLUMES;
        let up = tokio::join!(self.bring_up(state, policy, recovery), self.bring_up(ephemeral, policy, recovery));
        let (mut count, mut failure) = (0, Ok(()));
        for (spec, up) in [(state, up.0), (ephemeral, up.1)] {
            match up {
                Ok(None) => {}
                Ok(Some(opened)) => {
                    count += 1;
                    self.keys.extend(opened.key.map(|key| (spec.target, key)));
                    self.afterwards.extend(opened.afterwards.map(|after| (spec.target, after)));
                    self.encryption.put(spec.target, opened.encryption);
                    self.volumes.put(spec.target, opened.volume);
                }
                Err(error) => {
                    if let VolumeError::Locked { recovery, source, .. } = &error {
                        let (why, recovery) = (story(&**source), *recovery);
                        self.encryption.put(spec.target, Encryption::Locked { why, recovery });
                    }
                    if let VolumeError::Insisted { why, .. } = &error {
                        self.encryption.put(spec.target, Encryption::Unmade { why: (*why).to_owned() });
                    }
                    failure = failure.and(Err(error));
                }
            }
        }
        (count, failure)
    }

    /// Extends PCR 11 while it is still as an image's policy was signed for; afterwards there is nothing to do.
    async fn seal(&mut self, policy: Option<&SignedPolicy>) -> Result<(), VolumeError> {
        let Some(policy) = policy.filter(|_| !self.sealed && self.tpm.is_present()) else { return Ok(()) };
        let values = self.tpm.registers(vec![Pcr::UKI]).await.map_err(VolumeError::Seal)?;
        let open = values.iter().any(|(pcr, value)| policy.signature(&pcr_policy(*pcr, *value)).is_some());
        if open {
            self.tpm.extend(Pcr::UKI, volumes_opened()).await.map_err(VolumeError::Seal)?;
        }
        self.sealed = true;
        Ok(())
    }

    async fn answer(&mut self, request: VolumeRequest, policy: Option<&SignedPolicy>) -> VolumeReply {
        match request {
            VolumeRequest::Recover(key) => VolumeReply::Recovered(self.bring_up_all(policy, Some(&key)).await.0),
            VolumeRequest::MakeRecoveryKey => match self.make_recovery_key().await {
                Ok(key) => VolumeReply::Made(key),
                Err(refusal) => VolumeReply::Refused(refusal),
            },
        }
    }

    async fn make_recovery_key(&mut self) -> Result<RecoveryKey, String> {
        let known = self.encryption.current();
        let open = known.iter().filter(|(_, encryption)| matches!(encryption, Encryption::Open { .. }));
        let open: Vec<String> = open.map(|(target, _)| target.clone()).collect();
        if open.is_empty() {
            return Err("no volume of this machine is encrypted; see how they are: cairnctl status".to_owned());
        }
        if known.len() < VOLUMES.len() || open.iter().any(|target| !self.keys.contains_key(target.as_str())) {
            return Err("machined was started again since the volumes were opened and has forgotten their keys, or a volume is not open; restart the machine: cairnctl reboot".to_owned());
        }
        let key = RecoveryKey::generate(&mut |bytes| self.host.random(bytes));
        for (target, (device, volume_key)) in &self.keys {
            let added = encryption::add_recovery(&*self.host, device, volume_key, &key).await;
            added.map_err(|error| {
                format!("{target}: {}; ask again, the recovery key of before may be gone", story(&error))
            })?;
            if let Some(Encryption::Open { by, kept, .. }) = known.get(*target) {
                self.encryption.put(target, Encryption::Open { by: *by, recovery: Some(true), kept: kept.clone() });
            }
        }
        // A control-plane machine may have waited for one.
        self.enrolled = None;
        Ok(key)
    }
}

impl<H: BlockHost, T: TpmHost, P: PeerHost> Controller for VolumeController<H, T, P> {
    type Error = VolumeError;

    async fn reconcile(&mut self) -> Result<Outcome, VolumeError> {
        let policy = self.host.policy().await;
        let (_, brought) = self.bring_up_all(policy.as_ref(), None).await;
        let mut brought = brought;
        while let Some((request, answer)) = self.inbox.take() {
            let reply = self.answer(request, policy.as_ref()).await;
            if matches!(reply, VolumeReply::Recovered(count) if count > 0) {
                brought = Ok(());
            }
            // A caller that went away has its wish done all the same.
            let _caller_gone = answer.send(reply);
        }
        brought?;
        if self.volumes.current().len() < VOLUMES.len() {
            return Ok(Outcome::Again(DISK_POLL));
        }
        self.seal(policy.as_ref()).await?;
        let (enrolled, resealed) = (self.enrol().await, self.reseal().await);
        Ok(if enrolled && resealed { Outcome::Done } else { Outcome::Again(LATER) })
    }
}
