//! The files that systemd-boot enrols from `loader/keys/auto`: authenticated variables (UEFI 2.10, 8.2.2 and 32.4.1) that each hold one
//! certificate.

use super::{SecureBootError, SigningKey, signed_data};

/// GUIDs as they lie in memory.
const GLOBAL_VARIABLE: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
const IMAGE_SECURITY_DATABASE: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];
const CERT_X509: [u8; 16] =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
const CERT_TYPE_PKCS7: [u8; 16] =
    [0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7];
/// Who put a certificate into a list; informational. Ours, made once.
const OWNER: [u8; 16] =
    [0xca, 0x12, 0x4e, 0x5b, 0x0f, 0x1d, 0x4d, 0x51, 0x9a, 0x70, 0x5b, 0x1e, 0x0f, 0x0f, 0x0f, 0x01];
/// Non-volatile, boot services, run time, time-based authenticated write.
const ATTRIBUTES: u32 = 0x1 | 0x2 | 0x4 | 0x20;
/// The time of the write: 2026-01-01 00:00:00. Firmware only refuses times before the last write's, and these are first writes.
const TIME: [u8; 16] = [0xea, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// WIN_CERTIFICATE's revision and the type that names itself by GUID.
const REVISION: u16 = 0x0200;
const TYPE_EFI_GUID: u16 = 0x0ef1;
/// Bytes in front of the signature: WIN_CERTIFICATE and the GUID.
const HEAD_BYTES: usize = 8 + 16;

/// One file for systemd-boot to enrol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentFile {
    /// The variable: PK, KEK or db.
    pub variable: &'static str,
    /// The file's content.
    pub bytes: Vec<u8>,
}

impl EnrolmentFile {
    /// The file's name in the folder of keys and on the ESP.
    pub fn file_name(variable: &str) -> String {
        format!("{variable}.auth")
    }
}

/// Writes `certificate` as the value of a variable, signed by a key that may change it.
pub(super) fn encode(variable: &str, certificate: &[u8], signer: &SigningKey) -> Result<Vec<u8>, SecureBootError> {
    let list = signature_list(certificate);
    let vendor = if variable == "db" { IMAGE_SECURITY_DATABASE } else { GLOBAL_VARIABLE };
    let name: Vec<u8> = variable.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let content = [&name[..], &vendor, &ATTRIBUTES.to_le_bytes(), &TIME, &list].concat();
    let signature = signed_data::detached(&content, signer)?;
    let length = length(HEAD_BYTES + signature.len()).to_le_bytes();
    let head = [&length[..], &REVISION.to_le_bytes(), &TYPE_EFI_GUID.to_le_bytes(), &CERT_TYPE_PKCS7].concat();
    Ok([&TIME[..], &head, &signature, &list].concat())
}

/// An EFI_SIGNATURE_LIST with one certificate.
fn signature_list(certificate: &[u8]) -> Vec<u8> {
    let entry = length(OWNER.len() + certificate.len());
    let head = length(CERT_X509.len() + 3 * 4);
    let sizes = [head + entry, 0, entry].map(u32::to_le_bytes).concat();
    [&CERT_X509[..], &sizes, &OWNER, certificate].concat()
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("because certificates and signatures have a few kilobytes")
}
