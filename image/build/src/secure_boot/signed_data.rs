//! `SignedData` of PKCS#7 (RFC 2315) with one signer: the shape in which UEFI takes signatures.

use sha2::{Digest as _, Sha256};

use super::der::{
    CONTEXT_0, INTEGER, OCTET_STRING, OID_CONTENT_TYPE, OID_DATA, OID_MESSAGE_DIGEST, OID_RSA, OID_SHA256,
    OID_SIGNED_DATA, SEQUENCE, SET, algorithm, element,
};
use super::{SecureBootError, SigningKey};

const VERSION_1: &[u8] = &[INTEGER, 1, 1];

/// A signature beside its content, over the content's bytes as they are: what authenticated variables carry.
pub(super) fn detached(content: &[u8], key: &SigningKey) -> Result<Vec<u8>, SecureBootError> {
    let signer = signer_info(key, &[], key.sign(content)?);
    Ok(signed_data(&element(SEQUENCE, &[OID_DATA]), &signer, key))
}

/// A signature around its content, with the content's type and digest as signed attributes: what Authenticode is. `content` is the
/// inside of a SEQUENCE.
pub(super) fn around(content_type: &[u8], content: &[u8], key: &SigningKey) -> Result<Vec<u8>, SecureBootError> {
    let attribute = |oid: &[u8], value: &[u8]| element(SEQUENCE, &[oid, &element(SET, &[value])]);
    let digest = element(OCTET_STRING, &[&Sha256::digest(content)]);
    let mut attributes = [attribute(OID_CONTENT_TYPE, content_type), attribute(OID_MESSAGE_DIGEST, &digest)];
    // DER orders the members of a set.
    attributes.sort();
    let attributes = attributes.concat();
    // They are signed as the set that they are, and carried under a tag of the signer's.
    let signature = key.sign(&element(SET, &[&attributes]))?;
    let signer = signer_info(key, &element(CONTEXT_0, &[&attributes]), signature);
    let inner = element(SEQUENCE, &[content]);
    let info = element(SEQUENCE, &[content_type, &element(CONTEXT_0, &[&inner])]);
    let data = signed_data(&info, &signer, key);
    Ok(element(SEQUENCE, &[OID_SIGNED_DATA, &element(CONTEXT_0, &[&data])]))
}

fn signed_data(content_info: &[u8], signer: &[u8], key: &SigningKey) -> Vec<u8> {
    let digests = element(SET, &[&algorithm(OID_SHA256)]);
    let certificates = element(CONTEXT_0, &[&key.certificate]);
    element(SEQUENCE, &[VERSION_1, &digests, content_info, &certificates, &element(SET, &[signer])])
}

fn signer_info(key: &SigningKey, attributes: &[u8], signature: Vec<u8>) -> Vec<u8> {
    let name = element(SEQUENCE, &[&key.issuer, &element(INTEGER, &[&key.serial])]);
    let signature = element(OCTET_STRING, &[&signature]);
    element(SEQUENCE, &[VERSION_1, &name, &algorithm(OID_SHA256), attributes, &algorithm(OID_RSA), &signature])
}
