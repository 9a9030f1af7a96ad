//! Signatures as firmware reads them: parsed by another implementation, recomputed from the specification, verified with the
//! certificate's key.

use ::authenticode::{AuthenticodeSignature, WIN_CERT_REVISION_2_0, WIN_CERT_TYPE_PKCS_SIGNED_DATA};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::der::{OID_CONTENT_TYPE, OID_RSA, SET, algorithm, element};
use super::*;

/// Bytes of an RSA-2048 signature; it ends every signature of ours.
const SIGNATURE_BYTES: usize = 256;
const HEADER_BYTES: usize = 512;

fn keys() -> TempDir {
    let folder = tempfile::tempdir().expect("because temporary folders can be made");
    generate(folder.path(), "test").expect("because the folder is empty");
    folder
}

fn db(folder: &TempDir) -> SigningKey {
    SigningKey::load(folder.path(), "db").expect("because it was just made")
}

fn verifies(key: &SigningKey, message: &[u8], signature: &[u8]) -> bool {
    let certificate = x509_parser::parse_x509_certificate(&key.certificate).expect("because it was just made").1;
    let public = certificate.public_key().subject_public_key.data.to_vec();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(message, signature).is_ok()
}

/// A PE file with two sections, out of order in the header as the format allows.
fn pe() -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"MZ");
    put(0x3c, &[0x40]);
    put(0x40, b"PE\0\0");
    put(0x44 + 2, &[2]);
    put(0x44 + 16, &[240]);
    put(0x58, &[0x0b, 0x02]);
    put(0x58 + 33, &[0x10]);
    put(0x58 + 37, &[0x02]);
    put(0x58 + 61, &[0x02]);
    put(0x58 + 64, &[1, 2, 3, 4]);
    put(0x58 + 108, &[16]);
    for (index, (size, offset)) in [(3_u32, 520_u32), (8, 512)].into_iter().enumerate() {
        let at = 0x58 + 240 + index * 40;
        put(at + 16, &size.to_le_bytes());
        put(at + 20, &offset.to_le_bytes());
    }
    bytes.extend(b"first .second"[..8].iter());
    bytes.extend(b"abc");
    bytes
}

/// The signature's blob out of a signed file, with what the header says about it.
fn blob(signed: &[u8]) -> &[u8] {
    let entry = 0x58 + 144;
    let number =
        |at: usize| u32::from_le_bytes(signed[at..at + 4].try_into().expect("because it is four bytes")) as usize;
    let (start, length) = (number(entry), number(entry + 4));
    assert_eq!(start + length, signed.len());
    assert_eq!(start % 8, 0);
    assert_eq!(number(start), length);
    assert_eq!(signed[start + 4..start + 6], WIN_CERT_REVISION_2_0.to_le_bytes());
    assert_eq!(signed[start + 6..start + 8], WIN_CERT_TYPE_PKCS_SIGNED_DATA.to_le_bytes());
    &signed[start + 8..]
}

/// Trailing zeros align the table and belong to no signature.
fn unpadded(blob: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([blob[2], blob[3]])) + 4;
    &blob[..length]
}

#[test]
fn another_implementation_reads_the_signature_and_its_digest() {
    let folder = keys();
    let signed = sign_pe(&pe(), &db(&folder)).expect("because the file is sound");
    let signature = AuthenticodeSignature::from_bytes(unpadded(blob(&signed))).expect("because it is Authenticode");
    // The specification's steps: the header without check sum and directory entry, the sections by place, then the padding.
    let mut file = pe();
    file.resize(file.len().next_multiple_of(8), 0);
    file[0x58 + 144..0x58 + 152].fill(0);
    let expected = [&file[..0x58 + 64], &file[0x58 + 68..0x58 + 144], &file[0x58 + 152..]].concat();
    assert_eq!(signature.digest(), Sha256::digest(expected).as_slice());
    assert_eq!(signature.certificates().count(), 1);
}

