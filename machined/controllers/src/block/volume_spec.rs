//! Brings up the volumes: finds each by its GPT label, formats an empty one, opens and checks the others, mounts, lays out folders.
//!
//! Both volumes are worked on at the same time, because formatting is what a first boot waits for longest. A partition
//! with unknown contents is never formatted: that is somebody's data until a person says otherwise.
//!
//! ```text
//! empty, image with policy, TPM   note "formatting" -> seal, unseal, header -> map -> mke2fs -> clear the note --> mount
//! empty, else                     note "formatting" -----------------------------------> mke2fs -> clear the note --> mount
//! ext4                            ----------------------------------------------------------------------> check --> mount
//! LUKS2                           unseal, or the recovery key from the console -----------> map ---------> check --> mount
//! ```
//!
//! A power cut before the note is cleared leaves a partition that counts as empty. Once both volumes are mounted PCR 11 is extended, and
//! until the machine starts again the TPM gives nothing out any more.

use super::encryption::{self, Encryption, EncryptionError, Opener, VolumeInbox, VolumeReply, VolumeRequest};
use super::{BlockError, BlockHost, Contents, EPHEMERAL, STATE, Volume};
use crate::tpm::{TpmAccessError, TpmHost};
use init_boot::tpm::{Pcr, pcr_policy};
use init_boot::volumes_opened;
use machined_luks::{Header, RecoveryKey, SignedPolicy, VolumeKey};
use machined_reconcile::{Outcome, story};
use machined_runtime::{Controller, Inbox, Ports, Writer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How soon to look again for a disk that the kernel has not shown yet; the kernel finds disks within a second or two.
const DISK_POLL: Duration = Duration::from_millis(200);

/// A volume that every machine has.
struct VolumeSpec {
    label: &'static str,
    target: &'static str,
    /// Folders below the mount point with their permission bits, parents first.
    folders: &'static [(&'static str, u32)],
}

const VOLUMES: [VolumeSpec; 2] = [
    VolumeSpec {
        label: "CAIRN-STATE",
        target: STATE,
        folders: &[("machined", 0o700), ("controlplane", 0o700), ("gitsync", 0o711)],
    },
    VolumeSpec {
        label: "CAIRN-EPHEMERAL",
        target: EPHEMERAL,
        folders: &[
            ("lib", 0o755),
            ("lib/containerd", 0o711),
            ("lib/cairn", 0o755),
            ("log", 0o755),
            ("log/services", 0o750),
            ("log/pods", 0o755),
            ("log/containers", 0o755),
            ("tmp", 0o1777),
        ],
    },
];

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The host refused something.
    #[error("the volume {label} could not be brought up")]
    Host {
        /// GPT label.
        label: &'static str,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// The partition holds something that is not ours.
    #[error(
        "the partition {label} ({device}) holds data that is not ext4; it is left alone. Wipe its first megabyte to have it formatted"
    )]
    Unknown {
        /// GPT label.
        label: &'static str,
        /// Device file.
        device: PathBuf,
    },
    /// Its key cannot be had.
    #[error(
        "the volume {label} is encrypted and locked; {}. Undo what changed (image, firmware's settings, TPM) and restart, or {}",
        story(source),
        match recovery { true => "type its recovery key at this console", false => "install the machine again: it has no recovery key" }
    )]
    Locked {
        /// GPT label.
        label: &'static str,
        /// Whether a recovery key would open it.
        recovery: bool,
        /// Why; part of the sentence.
        source: Box<EncryptionError>,
    },
    /// It cannot be encrypted, and is not made without.
    #[error(
        "the volume {label} cannot be encrypted; clear the TPM in the firmware's setup, or switch it off there to keep the volume unencrypted"
    )]
    Encrypt {
        /// GPT label.
        label: &'static str,
        /// Why.
        #[source]
        source: EncryptionError,
    },
    /// The TPM does not take that the volumes are open.
    #[error("the TPM still gives the volumes' keys out, because PCR 11 cannot be extended; this is tried again")]
    Seal(#[source] TpmAccessError),
}

/// An encrypted volume that is open: its partition and its key.
type OpenKey = (PathBuf, VolumeKey);

/// A volume that was made or opened.
struct Opened {
    volume: Volume,
    encryption: Encryption,
    key: Option<OpenKey>,
}

/// Writes [`Volume`] and [`Encryption`].
pub struct VolumeController<H, T> {
    host: Arc<H>,
    tpm: Arc<T>,
    volumes: Writer<Volume>,
    encryption: Writer<Encryption>,
    inbox: VolumeInbox,
    /// By mount point.
    keys: BTreeMap<&'static str, OpenKey>,
    /// PCR 11 says that the volumes are open.
    sealed: bool,
}

