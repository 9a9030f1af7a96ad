//! A commit's own signature: does it count as somebody's approval of this step?

use crate::introduction::Introduction;
use crate::policy::{Approvals, Binding, Policy, Use};
use crate::raw_commit::RawCommit;
use crate::refusal::{Reason, Refusal};
use machined_access::{SignatureError, verify_signature};
use machined_ids::{Fingerprint, PrincipalName};

/// The namespace that git signs commits under.
const NAMESPACE: &str = "git";

/// The trailer that ties a commit to one cluster and one branch.
pub const TARGET_TRAILER: &str = "Cairn-Target";

/// The trailer's value for a cluster, as the hook writes it.
#[must_use]
pub fn target_of(introduction: &Introduction) -> String {
    format!("{} {}", introduction.cluster, introduction.deploy_ref)
}

/// Who signed, whether or not it counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Signer {
    pub(crate) principal: Option<PrincipalName>,
    pub(crate) key: Option<Fingerprint>,
}

/// Weighs the commit's signature by the parent's policy.
///
/// A signature that does not count is no reason to refuse by itself: release statements may carry the step. It is kept as
/// the reason to show when approvals are missing.
pub(crate) fn weigh(
    commit: &RawCommit<'_>,
    policy: &Policy,
    own: Option<&Policy>,
    introduction: &Introduction,
) -> (Approvals, Signer) {
    let (mut approvals, mut signer) = (Approvals::default(), Signer::default());
    match count(commit, policy, own, introduction, &mut signer) {
        Ok(None) => {}
        Ok(Some((principal, recovery))) => {
            if recovery {
                approvals.recovery.insert(principal.clone());
            }
            approvals.principals.insert(principal);
        }
        Err(refusal) => approvals.discounted.push(refusal),
    }
    (approvals, signer)
}

fn count(
    commit: &RawCommit<'_>,
    policy: &Policy,
    own: Option<&Policy>,
    introduction: &Introduction,
    signer: &mut Signer,
) -> Result<Option<(PrincipalName, bool)>, Refusal> {
    let Some(armour) = &commit.signature else { return Ok(None) };
    check_armour(armour)?;
    let signed = verify_signature(NAMESPACE, &commit.signed, armour).map_err(|error| refuse(&error))?;
    signer.key = Some(signed.key.clone());
    let Some((principal, uses)) = policy.key(&signed.key) else {
        if own.is_some_and(|own| own.key(&signed.key).is_some()) {
            let message = format!("key {} is known only by the policy that this commit brings", signed.key);
            return Err(Refusal::new(Reason::SelfAuthorised, message));
        }
        let message =
            format!("key {} belongs to nobody in trust/; let root add it, or sign with a known one", signed.key);
        return Err(Refusal::new(Reason::UnknownKey, message));
    };
    signer.principal = Some(principal.clone());
    if !Policy::approves(uses) {
        let words: Vec<_> = uses.iter().map(|u| u.as_str()).collect();
        let message = format!("{principal}'s key {} is for {} and not for commit", signed.key, words.join(", "));
        return Err(Refusal::new(Reason::WrongUse, message));
    }
    if signed.touched == Some(false) {
        return Err(Refusal::new(Reason::NoTouch, format!("{principal}'s hardware key signed without being touched")));
    }
    if policy.binding() == Binding::Trailer {
        check_target(commit, introduction)?;
    }
    Ok(Some((principal.clone(), uses.contains(&Use::Recovery))))
}

fn check_target(commit: &RawCommit<'_>, introduction: &Introduction) -> Result<(), Refusal> {
    let wanted = target_of(introduction);
    let found: Vec<_> = commit.trailers(TARGET_TRAILER).collect();
    let message = match found.as_slice() {
        [one] if *one == wanted => return Ok(()),
        [] => format!(
            "the message lacks the trailer \"{TARGET_TRAILER}: {wanted}\"; `cairnctl clone` installs the hook that adds it"
        ),
        [one] => format!("the commit was signed for {one:?}, and this is {wanted:?}"),
        _ => format!("the message has {} {TARGET_TRAILER} trailers, and one must be the only one", found.len()),
    };
    Err(Refusal::new(Reason::WrongTarget, message))
}

/// Exactly the armour that ssh-keygen writes: nothing before, between or after, no other line ends.
fn check_armour(armour: &str) -> Result<(), Refusal> {
    let body = armour
        .strip_prefix("-----BEGIN SSH SIGNATURE-----\n")
        .and_then(|rest| rest.strip_suffix("-----END SSH SIGNATURE-----\n"))
        .filter(|body| body.ends_with('\n') && !body.contains("\n\n"));
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'\n');
    match body {
        Some(body) if body.bytes().all(base64) => Ok(()),
        Some(_) | None if armour.contains("BEGIN PGP") => Err(Refusal::new(
            Reason::BadSignature,
            "OpenPGP signatures are not taken; git config gpg.format ssh, and sign again",
        )),
        Some(_) | None => Err(Refusal::new(Reason::BadSignature, "the signature header is not one SSH signature")),
    }
}

fn refuse(error: &SignatureError) -> Refusal {
    let reason = match error {
        SignatureError::Malformed(_) | SignatureError::Mismatch(_) => Reason::BadSignature,
        SignatureError::Namespace { .. } => Reason::WrongNamespace,
        SignatureError::Algorithm { .. } => Reason::UnknownKey,
    };
    Refusal::new(reason, format!("{error}; sign the commit again"))
}
