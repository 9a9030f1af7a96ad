//! The header of an encrypted volume, LUKS2 as cryptsetup reads and writes it, as values and bytes.
//!
//! `machined/host` writes what is made here onto partitions and hands the volume's key to the kernel; `machined/controllers` decides when.
//! Nothing here opens a file or draws a random number, and bytes from a disk never panic. Format: LUKS2 On-Disk Format Specification 1.1
//! (<https://gitlab.com/cryptsetup/LUKS2-docs>).
//!
//! ```text
//! | binary header 4 KiB, JSON 12 KiB | the same again | key slot 0 | key slot 1 | key slot 2 | ... | data, from 1 MiB on |
//! ```
//!
//! All that is needed to open the volume lies in its first megabyte: who overwrites it has destroyed the volume. Secrets are random, 128
//! bits or more, so the key derivation has the least cost that LUKS2 allows; a password of a person would not be safe here.
//!
//! A change is written in three steps, each synchronised before the next: the key slot that comes, the first copy of the header, the
//! second copy. [`Header::parse`] takes the newest copy that is whole.

mod antiforensic;
mod binary;
mod error;
mod header;
mod keyslot;
mod metadata;
mod peer_token;
mod recovery_key;
mod sealed_token;
mod signed_policy;

pub use error::LuksError;
pub use header::{Change, Header, Slot, VolumeKey, Write};
pub use metadata::Token;
pub use peer_token::{
    OPEN_TOKEN, OwnPart, PEERS_MAX, PEERS_TOKEN, PeerShare, ShareId, open_token, parse_open_token, parse_peers_token,
    peers_token,
};
pub use recovery_key::RecoveryKey;
pub use sealed_token::{RECOVERY_TOKEN, SealedToken, TPM_TOKEN, recovery_token};
pub use signed_policy::{PolicyError, PolicySignature, SignedPolicy, key_pem, parse_key_pem, signatures_json};

/// Bytes before the data: two copies of the header and three key slots. Whoever reads or erases a header takes all of it.
pub const FRONT_BYTES: usize = 1024 * 1024;
/// Bytes of one sector of the data.
pub const SECTOR_BYTES: u32 = 4096;
/// The cipher of the data, as the kernel and cryptsetup name it.
pub const CIPHER: &str = "aes-xts-plain64";

/// Bytes of one copy of the header.
const HEADER_BYTES: usize = 16 * 1024;

/// A secret that opens a key slot; forgotten with its value.
pub type Secret = zeroize::Zeroizing<[u8; init_boot::tpm::SECRET_BYTES]>;

/// Draws random bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);
