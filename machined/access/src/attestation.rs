//! Checks what a machine's TPM says: which image started, that nothing was added to it, and which commit is applied.
//!
//! machined gathers the evidence, `cairnctl attest` checks it; nothing of it is believed before its signature and the asker's own nonce.
//! What it proves ends where the TPM's own word ends: that the attestation key lies in a TPM is the word of the machine's identity
//! key, because endorsement certificates are not looked at; and PCR 11 says which image a boot loader *measured*, so whoever may put another
//! boot loader before it can lie there. PCR 4 and 7 show boot loader and Secure Boot's keys: compare them with values that are known to be good.

use crate::identity::verify_identity;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use init_boot::AppliedLog;
use init_boot::tpm::{AttestationPublic, NONCE_BYTES_MAX, Pcr, PcrValue, Quote, pcr_digest};
use machined_ids::{CommitId, Fingerprint};

/// Stands before what the identity key signs for an attestation, so that the signature is worth nothing for anything else.
pub const ATTEST_PREFIX: &[u8] = b"cairn.attest.v1\n";

/// The registers that are attested, in the order of their numbers.
pub const ATTESTED: [Pcr; 5] = [Pcr::BOOT_PROGRAMS, Pcr::SECURE_BOOT, Pcr::UKI, Pcr::OVERRIDES, Pcr::APPLIED];

/// The shortest nonce, in bytes: nobody can have asked before with the same.
pub const ATTEST_NONCE_BYTES_MIN: usize = 16;

/// What a machine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The attestation key's public area (`TPMT_PUBLIC`).
    pub key: Vec<u8>,
    /// What it signed (`TPMS_ATTEST`).
    pub attested: Vec<u8>,
    /// The signature: r, then s.
    pub signature: Vec<u8>,
    /// Values of the registers, in the order of [`ATTESTED`].
    pub values: Vec<PcrValue>,
    /// The log that explains PCR 15.
    pub log: String,
    /// The machine's identity key, DER SubjectPublicKeyInfo.
    pub identity: Vec<u8>,
    /// Its signature over [`binding`].
    pub identity_signature: Vec<u8>,
}

/// What the asker knows, and what the machine must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// What the asker sent.
    pub nonce: Vec<u8>,
    /// The machine that was meant.
    pub machine: Fingerprint,
    /// PCR 11 of the image that should run.
    pub image: Option<PcrValue>,
    /// The commit that should be applied.
    pub commit: Option<CommitId>,
    /// Values of other registers that are known to be good.
    pub pinned: Vec<(Pcr, PcrValue)>,
}

/// What was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The registers.
    pub values: Vec<(Pcr, PcrValue)>,
    /// What was applied since the machine started; explains PCR 15.
    pub log: AppliedLog,
    /// Starts of the machine, as the TPM counts them.
    pub resets: u32,
}

/// Why the evidence does not show what was expected. Each has a stable word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestRefusal {
    /// The attestation key.
    #[error(
        "its attestation key is none: it must be a P-256 key that its TPM made and that signs nothing but what the TPM says"
    )]
    Key,
    /// The binding.
    #[error(
        "the attestation key is not bound to the machine {wanted} for this question: another machine answered, or the answer is old"
    )]
    Identity {
        /// The machine that was meant.
        wanted: Fingerprint,
    },
    /// The TPM's signature.
    #[error("the TPM's signature does not hold")]
    Signature,
    /// It is no quote.
    #[error("what the TPM signed is no quote")]
    Quote,
    /// An old answer.
    #[error("the quote answers another question: it holds another nonce, so it may be old")]
    Nonce,
    /// Other registers.
    #[error("the quote is over other registers than were asked for")]
    Registers,
    /// The values are not those that were signed.
    #[error("the values of the registers are not those that the TPM signed")]
    Values,
    /// The log cannot be read.
    #[error("the log of applied commits cannot be read")]
    Log,
    /// The log does not explain the register.
    #[error("the log of applied commits does not lead to PCR 15: an entry was changed, added or left out")]
    LogValue,
    /// Something else extended it.
    #[error("something other than machined extended PCR 15 since the machine started, or its log was lost")]
    LogBase,
    /// Another image.
    #[error("another image started: PCR 11 is {found}, and this image leads to {wanted}")]
    Image {
        /// In the quote.
        found: PcrValue,
        /// Of the image.
        wanted: PcrValue,
    },
    /// Something was added to the image.
    #[error(
        "the image did not start as it was built: PCR 12 is {found}, so another command line or credentials were added"
    )]
    Overrides {
        /// In the quote.
        found: PcrValue,
    },
    /// Another commit.
    #[error("the machine applied {found} last, not {wanted}")]
    Commit {
        /// In the log.
        found: String,
        /// What was expected.
        wanted: CommitId,
    },
    /// A pinned register.
    #[error("{pcr} is {found}, not {wanted}")]
    Pinned {
        /// Which one.
        pcr: Pcr,
        /// In the quote.
        found: PcrValue,
        /// What was expected.
        wanted: PcrValue,
    },
}