impl<H: BlockHost, T: TpmHost> VolumeController<H, T> {
    /// Declares its outputs at `ports`; gives the inbox too.
    pub fn new(ports: &mut Ports, host: Arc<H>, tpm: Arc<T>) -> (Self, VolumeInbox) {
        let inbox: VolumeInbox = Inbox::new(ports.trigger());
        let (volumes, encryption) = (ports.output(), ports.output());
        let controller = VolumeController {
            host,
            tpm,
            volumes,
            encryption,
            inbox: inbox.clone(),
            keys: BTreeMap::new(),
            sealed: false,
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
            self.mount(spec, device, policy, recovery).await?
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
            Some(device) => self.host.contents(&device).await? == Contents::Luks,
            None => false,
        };
        let encryption = match encrypted {
            true => Encryption::Open { by: Opener::Earlier, recovery: None },
            false => Encryption::Plain,
        };
        Ok(Opened { volume: Volume { device: PathBuf::new(), formatted: false }, encryption, key: None })
    }

    async fn mount(
        &self,
        spec: &'static VolumeSpec,
        device: PathBuf,
        policy: Option<&SignedPolicy>,
        recovery: Option<&RecoveryKey>,
    ) -> Result<Opened, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let opened = match self.host.contents(&device).await.map_err(refused)? {
            Contents::Empty => self.format(spec, device, policy).await?,
            Contents::Ext4 => {
                let volume = Volume { device, formatted: false };
                Opened { volume, encryption: Encryption::Plain, key: None }
            }
            Contents::Luks => self.open(spec, device, policy, recovery).await?,
            Contents::Unknown => return Err(VolumeError::Unknown { label, device }),
        };
        let Volume { device, formatted } = &opened.volume;
        if !formatted {
            self.host.check(device).await.map_err(refused)?;
        }
        self.host.mount(device, Path::new(spec.target)).await.map_err(refused)?;
        Ok(opened)
    }

    async fn format(
        &self,
        spec: &'static VolumeSpec,
        device: PathBuf,
        policy: Option<&SignedPolicy>,
    ) -> Result<Opened, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let bytes = self.host.note(&device, true).await.map_err(refused)?;
        let opened = match policy.filter(|_| self.tpm.is_present()) {
            None => {
                self.host.format(&device, label, bytes).await.map_err(refused)?;
                let volume = Volume { device: device.clone(), formatted: true };
                Opened { volume, encryption: Encryption::Plain, key: None }
            }
            Some(policy) => {
                let created = encryption::create(&*self.host, &*self.tpm, policy, (&device, label), bytes).await;
                let (header, key) = created.map_err(|source| VolumeError::Encrypt { label, source })?;
                let mapped = self.host.map(&label.to_lowercase(), &device, &header, &key).await.map_err(refused)?;
                let bytes = header.data_bytes().expect("because a new volume has a size");
                self.host.format(&mapped, label, bytes).await.map_err(refused)?;
                let volume = Volume { device: mapped, formatted: true };
                let encryption = Encryption::Open { by: Opener::Tpm, recovery: Some(false) };
                Opened { volume, encryption, key: Some((device.clone(), key)) }
            }
        };
        self.host.note(&device, false).await.map_err(refused)?;
        Ok(opened)
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
        let (key, by) = match typed {
            Some(key) => (key, Opener::RecoveryKey),
            None => {
                let unsealed = encryption::unseal(&*self.tpm, policy, &header, &front).await;
                (unsealed.map_err(|source| locked(has_recovery, source))?, Opener::Tpm)
            }
        };
        let mapped = self.host.map(&label.to_lowercase(), &device, &header, &key).await.map_err(refused)?;
        let encryption = Encryption::Open { by, recovery: Some(has_recovery) };
        Ok(Opened { volume: Volume { device: mapped, formatted: false }, encryption, key: Some((device, key)) })
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
                    self.encryption.put(spec.target, opened.encryption);
                    self.volumes.put(spec.target, opened.volume);
                }
                Err(error) => {
                    if let VolumeError::Locked { recovery, source, .. } = &error {
                        let (why, recovery) = (story(&**source), *recovery);
                        self.encryption.put(spec.target, Encryption::Locked { why, recovery });
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
            if let Some(Encryption::Open { by, .. }) = known.get(*target) {
                self.encryption.put(target, Encryption::Open { by: *by, recovery: Some(true) });
            }
        }
        Ok(key)
    }
}

impl<H: BlockHost, T: TpmHost> Controller for VolumeController<H, T> {
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
        Ok(Outcome::Done)
    }
}
