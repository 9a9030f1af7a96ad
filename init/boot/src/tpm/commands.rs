//! The commands, each one function that knows its request and its response.

use super::attestation::{AttestationPublic, EcdsaSignature, template};
use super::pcr::{PCRS_MAX, read_selection, read_values, write_selection};
use super::wire::{Reader, Writer};
use super::{Fault, KeyHandle, NvIndex, Pcr, PcrValue, TAG_NO_SESSIONS, TAG_SESSIONS, TpmCommand};

const NV_UNDEFINE_SPACE: u32 = 0x122;
const NV_DEFINE_SPACE: u32 = 0x12a;
pub(super) const CREATE_PRIMARY: u32 = 0x131;
const NV_INCREMENT: u32 = 0x134;
const NV_READ: u32 = 0x14e;
const QUOTE: u32 = 0x158;
const FLUSH_CONTEXT: u32 = 0x165;
const NV_READ_PUBLIC: u32 = 0x169;
const PCR_READ: u32 = 0x17e;
const PCR_EXTEND: u32 = 0x182;

/// The hierarchy of the machine's owner. Its password is empty unless somebody set one.
pub(super) const OWNER: u32 = 0x4000_0001;
/// The session that carries a password.
const PASSWORD_SESSION: u32 = 0x4000_0009;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;

/// A counter that machined writes and reads with an empty password. Without dictionary attack protection: there is nothing to guess,
/// and a locked-out TPM must not stop the machine.
const COUNTER_ATTRIBUTES: u32 = OWNER_WRITE | AUTH_WRITE | TYPE_COUNTER | OWNER_READ | AUTH_READ | NO_DA;
const OWNER_WRITE: u32 = 1 << 1;
const AUTH_WRITE: u32 = 1 << 2;
const TYPE_COUNTER: u32 = 1 << 4;
const OWNER_READ: u32 = 1 << 17;
const AUTH_READ: u32 = 1 << 18;
const NO_DA: u32 = 1 << 25;
/// Set by the TPM with the first increment.
const WRITTEN: u32 = 1 << 29;
/// Bytes of a counter.
const COUNTER_BYTES: u16 = 8;

/// What is known of an NV index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvPublic {
    attributes: u32,
    bytes: u16,
}

impl NvPublic {
    /// Whether it is a counter as [`nv_define_counter`] makes it.
    #[must_use]
    pub fn is_our_counter(self) -> bool {
        self.attributes & !WRITTEN == COUNTER_ATTRIBUTES && self.bytes == COUNTER_BYTES
    }

    /// Whether it was ever incremented; before, it has no value.
    #[must_use]
    pub fn is_written(self) -> bool {
        self.attributes & WRITTEN != 0
    }
}

/// A key that was made for attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationKey {
    /// While it is loaded.
    pub handle: KeyHandle,
    /// Its public part.
    pub public: AttestationPublic,
}

/// What the TPM signed, not yet parsed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawQuote {
    /// The bytes that are signed; [`super::Quote::parse`] reads them.
    pub attested: Vec<u8>,
    /// By the attestation key.
    pub signature: EcdsaSignature,
}

pub(super) fn plain(code: u32, body: Writer) -> Vec<u8> {
    let body = body.done();
    let length = u32::try_from(10 + body.len()).expect("because a command is some hundred bytes long");
    Writer::default().u16(TAG_NO_SESSIONS).u32(length).u32(code).bytes(&body).done()
}

/// A command whose first handle is authorised by an empty password.
pub(super) fn authorised(code: u32, handles: &[u32], parameters: Writer) -> Vec<u8> {
    authorised_by(PASSWORD_SESSION, code, handles, parameters)
}

/// A command whose first handle is authorised by a session that proves nothing by itself, and ends with the command.
pub(super) fn authorised_by(session: u32, code: u32, handles: &[u32], parameters: Writer) -> Vec<u8> {
    let handles = handles.iter().fold(Writer::default(), |writer, handle| writer.u32(*handle));
    let session = Writer::default().u32(session).sized(&[]).u8(0).sized(&[]).done();
    let session_length = u32::try_from(session.len()).expect("because a session is nine bytes long");
    let body = handles.u32(session_length).bytes(&session).bytes(&parameters.done()).done();
    let length = u32::try_from(10 + body.len()).expect("because a command is some hundred bytes long");
    Writer::default().u16(TAG_SESSIONS).u32(length).u32(code).bytes(&body).done()
}

fn nothing(_handle: u32, _reader: &mut Reader<'_>) -> Result<(), Fault> {
    Ok(())
}

/// What an NV index is.
#[must_use]
pub fn nv_read_public(index: NvIndex) -> TpmCommand<NvPublic> {
    TpmCommand {
        name: "TPM2_NV_ReadPublic",
        bytes: plain(NV_READ_PUBLIC, Writer::default().u32(index.0)),
        sessions: false,
        makes: false,
        decode: |_, reader| {
            let mut public = Reader::new(reader.sized()?);
            let (_index, _name_algorithm, attributes) = (public.u32()?, public.u16()?, public.u32()?);
            let (_policy, bytes) = (public.sized()?, public.u16()?);
            public.end()?;
            reader.sized()?;
            Ok(NvPublic { attributes, bytes })
        },
    }
}

