//! Revocations: a key is stopped by an accepted policy, by root's threshold, or by itself.
//!
//! A revocation stops the key at every step that is not accepted yet. It never breaks history at or below accepted (or at or below
//! what a majority of the control plane marked), and bars what the key signed after its last good step from being applied again.
//! Root cannot stop a recovery key's use for recovery: recovery is what is left when root is lost.

use crate::policy::{Policy, Use};
use crate::refusal::{Reason, Refusal};
use crate::state::TrustState;
use crate::statement::{Revoke, SignedStatement, Statement};
use machined_ids::{Epoch, Fingerprint, PrincipalName, Seq};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A key that is stopped for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Revocation {
    /// The epoch that `last_good` counts in.
    pub epoch: Epoch,
    /// The last step whose signature by this key is believed.
    pub last_good: Seq,
    /// Root said so, by statement or in an accepted policy.
    pub by_root: bool,
    /// The key itself said so.
    pub by_key: bool,
}

impl Revocation {
    /// Both together. What root says about the last good step counts for more than what a key, perhaps stolen, says of itself.
    pub(crate) fn and(self, other: Revocation) -> Revocation {
        let last_good = match (self.by_root, other.by_root) {
            (true, false) => self.last_good,
            (false, true) => other.last_good,
            (true, true) | (false, false) => self.last_good.min(other.last_good),
        };
        Revocation {
            epoch: self.epoch.min(other.epoch),
            last_good,
            by_root: self.by_root || other.by_root,
            by_key: self.by_key || other.by_key,
        }
    }
}

/// What was signed for one revocation.
#[derive(Default)]
struct Signed<'a> {
    roots: BTreeSet<PrincipalName>,
    /// The key itself signed.
    by_key: bool,
    statements: Vec<&'a SignedStatement>,
}

/// Every revocation that counts under the accepted policy, and the statements that say so; why others do not goes to `ignored`.
pub(crate) fn revocations<'a>(
    state: &TrustState,
    policy: &Policy,
    statements: &'a [SignedStatement],
    ignored: &mut Vec<Refusal>,
) -> (BTreeMap<Fingerprint, Revocation>, Vec<&'a SignedStatement>) {
    let mut by_body: BTreeMap<&Revoke, Signed<'a>> = BTreeMap::new();
    for signed in statements {
        let Statement::Revoke(revoke) = signed.statement() else { continue };
        match signer(state, policy, signed, revoke) {
            Ok((principal, own)) => {
                let entry = by_body.entry(revoke).or_default();
                entry.roots.extend(principal);
                entry.by_key |= own;
                entry.statements.push(signed);
            }
            Err(refusal) => ignored.push(refusal),
        }
    }
    let (mut found, mut counted) = (BTreeMap::<Fingerprint, Revocation>::new(), Vec::new());
    for (revoke, Signed { roots, by_key, statements }) in by_body {
        let by_root = roots.intersection(&policy.root().members).count() >= policy.root().threshold as usize;
        if !by_root && !by_key {
            let message = format!(
                "key {} is revoked with {} approvals by root, and that takes {}; have more of root sign: cairnctl revoke",
                revoke.key,
                roots.len(),
                policy.root().threshold
            );
            ignored.push(Refusal::new(Reason::RootThreshold, message));
            continue;
        }
        let revocation = Revocation { epoch: revoke.epoch, last_good: revoke.last_good, by_root, by_key };
        found.entry(revoke.key.clone()).and_modify(|known| *known = known.and(revocation)).or_insert(revocation);
        counted.extend(statements);
    }
    (found, counted)
}

/// Who of root signed, and whether the key signed its own end.
fn signer(
    state: &TrustState,
    policy: &Policy,
    signed: &SignedStatement,
    revoke: &Revoke,
) -> Result<(Option<PrincipalName>, bool), Refusal> {
    let about = |what: &str| format!("the revocation of key {}: {what}; write another: cairnctl revoke", revoke.key);
    if (revoke.cluster, revoke.epoch) != (state.introduction().cluster, state.epoch()) {
        return Err(Refusal::new(Reason::WrongTarget, about("it is for another cluster or epoch")));
    }
    let Some((principal, uses)) = policy.key(signed.key()) else {
        return Err(Refusal::new(Reason::UnknownKey, about("its signer's key belongs to nobody in trust/")));
    };
    // A thief may end the key that was stolen and nothing else; no touch is needed to end one.
    if signed.key() == &revoke.key {
        return Ok((None, true));
    }
    if signed.touched() == Some(false) {
        return Err(Refusal::new(Reason::NoTouch, about("it was signed without a touch")));
    }
    if state.revocations().contains_key(signed.key()) || policy.revoked().contains_key(signed.key()) {
        return Err(Refusal::new(Reason::Revoked, about("its signer's key was revoked itself")));
    }
    if !uses.contains(&Use::Statement) && !uses.contains(&Use::Commit) {
        return Err(Refusal::new(Reason::WrongUse, about("its signer's key is for neither statements nor commits")));
    }
    Ok((Some(principal.clone()), false))
}