#[test]
fn the_signature_is_by_the_key_of_its_certificate() {
    let folder = keys();
    let key = db(&folder);
    let signed = sign_pe(&pe(), &key).expect("because the file is sound");
    let blob = unpadded(blob(&signed));
    let (rest, signature) = blob.split_at(blob.len() - SIGNATURE_BYTES);
    let find = |needle: &[u8]| rest.windows(needle.len()).rposition(|window| window == needle);
    let start = find(OID_CONTENT_TYPE).expect("because it is a signed attribute") - 2;
    let end = find(&algorithm(OID_RSA)).expect("because the algorithm follows the attributes");
    let attributes = element(SET, &[&rest[start..end]]);
    assert!(verifies(&key, &attributes, signature));
    let kek = SigningKey::load(folder.path(), "KEK").expect("because it was just made");
    assert!(!verifies(&kek, &attributes, signature));
}

#[test]
fn each_byte_of_a_file_is_signed_but_its_check_sum() {
    let folder = keys();
    let key = db(&folder);
    let digest = |file: &[u8]| {
        let signed = sign_pe(file, &key).ok()?;
        let signature = AuthenticodeSignature::from_bytes(unpadded(blob(&signed))).expect("because it is Authenticode");
        Some(signature.digest().to_vec())
    };
    let before = digest(&pe());
    for at in (0..pe().len()).filter(|at| !(0x58 + 64..0x58 + 68).contains(at)) {
        let mut other = pe();
        other[at] ^= 1;
        assert_ne!(digest(&other), before, "byte {at} may change unnoticed");
    }
}

#[test]
fn signing_is_deterministic_and_happens_once() {
    let folder = keys();
    let key = db(&folder);
    let signed = sign_pe(&pe(), &key).expect("because the file is sound");
    assert_eq!(sign_pe(&pe(), &key).expect("because the file is sound"), signed);
    assert!(matches!(sign_pe(&signed, &key), Err(PeError::Signed)));
    let longer = [pe(), vec![0]].concat();
    assert!(matches!(sign_pe(&longer, &key), Err(PeError::Gaps)));
}

#[test]
fn variables_are_signed_by_who_may_change_them() {
    let folder = keys();
    let secure_boot = SecureBoot::load(folder.path()).expect("because it was just made");
    for (file, signer, vendor) in [
        (&secure_boot.enrolment[0], "PK", "61dfe48bca93d211aa0d00e098032b8c"),
        (&secure_boot.enrolment[1], "PK", "61dfe48bca93d211aa0d00e098032b8c"),
        (&secure_boot.enrolment[2], "KEK", "cbb219d73a3d9645a3bcdad00e67656f"),
    ] {
        let key = SigningKey::load(folder.path(), signer).expect("because it was just made");
        let length = u32::from_le_bytes(file.bytes[16..20].try_into().expect("because it is four bytes")) as usize;
        let (head, list) = file.bytes.split_at(16 + length);
        let signature = &head[head.len() - SIGNATURE_BYTES..];
        let name: Vec<u8> = file.variable.bytes().flat_map(|byte| [byte, 0]).collect();
        let vendor = hex::decode(vendor).expect("because it is hexadecimal");
        let signed = [&name[..], &vendor, &[0x27, 0, 0, 0], &file.bytes[..16], list].concat();
        assert!(verifies(&key, &signed, signature), "{} is not signed by {signer}", file.variable);
        // EDK2 looks for SHA-256 at a fixed place: lengths of two bytes, digest algorithm with NULL.
        let data = &head[16 + 24..];
        assert_eq!((data[1], &data[13..22]), (0x82, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1][..]));
        let subject = SigningKey::load(folder.path(), file.variable).expect("because it was just made");
        assert!(list.ends_with(&subject.certificate));
        assert_eq!(list.len(), 28 + 16 + subject.certificate.len());
    }
}

#[test]
fn private_keys_are_for_their_owner_alone_and_never_replaced() {
    let folder = keys();
    for name in NAMES {
        let path = folder.path().join(format!("{name}.key"));
        let mode = std::fs::metadata(path).expect("because it was just made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(matches!(generate(folder.path(), "test"), Err(SecureBootError::Exists(_))));
}
