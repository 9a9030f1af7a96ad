//! The armour of an SSH signature, taken in the one form that ssh-keygen writes.

use crate::refusal::{Reason, Refusal};
use machined_access::SignatureError;

/// The first line.
pub(crate) const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";

/// Exactly the armour that ssh-keygen writes: nothing before, between or after, no other line ends.
pub(crate) fn check(armour: &str) -> Result<(), Refusal> {
    let body = armour
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.strip_suffix("-----END SSH SIGNATURE-----\n"))
        .filter(|body| body.ends_with('\n') && !body.contains("\n\n"));
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'\n');
    match body {
        Some(body) if body.bytes().all(base64) => Ok(()),
        Some(_) | None if armour.contains("BEGIN PGP") => Err(Refusal::new(
            Reason::BadSignature,
            "OpenPGP signatures are not taken; git config gpg.format ssh, and sign again",
        )),
        Some(_) | None => Err(Refusal::new(
            Reason::BadSignature,
            "this is not one SSH signature as ssh-keygen writes it; sign again: git commit --amend -S",
        )),
    }
}

/// Why a signature is worth nothing, with what to do about it.
pub(crate) fn refuse(error: &SignatureError, next: &str) -> Refusal {
    let reason = match error {
        SignatureError::Malformed(_) | SignatureError::Mismatch(_) | SignatureError::SmallOrder { .. } => {
            Reason::BadSignature
        }
        SignatureError::Namespace { .. } => Reason::WrongNamespace,
        SignatureError::Algorithm { .. } => Reason::UnknownKey,
    };
    Refusal::new(reason, format!("{error}; {next}"))
}
