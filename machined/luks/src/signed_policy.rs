//! What a unified kernel image brings of its policy: the public half of the policy key, and signatures over what PCR 11 may be.
//!
//! The image builder writes both into the image as the sections `.pcrpkey` and `.pcrsig`, systemd's stub hands them to the initramfs, and the
//! TPM judges them. Forms: systemd-measure(1), systemd-stub(7).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use init_boot::POLICY_PART_BYTES_MAX;
use init_boot::tpm::{MODULUS_BYTES, PolicyKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Characters of a line of base 64 in PEM.
const PEM_LINE: usize = 64;
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";
/// The register that policies are about.
const UKI_PCR: u8 = 11;

/// Why an image's policy cannot be used.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The key is of another kind.
    #[error("the policy key is no RSA key of 2048 bits with the exponent 65537, as PEM")]
    Key,
    /// The signatures cannot be read.
    #[error("the signatures of the policy are not in systemd's form")]
    Signatures(#[source] serde_json::Error),
    /// Too long.
    #[error("a part of the policy has {bytes} bytes, at most {POLICY_PART_BYTES_MAX} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// One signature, as it stands in JSON.
#[derive(Serialize, Deserialize)]
struct Entry {
    pcrs: Vec<u8>,
    pkfp: String,
    pol: String,
    sig: String,
}

/// All of them, by the bank that they are for.
#[derive(Serialize, Deserialize)]
struct Entries {
    #[serde(default)]
    sha256: Vec<Entry>,
}

/// The running image's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPolicy {
    /// The key that signed it.
    pub key: PolicyKey,
    signatures: Vec<PolicySignature>,
}

/// That the register may be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySignature {
    /// As [`init_boot::tpm::pcr_policy`] makes it for PCR 11.
    pub policy: [u8; 32],
    /// RSA with PKCS#1 v1.5 and SHA-256.
    pub signature: [u8; MODULUS_BYTES],
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    init_boot::tpm::PcrValue::parse(text).map(|value| *value.as_bytes())
}

/// The key as PEM: the section `.pcrpkey`.
#[must_use]
pub fn key_pem(key: &PolicyKey) -> String {
    let text = STANDARD.encode(key.to_der());
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(PEM_LINE)
        .map(|line| std::str::from_utf8(line).expect("because base 64 is ASCII"))
        .collect();
    format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", lines.join("\n"))
}

/// Reads a key from PEM.
///
/// # Errors
/// When it is another kind of key.
pub fn parse_key_pem(pem: &[u8]) -> Result<PolicyKey, PolicyError> {
    if pem.len() > POLICY_PART_BYTES_MAX {
        return Err(PolicyError::TooLong { bytes: pem.len() });
    }
    let text =
        std::str::from_utf8(pem).map_err(|_| PolicyError::Key)?.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let body = text.strip_prefix(PEM_BEGIN).and_then(|rest| rest.strip_suffix(PEM_END)).ok_or(PolicyError::Key)?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(body).ok().and_then(|der| PolicyKey::from_der(&der)).ok_or(PolicyError::Key)
}

/// The signatures as JSON: the section `.pcrsig`.
#[must_use]
pub fn signatures_json(key: &PolicyKey, signatures: &[PolicySignature]) -> String {
    let entry = |signature: &PolicySignature| Entry {
        pcrs: vec![UKI_PCR],
        pkfp: hex(&key.fingerprint()),
        pol: hex(&signature.policy),
        sig: STANDARD.encode(signature.signature),
    };
    let entries = Entries { sha256: signatures.iter().map(entry).collect() };
    serde_json::to_string(&entries).expect("because it holds numbers and texts")
}

impl SignedPolicy {
    /// Reads both parts. Signatures for other registers or by other keys are passed over; that the others are good, the TPM checks.
    ///
    /// # Errors
    /// When one of both cannot be read.
    pub fn parse(key: &[u8], signatures: &[u8]) -> Result<Self, PolicyError> {
        let key = parse_key_pem(key)?;
        if signatures.len() > POLICY_PART_BYTES_MAX {
            return Err(PolicyError::TooLong { bytes: signatures.len() });
        }
        let end = signatures.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let entries: Entries = serde_json::from_slice(&signatures[..end]).map_err(PolicyError::Signatures)?;
        let fingerprint = hex(&key.fingerprint());
        let usable = entries.sha256.iter().filter(|entry| entry.pcrs == [UKI_PCR] && entry.pkfp == fingerprint);
        let signatures = usable.filter_map(|entry| {
            let signature = STANDARD.decode(&entry.sig).ok()?.try_into().ok()?;
            Some(PolicySignature { policy: unhex(&entry.pol)?, signature })
        });
        Ok(SignedPolicy { signatures: signatures.collect(), key })
    }

    /// The signature over this policy; none when the key did not sign it for this image.
    #[must_use]
    pub fn signature(&self, policy: &[u8; 32]) -> Option<&PolicySignature> {
        self.signatures.iter().find(|signature| signature.policy == *policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PolicyKey {
        let der =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policy-key.der")).expect("because it is kept");
        PolicyKey::from_der(&der).expect("because openssl made it")
    }

    #[test]
    fn both_parts_are_read_as_they_are_written() {
        let signature = PolicySignature { policy: [3; 32], signature: [9; MODULUS_BYTES] };
        let (pem, json) = (key_pem(&key()), signatures_json(&key(), std::slice::from_ref(&signature)));
        assert!(json.starts_with(r#"{"sha256":[{"pcrs":[11],"pkfp":""#), "{json}");
        assert!(pem.lines().all(|line| line.len() <= 64));
        let read = SignedPolicy::parse(pem.as_bytes(), json.as_bytes()).expect("because it is whole");
        assert_eq!((read.signature(&[3; 32]), read.signature(&[4; 32])), (Some(&signature), None));
        // The stub hands sections on with the zeros behind them.
        let padded = [pem.as_bytes(), &[0; 9]].concat();
        assert_eq!(
            SignedPolicy::parse(&padded, &[json.as_bytes(), &[0; 9]].concat()).expect("because it is whole"),
            read
        );
    }

    #[test]
    fn what_is_for_another_register_or_by_another_key_is_passed_over() {
        let signature = PolicySignature { policy: [3; 32], signature: [9; MODULUS_BYTES] };
        let (pem, json) = (key_pem(&key()), signatures_json(&key(), &[signature]));
        let fingerprint = hex(&key().fingerprint());
        for (from, to) in
            [("[11]", "[11,12]"), (fingerprint.as_str(), "00"), ("0303", "03"), ("\"sha256\"", "\"sha1\"")]
        {
            let other = json.replacen(from, to, 1);
            let read = SignedPolicy::parse(pem.as_bytes(), other.as_bytes()).expect("because it is well formed");
            assert_eq!(read.signature(&[3; 32]), None, "{to}");
        }
        assert!(SignedPolicy::parse(pem.as_bytes(), b"{\"sha256\":7}").is_err());
        assert!(SignedPolicy::parse(b"-----BEGIN PUBLIC KEY-----", json.as_bytes()).is_err());
        assert!(SignedPolicy::parse(pem.as_bytes(), &vec![b' '; POLICY_PART_BYTES_MAX + 1]).is_err());
    }
}