impl AttestRefusal {
    /// The stable word.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            AttestRefusal::Key => "Key",
            AttestRefusal::Identity { .. } => "Identity",
            AttestRefusal::Signature => "Signature",
            AttestRefusal::Quote => "Quote",
            AttestRefusal::Nonce => "Nonce",
            AttestRefusal::Registers => "Registers",
            AttestRefusal::Values => "Values",
            AttestRefusal::Log => "Log",
            AttestRefusal::LogValue => "LogValue",
            AttestRefusal::LogBase => "LogBase",
            AttestRefusal::Image { .. } => "Image",
            AttestRefusal::Overrides { .. } => "Overrides",
            AttestRefusal::Commit { .. } => "Commit",
            AttestRefusal::Pinned { .. } => "Pinned",
        }
    }
}

/// What the identity key signs: that this attestation key is its machine's, in answer to this nonce.
#[must_use]
pub fn binding(nonce: &[u8], key: &[u8]) -> Vec<u8> {
    let length = u8::try_from(nonce.len()).unwrap_or(u8::MAX);
    [ATTEST_PREFIX, &[length], nonce, key].concat()
}

/// Whether a nonce may be asked with.
#[must_use]
pub fn is_nonce(nonce: &[u8]) -> bool {
    (ATTEST_NONCE_BYTES_MIN..=NONCE_BYTES_MAX).contains(&nonce.len())
}

/// Checks an answer: first that it is one, then everything that differs from what was expected.
///
/// # Errors
/// Every refusal that there is; only the first where nothing behind it could be believed.
pub fn check_attestation(evidence: &Evidence, expected: &Expected) -> Result<Attested, Vec<AttestRefusal>> {
    let attested = believe(evidence, expected).map_err(|refusal| vec![refusal])?;
    let refusals = compare(&attested, expected);
    if refusals.is_empty() { Ok(attested) } else { Err(refusals) }
}

/// Who speaks, and what was signed.
fn believe(evidence: &Evidence, expected: &Expected) -> Result<Attested, AttestRefusal> {
    let key = AttestationPublic::parse(&evidence.key).map_err(|_| AttestRefusal::Key)?;
    let bound =
        verify_identity(&evidence.identity, &binding(&expected.nonce, &evidence.key), &evidence.identity_signature);
    if bound.as_ref() != Some(&expected.machine) {
        return Err(AttestRefusal::Identity { wanted: expected.machine.clone() });
    }
    let point = key.point();
    let signer = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point);
    signer.verify(&evidence.attested, &evidence.signature).map_err(|_| AttestRefusal::Signature)?;
    let quote = Quote::parse(&evidence.attested).map_err(|_| AttestRefusal::Quote)?;
    if quote.nonce != expected.nonce {
        return Err(AttestRefusal::Nonce);
    }
    if quote.pcrs != ATTESTED || evidence.values.len() != ATTESTED.len() {
        return Err(AttestRefusal::Registers);
    }
    if pcr_digest(&evidence.values) != quote.digest {
        return Err(AttestRefusal::Values);
    }
    let log = AppliedLog::parse(&evidence.log).map_err(|_| AttestRefusal::Log)?;
    let values = ATTESTED.into_iter().zip(evidence.values.iter().copied()).collect();
    Ok(Attested { values, log, resets: quote.resets })
}

fn compare(attested: &Attested, expected: &Expected) -> Vec<AttestRefusal> {
    let value = |pcr: Pcr| {
        let found = attested.values.iter().find(|(known, _)| *known == pcr);
        found.map_or(PcrValue::ZERO, |(_, value)| *value)
    };
    let mut refusals = Vec::new();
    let (image, overrides) = (value(Pcr::UKI), value(Pcr::OVERRIDES));
    // Both are this image: machined extends the register once the volumes are open, where the image has a policy.
    let opened = |image: PcrValue| image.extended(&init_boot::volumes_opened());
    if let Some(wanted) = expected.image.filter(|wanted| *wanted != image && opened(*wanted) != image) {
        refusals.push(AttestRefusal::Image { found: image, wanted });
    }
    if overrides != PcrValue::ZERO {
        refusals.push(AttestRefusal::Overrides { found: overrides });
    }
    if attested.log.value() != value(Pcr::APPLIED) {
        refusals.push(AttestRefusal::LogValue);
    } else if !attested.log.is_whole() && attested.log.entries().len() < init_boot::APPLIED_ENTRIES_MAX {
        refusals.push(AttestRefusal::LogBase);
    }
    let last = attested.log.applied().map(|entry| entry.commit.clone()).unwrap_or_default();
    if let Some(wanted) = expected.commit.clone().filter(|wanted| wanted.to_string() != last) {
        let found = if last.is_empty() { "nothing".to_owned() } else { last };
        refusals.push(AttestRefusal::Commit { found, wanted });
    }
    for (pcr, wanted) in &expected.pinned {
        let found = value(*pcr);
        if found != *wanted {
            refusals.push(AttestRefusal::Pinned { pcr: *pcr, found, wanted: *wanted });
        }
    }
    refusals
}
