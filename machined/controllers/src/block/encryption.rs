//! The keys of encrypted volumes: sealed when a volume is made, unsealed when it is opened, and recovered by a person.
//!
//! ```text
//! no header yet   secret --seal, or beside it in the clear--> token   secret --key slot--> volume key --> mapping
//! header          token --unseal, in the clear, or by peers--> secret --key slot--> volume key --> mapping
//! recovery        typed at the console ------------------------------------key slot------^
//! ```
//!
//! Volume keys stay in this process, because a recovery key can only be added with them. Must never write one anywhere, nor a secret.

use super::{BlockError, BlockHost};
use crate::tpm::{TpmAccessError, TpmHost};
use machined_luks::{
    Header, LuksError, OPEN_TOKEN, RECOVERY_TOKEN, RecoveryKey, SECTOR_BYTES, SealedToken, Secret, SignedPolicy, Slot,
    Token, VolumeKey, open_token, parse_open_token, recovery_token,
};
use machined_runtime::{Inbox, Resource};
use std::path::Path;
use zeroize::Zeroizing;

/// What opened a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// The TPM gave the secret out.
    Tpm,
    /// Somebody typed the recovery key at the console.
    RecoveryKey,
    /// A peer released its share of the secret.
    Peer,
    /// The secret lies beside the data in the clear.
    OpenKey,
    /// An earlier machined of the same start.
    Earlier,
}

/// How a volume is kept; the id is its mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Anybody with the disk reads it.
    Plain,
    /// Encrypted and open.
    Open {
        /// What opened it.
        by: Opener,
        /// Whether there is a recovery key; unknown after a restart of machined.
        recovery: Option<bool>,
        /// Who has the key.
        kept: Kept,
    },
    /// Encrypted, and nothing has opened it yet.
    Locked {
        /// Why not.
        why: String,
        /// Whether there is a recovery key that would open it.
        recovery: bool,
    },
    /// Not made, because it would have to be plain and the seed insists on encryption.
    Unmade {
        /// What is missing.
        why: String,
    },
}

/// Who has the key of a volume that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The machine's TPM, or nobody but people.
    Here,
    /// Peers of the machine.
    ByPeers {
        /// How many.
        count: usize,
        /// What is not as it should be; empty when all is well.
        note: String,
    },
    /// It lies beside the data in the clear: whoever has the disk opens it.
    InTheClear {
        /// What keeps it there, and what to do.
        why: String,
    },
}

impl Resource for Encryption {
    const KIND: &'static str = "volume encryption";
}