/// Makes a counter. Its first value is above every value that any counter of this TPM ever had, one that was removed included.
#[must_use]
pub fn nv_define_counter(index: NvIndex) -> TpmCommand<()> {
    let public = Writer::default().u32(index.0).u16(ALG_SHA256).u32(COUNTER_ATTRIBUTES).sized(&[]).u16(COUNTER_BYTES);
    TpmCommand {
        name: "TPM2_NV_DefineSpace",
        bytes: authorised(NV_DEFINE_SPACE, &[OWNER], Writer::default().sized(&[]).sized(&public.done())),
        sessions: true,
        makes: false,
        decode: nothing,
    }
}

/// Removes an NV index, as the owner may.
#[must_use]
pub fn nv_undefine(index: NvIndex) -> TpmCommand<()> {
    TpmCommand {
        name: "TPM2_NV_UndefineSpace",
        bytes: authorised(NV_UNDEFINE_SPACE, &[OWNER, index.0], Writer::default()),
        sessions: true,
        makes: false,
        decode: nothing,
    }
}

/// Adds one to a counter, for ever.
#[must_use]
pub fn nv_increment(index: NvIndex) -> TpmCommand<()> {
    TpmCommand {
        name: "TPM2_NV_Increment",
        bytes: authorised(NV_INCREMENT, &[index.0, index.0], Writer::default()),
        sessions: true,
        makes: false,
        decode: nothing,
    }
}

/// The value of a counter.
#[must_use]
pub fn nv_read_counter(index: NvIndex) -> TpmCommand<u64> {
    TpmCommand {
        name: "TPM2_NV_Read",
        bytes: authorised(NV_READ, &[index.0, index.0], Writer::default().u16(COUNTER_BYTES).u16(0)),
        sessions: true,
        makes: false,
        decode: |_, reader| {
            let mut value = Reader::new(reader.sized()?);
            let counter = value.u64()?;
            value.end()?;
            Ok(counter)
        },
    }
}

/// Extends a register of the SHA-256 bank with a digest.
#[must_use]
pub fn pcr_extend(pcr: Pcr, digest: &[u8; 32]) -> TpmCommand<()> {
    TpmCommand {
        name: "TPM2_PCR_Extend",
        bytes: authorised(
            PCR_EXTEND,
            &[u32::from(pcr.number())],
            Writer::default().u32(1).u16(ALG_SHA256).bytes(digest),
        ),
        sessions: true,
        makes: false,
        decode: nothing,
    }
}

/// Values of registers, with those that the TPM has; an answer holds at most eight.
///
/// # Panics
/// When more than eight are asked for.
#[must_use]
pub fn pcr_read(pcrs: &[Pcr]) -> TpmCommand<Vec<(Pcr, PcrValue)>> {
    assert!(pcrs.len() <= PCRS_MAX, "a TPM answers with at most {PCRS_MAX} registers");
    TpmCommand {
        name: "TPM2_PCR_Read",
        bytes: plain(PCR_READ, write_selection(Writer::default(), pcrs)),
        sessions: false,
        makes: false,
        decode: |_, reader| {
            let _updates = reader.u32()?;
            let (selected, values) = (read_selection(reader)?, read_values(reader)?);
            if selected.len() != values.len() {
                return Err(Fault::Malformed("registers and values differ in number"));
            }
            Ok(selected.into_iter().zip(values).collect())
        },
    }
}

/// Makes the attestation key: a P-256 key of the owner's hierarchy that signs only what the TPM says about itself. Until the TPM is
/// cleared it is the same key each time, so nothing needs to be stored.
#[must_use]
pub fn create_attestation_key() -> TpmCommand<AttestationKey> {
    let sensitive = Writer::default().sized(&[]).sized(&[]).done();
    let parameters = Writer::default().sized(&sensitive).sized(&template()).sized(&[]).u32(0);
    TpmCommand {
        name: "TPM2_CreatePrimary",
        bytes: authorised(CREATE_PRIMARY, &[OWNER], parameters),
        sessions: true,
        makes: true,
        decode: |handle, reader| {
            let public = AttestationPublic::read(reader.sized()?)?;
            let (_creation, _creation_hash) = (reader.sized()?, reader.sized()?);
            let (_tag, _hierarchy, _ticket, _name) = (reader.u16()?, reader.u32()?, reader.sized()?, reader.sized()?);
            Ok(AttestationKey { handle: KeyHandle(handle), public })
        },
    }
}

/// Signs the values of registers together with a nonce.
///
/// # Panics
/// When the nonce is longer than [`super::NONCE_BYTES_MAX`].
#[must_use]
pub fn quote(key: KeyHandle, nonce: &[u8], pcrs: &[Pcr]) -> TpmCommand<RawQuote> {
    assert!(nonce.len() <= super::NONCE_BYTES_MAX, "a nonce has at most {} bytes", super::NONCE_BYTES_MAX);
    TpmCommand {
        name: "TPM2_Quote",
        bytes: authorised(QUOTE, &[key.0], write_selection(Writer::default().sized(nonce).u16(ALG_NULL), pcrs)),
        sessions: true,
        makes: false,
        decode: |_, reader| {
            let attested = reader.sized()?.to_vec();
            Ok(RawQuote { attested, signature: EcdsaSignature::read(reader)? })
        },
    }
}

/// Takes a key out of the TPM again, which has room for a few.
#[must_use]
pub fn flush(key: KeyHandle) -> TpmCommand<()> {
    TpmCommand {
        name: "TPM2_FlushContext",
        bytes: plain(FLUSH_CONTEXT, Writer::default().u32(key.0)),
        sessions: false,
        makes: false,
        decode: nothing,
    }
}
