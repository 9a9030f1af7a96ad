//! Authenticode: a signature inside of the PE file that it signs (Microsoft, "Windows Authenticode Portable Executable Signature
//! Format"), which is what UEFI firmware verifies before it starts a file.

use sha2::{Digest as _, Sha256};

use super::der::{BIT_STRING, CONTEXT_0, OCTET_STRING, OID_SHA256, SEQUENCE, algorithm, element};
use super::{SecureBootError, SigningKey, signed_data};
use crate::uki::Header;

/// SPC_INDIRECT_DATA_OBJID and SPC_PE_IMAGE_DATA_OBJID.
const OID_INDIRECT_DATA: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
const OID_PE_IMAGE: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];
/// What stands where a file's name would: the specification's own word.
const OBSOLETE: &str = "<<<Obsolete>>>";
/// Alignment of the certificate table and its entries.
const ALIGN_BYTES: usize = 8;
/// Bytes of one data directory entry, and where in the optional header the check sum and the certificate table's entry are.
const DIRECTORY_BYTES: usize = 8;
const CHECK_SUM: usize = 64;
const CERTIFICATE_ENTRY: usize = 4;
const CERTIFICATES: usize = 112 + CERTIFICATE_ENTRY * DIRECTORY_BYTES;
/// WIN_CERT_REVISION_2_0 and WIN_CERT_TYPE_PKCS_SIGNED_DATA.
const REVISION: u16 = 0x0200;
const PKCS_SIGNED_DATA: u16 = 0x0002;
/// Bytes in front of the signature in its entry.
const ENTRY_HEAD_BYTES: usize = 8;

/// Why a file cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum PeError {
    /// Not a PE file that firmware starts.
    #[error(transparent)]
    Header(#[from] crate::uki::UkiError),
    /// It carries a signature.
    #[error("the file is signed already; take the one without a signature")]
    Signed,
    /// No place to say where the signature is.
    #[error("the file's header has no place for a certificate table")]
    NoDirectory,
    /// Bytes that no section holds would stay unsigned.
    #[error("the sections of the file do not follow each other, so not all of it would be signed")]
    Gaps,
    /// The key.
    #[error(transparent)]
    Key(#[from] SecureBootError),
}

/// Signs a PE file: the file with a certificate table at its end.
///
/// # Errors
/// When it is no PE file, signed already, or the key cannot sign.
pub fn sign_pe(file: &[u8], key: &SigningKey) -> Result<Vec<u8>, PeError> {
    let header = Header::parse(file)?;
    let entry = header.optional() + CERTIFICATES;
    if header.directories(file)? <= CERTIFICATE_ENTRY {
        return Err(PeError::NoDirectory);
    }
    let occupied = file.get(entry..entry + DIRECTORY_BYTES).ok_or(PeError::Gaps)?;
    if occupied.iter().any(|byte| *byte != 0) {
        return Err(PeError::Signed);
    }
    if header.end_of_raw_data(file)? != Some(file.len()) {
        return Err(PeError::Gaps);
    }
    let mut signed = file.to_vec();
    signed.resize(file.len().next_multiple_of(ALIGN_BYTES), 0);
    let digest = digest(&signed, &header);
    let signature = signed_data::around(OID_INDIRECT_DATA, &indirect_data(&digest), key)?;
    let (start, length) = (signed.len(), (ENTRY_HEAD_BYTES + signature.len()).next_multiple_of(ALIGN_BYTES));
    let number = |value: usize| u32::try_from(value).map_err(|_| PeError::Header(crate::uki::UkiError::TooLarge));
    let directory = [number(start)?.to_le_bytes(), number(length)?.to_le_bytes()].concat();
    signed[entry..entry + DIRECTORY_BYTES].copy_from_slice(&directory);
    signed.extend(number(length)?.to_le_bytes());
    signed.extend(REVISION.to_le_bytes());
    signed.extend(PKCS_SIGNED_DATA.to_le_bytes());
    signed.extend(signature);
    signed.resize(start + length, 0);
    Ok(signed)
}

/// The digest of all that is signed: the file but for its check sum and the place of its signature.
fn digest(file: &[u8], header: &Header) -> [u8; 32] {
    let (sum, entry) = (header.optional() + CHECK_SUM, header.optional() + CERTIFICATES);
    let mut hash = Sha256::new();
    hash.update(&file[..sum]);
    hash.update(&file[sum + 4..entry]);
    hash.update(&file[entry + DIRECTORY_BYTES..]);
    hash.finalize().into()
}

/// The inside of `SpcIndirectDataContent`: what kind of file, and its digest.
fn indirect_data(digest: &[u8; 32]) -> Vec<u8> {
    let name: Vec<u8> = OBSOLETE.encode_utf16().flat_map(u16::to_be_bytes).collect();
    // SpcLink, third choice (a file); SpcString, first choice (Unicode).
    let link = element(0xa2, &[&element(0x80, &[&name])]);
    let image = element(SEQUENCE, &[&element(BIT_STRING, &[&[0]]), &element(CONTEXT_0, &[&link])]);
    let data = element(SEQUENCE, &[OID_PE_IMAGE, &image]);
    let digest = element(SEQUENCE, &[&algorithm(OID_SHA256), &element(OCTET_STRING, &[digest])]);
    [data, digest].concat()
}