/// Why a volume's key cannot be had, made or added to.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The device.
    #[error("the encrypted volume cannot be read or written")]
    Block(#[from] BlockError),
    /// The header.
    #[error("the header of the encrypted volume cannot be used")]
    Header(#[from] LuksError),
    /// No TPM.
    #[error("its key is sealed in a TPM, and this machine has none")]
    NoTpm,
    /// No policy in the image.
    #[error("its key is sealed to a policy key, and the running image was built without one")]
    NoPolicy,
    /// Another policy key.
    #[error("its key is sealed to another policy key than the one that signed the running image")]
    OtherPolicy,
    /// There is no TPM key slot.
    #[error("it has no key slot that a TPM opens")]
    NoToken,
    /// The TPM.
    #[error("the TPM does not give its key out")]
    Tpm(#[source] TpmAccessError),
    /// The identity key was not read.
    #[error("its key is with peers, and this machine's identity key is not there to ask them with")]
    NoIdentity,
    /// The identity key is a TPM's.
    #[error("its key is with peers of a machine whose identity key lay on the disk; this machine's lies in a TPM")]
    IdentityElsewhere,
    /// No peer gives its share.
    #[error("waiting for a peer to release the disk key: {0}")]
    Peers(String),
    /// No peer keeps a share.
    #[error("no other control-plane machine keeps the key yet: {0}")]
    NoPeer(String),
    /// The TPM gives something else out than was sealed.
    #[error("the TPM gave out another secret than was sealed; the volume is not encrypted with it")]
    Trial,
}

impl EncryptionError {
    /// Whether peers could still release the key.
    #[must_use]
    pub fn is_with_peers(&self) -> bool {
        matches!(self, EncryptionError::Peers(_) | EncryptionError::NoIdentity)
    }
}

/// What people ask of the volumes.
#[derive(Debug)]
pub enum VolumeRequest {
    /// Opens locked volumes with the key that somebody typed at the console.
    Recover(RecoveryKey),
    /// Gives the encrypted volumes a new recovery key, in place of the one before.
    MakeRecoveryKey,
}

/// What is answered.
#[derive(Debug)]
pub enum VolumeReply {
    /// How many locked volumes the key opened.
    Recovered(usize),
    /// The new recovery key, shown to whoever asked and kept nowhere.
    Made(RecoveryKey),
    /// Nothing was done, and why.
    Refused(String),
}

/// Where requests go in.
pub type VolumeInbox = Inbox<VolumeRequest, VolumeReply>;

pub(super) fn draw<H: BlockHost>(host: &H) -> impl FnMut(&mut [u8]) {
    |bytes| host.random(bytes)
}

/// A UUID of version 4.
fn uuid<H: BlockHost>(host: &H) -> String {
    let mut bytes = [0; 16];
    host.random(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A secret that the TPM has and has shown to give back, with its token.
pub(super) async fn seal<H: BlockHost, T: TpmHost>(
    host: &H,
    tpm: &T,
    policy: &SignedPolicy,
) -> Result<(Secret, Token), EncryptionError> {
    let mut secret = Secret::default();
    host.random(&mut *secret);
    let sealed = tpm.seal(secret.clone(), policy.key.clone()).await.map_err(EncryptionError::Tpm)?;
    // A TPM that does not give it back, or a policy that does not fit, is noticed before anything is encrypted with it.
    let back = tpm.unseal(sealed.clone(), policy.clone()).await.map_err(EncryptionError::Tpm)?;
    if back != secret {
        return Err(EncryptionError::Trial);
    }
    Ok((secret, SealedToken { key: policy.key.clone(), sealed }.to_token()))
}

/// A secret that stands in its token in the clear.
pub(super) fn in_the_clear<H: BlockHost>(host: &H) -> (Secret, Token) {
    let mut secret = Secret::default();
    host.random(&mut *secret);
    let token = open_token(&secret);
    (secret, token)
}

/// A new volume of `bytes` bytes in all, which `secret` opens. Its header is on the disk before this returns.
pub(super) async fn create<H: BlockHost>(
    host: &H,
    (secret, token): (Secret, Token),
    (device, label): (&Path, &str),
    bytes: u64,
) -> Result<(Header, VolumeKey), EncryptionError> {
    let key = VolumeKey::generate(&mut draw(host));
    let front = machined_luks::FRONT_BYTES as u64;
    let data = bytes.saturating_sub(front) / u64::from(SECTOR_BYTES) * u64::from(SECTOR_BYTES);
    let mut header = Header::new(&label.to_lowercase(), &uuid(host), data, SECTOR_BYTES, &key, &mut draw(host));
    let change = header.add(&key, &*secret, token, &[], &mut draw(host))?;
    let whole = machined_luks::Write { offset: 0, bytes: Header::front(&change) };
    host.write(device, vec![whole]).await?;
    Ok((header, key))
}

/// The volume's key by the secret that lies beside it; none when none does.
pub(super) fn open_key(header: &Header, front: &[u8]) -> Option<VolumeKey> {
    header.tokens(OPEN_TOKEN).filter_map(parse_open_token).find_map(|secret| header.open(front, &*secret).ok())
}

/// The volume's key by the TPM, and the key slot that it opened.
pub(super) async fn unseal<T: TpmHost>(
    tpm: &T,
    policy: Option<&SignedPolicy>,
    header: &Header,
    front: &[u8],
) -> Result<(VolumeKey, Slot), EncryptionError> {
    let tokens = header.slot_tokens(machined_luks::TPM_TOKEN);
    let tokens: Vec<(Slot, SealedToken)> =
        tokens.filter_map(|(slot, token)| Some((slot, SealedToken::from_token(token)?))).collect();
    if tokens.is_empty() {
        return Err(EncryptionError::NoToken);
    }
    if !tpm.is_present() {
        return Err(EncryptionError::NoTpm);
    }
    let policy = policy.ok_or(EncryptionError::NoPolicy)?;
    // After sealing anew there may be two of one policy: the one of the TPM of before does not open.
    let mut failure = EncryptionError::OtherPolicy;
    for (slot, token) in tokens.into_iter().filter(|(_, token)| token.key == policy.key) {
        match tpm.unseal(token.sealed, policy.clone()).await {
            Ok(secret) => return Ok((header.open(front, &*secret)?, slot)),
            Err(error) => failure = EncryptionError::Tpm(error),
        }
    }
    Err(failure)
}

/// Whether a recovery key was made for the volume.
pub(super) fn has_recovery(header: &Header) -> bool {
    header.tokens(RECOVERY_TOKEN).next().is_some()
}

/// Puts a recovery key into the header on the disk, in place of the one before.
pub(super) async fn add_recovery<H: BlockHost>(
    host: &H,
    device: &Path,
    key: &VolumeKey,
    recovery: &RecoveryKey,
) -> Result<(), EncryptionError> {
    let mut header = Header::parse(&host.front(device).await?)?;
    let old = header.slots_of(RECOVERY_TOKEN);
    let secret: Zeroizing<String> = recovery.reveal();
    let change = header.add(key, secret.as_bytes(), recovery_token(), &old, &mut draw(host))?;
    let erased = old.into_iter().map(|slot| Header::erase(slot, &mut draw(host)));
    let all = change.into_iter().chain(erased).collect();
    Ok(host.write(device, all).await?)
}
