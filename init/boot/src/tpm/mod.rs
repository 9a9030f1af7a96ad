//! The few TPM 2.0 commands that a machine needs, as bytes: built here, and their responses parsed here.
//!
//! `machined/host` sends them to the kernel's `/dev/tpmrm0`; `machined/access` parses what a TPM signed; PID 1 may open disks with them
//! later, without tokio. Nothing here talks to a TPM. A response comes from a chip on a bus that somebody may hold: it is parsed
//! whole and bounded, or refused. Layouts are from the TPM 2.0 Library, parts 2 and 3
//! (<https://trustedcomputinggroup.org/resource/tpm-library-specification/>).

mod attestation;
mod commands;
mod keys;
mod pcr;
mod seal;
mod wire;

pub use attestation::{AttestationPublic, EcdsaSignature, Quote};
pub use commands::{
    AttestationKey, NvPublic, RawQuote, create_attestation_key, flush, nv_define_counter, nv_increment,
    nv_read_counter, nv_read_public, nv_undefine, pcr_extend, pcr_read, quote,
};
pub use keys::{PRIVATE_BYTES_MAX, SigningPublic, WrappedKey, create_signing_key, create_storage_key, load_key, sign};
pub use pcr::{PCR_BYTES, PCR_COUNT, Pcr, PcrValue, pcr_digest};
pub use seal::{
    Created, MODULUS_BYTES, PolicyKey, PolicySession, SECRET_BYTES, Sealed, Ticket, create_sealed, load_policy_key,
    load_sealed, pcr_policy, policy_authorize, policy_pcr, start_policy_session, unseal, verify_policy,
};

use thiserror::Error;
use wire::Reader;

/// The longest command or response, in bytes: the buffer of the kernel's driver (`TPM_BUFSIZE`).
pub const TPM_MESSAGE_BYTES_MAX: usize = 4096;
/// The longest nonce of a quote, in bytes: a TPM takes at least one SHA-256 value.
pub const NONCE_BYTES_MAX: usize = 32;
/// The NV index of the machine's counter; 0x01800000 to 0x01bfffff belong to the TPM's owner, which here is the machine.
pub const COUNTER_INDEX: NvIndex = NvIndex(0x0180_ca10);

/// A response's fixed part: tag, length, code.
pub const RESPONSE_HEADER_BYTES: usize = 10;

/// The longest nonce of a session, in bytes: a hash of at most 512 bits.
const SESSION_NONCE_BYTES_MAX: usize = 64;
const TAG_NO_SESSIONS: u16 = 0x8001;
const TAG_SESSIONS: u16 = 0x8002;

/// A place in the TPM's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvIndex(pub u32);

/// A key that is loaded into the TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHandle(pub u32);

/// Why a TPM's answer cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TpmError {
    /// The TPM said no.
    #[error("the TPM refused {command} with code {code:#x}")]
    Refused {
        /// The command's name in the specification.
        command: &'static str,
        /// Its response code.
        code: u32,
    },
    /// It ends too early, or a length in it leads beyond its end.
    #[error("the TPM's answer to {command} is cut off")]
    CutOff {
        /// The command's name in the specification.
        command: &'static str,
    },
    /// It holds something else than the specification says.
    #[error("the TPM's answer to {command} is not well formed: {what}")]
    Malformed {
        /// The command's name in the specification.
        command: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl TpmError {
    /// Whether a command failed because the NV index or the key that it names does not exist (`TPM_RC_HANDLE`).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        // Format one: bits 0 to 5 and 7 are the error, the others say which handle was meant.
        const RC_HANDLE: u32 = 0x08b;
        matches!(self, TpmError::Refused { code, .. } if code & 0xff == RC_HANDLE && code & !0xfff == 0)
    }

    /// Whether a key cannot be loaded because another TPM wrapped it, or this one before it was cleared (`TPM_RC_INTEGRITY`).
    #[must_use]
    pub fn is_foreign_key(&self) -> bool {
        // Format one, as above; bit 6 says that a parameter was meant.
        const RC_INTEGRITY: u32 = 0x09f;
        matches!(self, TpmError::Refused { code, .. } if code & 0xbf == RC_INTEGRITY && code & !0xfff == 0)
    }
}

/// What parsing of one structure comes to; the caller knows which command it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    CutOff,
    Malformed(&'static str),
}

impl Fault {
    fn of(self, command: &'static str) -> TpmError {
        match self {
            Fault::CutOff => TpmError::CutOff { command },
            Fault::Malformed(what) => TpmError::Malformed { command, what },
        }
    }
}

/// A command with what is needed to understand its response.
pub struct TpmCommand<T> {
    name: &'static str,
    bytes: Vec<u8>,
    sessions: bool,
    /// The response begins with the handle of what was made.
    makes: bool,
    decode: fn(u32, &mut Reader<'_>) -> Result<T, Fault>,
}

impl<T> TpmCommand<T> {
    /// Its name in the specification.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What to send.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Understands a whole response.
    ///
    /// # Errors
    /// When the TPM refused, or the response is not exactly what the specification says.
    pub fn decode(&self, response: &[u8]) -> Result<T, TpmError> {
        self.parse(response).map_err(|fault| fault.of(self.name))?.map_err(|code| {
            let command = self.name;
            TpmError::Refused { command, code }
        })
    }

    /// The outer error is a malformed response, the inner one the TPM's refusal.
    fn parse(&self, response: &[u8]) -> Result<Result<T, u32>, Fault> {
        if response.len() > TPM_MESSAGE_BYTES_MAX {
            return Err(Fault::Malformed("it is longer than a TPM's buffer"));
        }
        let mut reader = Reader::new(response);
        let (tag, length, code) = (reader.u16()?, reader.u32()?, reader.u32()?);
        if length as usize != response.len() {
            return Err(Fault::Malformed("its length field differs from its length"));
        }
        if code != 0 {
            return Ok(Err(code));
        }
        if tag != if self.sessions { TAG_SESSIONS } else { TAG_NO_SESSIONS } {
            return Err(Fault::Malformed("its tag is not the command's"));
        }
        let handle = if self.makes { reader.u32()? } else { 0 };
        if !self.sessions {
            let answer = (self.decode)(handle, &mut reader)?;
            return reader.end().map(|()| Ok(answer));
        }
        let length = reader.u32()? as usize;
        let mut parameters = Reader::new(reader.take(length)?);
        let answer = (self.decode)(handle, &mut parameters)?;
        parameters.end()?;
        // A password session answers with an empty nonce, one of a policy with a nonce of its own; neither has a proof to check.
        let (nonce, _attributes, proof) = (reader.sized()?, reader.u8()?, reader.sized()?);
        if nonce.len() > SESSION_NONCE_BYTES_MAX || !proof.is_empty() {
            return Err(Fault::Malformed("a session without a key proves something"));
        }
        reader.end().map(|()| Ok(answer))
    }
}

/// The length of the response that begins with these bytes; none while the header is not whole.
#[must_use]
pub fn response_length(begin: &[u8]) -> Option<usize> {
    let header = begin.get(..RESPONSE_HEADER_BYTES)?;
    Some(u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize)
}

/// A point of P-256 as libraries that check signatures want it.
fn uncompressed(x: &[u8; 32], y: &[u8; 32]) -> [u8; 65] {
    let mut point = [4; 65];
    point[1..33].copy_from_slice(x);
    point[33..].copy_from_slice(y);
    point
}

#[cfg(test)]
mod tests;
