//! Marks: a machine's signed report of what it accepted.
//!
//! ```text
//! cluster 00112233445566778899aabbccddeeff
//! ref refs/heads/main
//! epoch 0
//! seq 7
//! parent 64 hex digits                 the step before
//! step 64 hex digits
//! commit 40 or 64 hex digits
//! machine SHA256:...                   fingerprint of the identity key
//! key base64                           DER SubjectPublicKeyInfo of that key
//! signature base64                     ECDSA over "cairn.mark.v1\n" and the lines above `key`
//! ```
//!
//! Two marks with one parent and different steps prove that the cluster was told two stories. For everything else a mark is worth
//! something only with the chain that holds it: a seq that a peer or a store merely claims moves nothing.

use crate::introduction::DeployRef;
use crate::limits::MAX_STATEMENT_BYTES;
use crate::refusal::{Reason, Refusal};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machined_access::verify_identity;
use machined_ids::{ClusterId, CommitId, Epoch, Fingerprint, Seq, StepId};
use std::str::FromStr;

/// What the signed bytes begin with, so that no other signature of the key is one.
pub const MARK_NAMESPACE: &str = "cairn.mark.v1\n";

/// What a machine says it accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Its cluster.
    pub cluster: ClusterId,
    /// The cluster's branch.
    pub deploy_ref: DeployRef,
    /// The epoch.
    pub epoch: Epoch,
    /// The accepted step's number.
    pub seq: Seq,
    /// The step before the accepted one.
    pub parent: StepId,
    /// The accepted step.
    pub step: StepId,
    /// The commit that it was seen in.
    pub commit: CommitId,
    /// Fingerprint of the machine's identity key.
    pub machine: Fingerprint,
}

impl Mark {
    /// The lines that are signed.
    #[must_use]
    pub fn body(&self) -> String {
        let Mark { cluster, deploy_ref, epoch, seq, parent, step, commit, machine } = self;
        format!(
            "cluster {cluster}\nref {deploy_ref}\nepoch {epoch}\nseq {seq}\nparent {parent}\nstep {step}\n\
             commit {commit}\nmachine {machine}\n"
        )
    }

    /// The bytes that the identity key signs.
    #[must_use]
    pub fn to_sign(&self) -> Vec<u8> {
        format!("{MARK_NAMESPACE}{}", self.body()).into_bytes()
    }

    /// Where it stands: marks are compared by epoch first.
    #[must_use]
    pub const fn place(&self) -> (Epoch, Seq) {
        (self.epoch, self.seq)
    }

    /// Whether both were made after one parent and name different steps.
    #[must_use]
    pub fn contradicts(&self, other: &Mark) -> bool {
        let story = |mark: &Mark| (mark.cluster, mark.deploy_ref.clone(), mark.epoch, mark.parent);
        story(self) == story(other) && self.step != other.step
    }
}

/// A mark whose signature is valid. Whether its machine is one of the cluster is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignedMark {
    mark: Mark,
    text: String,
}

impl SignedMark {
    /// Puts a mark, the machine's public key (DER SubjectPublicKeyInfo) and its signature over [`Mark::to_sign`] together.
    ///
    /// # Errors
    /// `BadSignature` when they do not belong together.
    pub fn join(mark: &Mark, spki: &[u8], signature: &[u8]) -> Result<Self, Refusal> {
        let (key, signature) = (STANDARD.encode(spki), STANDARD.encode(signature));
        SignedMark::parse(format!("{}key {key}\nsignature {signature}\n", mark.body()).as_bytes())
    }

    /// Reads a mark.
    ///
    /// # Errors
    /// `NonCanonical` for another form, `BadSignature` when the machine's key did not sign it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_STATEMENT_BYTES);
        let read = text.and_then(|text| read(text).map(|(mark, spki, signature)| (text, mark, spki, signature)));
        let (text, mark, spki, signature) = read.ok_or_else(|| {
            let message = "these are not the lines of a mark; ask the machine for it again: cairnctl status";
            Refusal::new(Reason::NonCanonical, message)
        })?;
        if verify_identity(&spki, &mark.to_sign(), &signature).as_ref() != Some(&mark.machine) {
            let message = "the mark is not signed by the machine that it names; look at that machine: cairnctl status";
            return Err(Refusal::new(Reason::BadSignature, message));
        }
        Ok(SignedMark { mark, text: text.to_owned() })
    }

    /// What it says.
    #[must_use]
    pub const fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The whole text, as it travels.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Fields in their order; printed again, they must be the same text.
fn read(text: &str) -> Option<(Mark, Vec<u8>, Vec<u8>)> {
    fn value<'a>(lines: &mut std::str::SplitTerminator<'a, char>, key: &str) -> Option<&'a str> {
        lines.next()?.strip_prefix(key)?.strip_prefix(' ')
    }
    fn field<T: FromStr>(lines: &mut std::str::SplitTerminator<'_, char>, key: &str) -> Option<T> {
        value(lines, key)?.parse().ok()
    }
    let lines = &mut text.split_terminator('\n');
    let mark = Mark {
        cluster: field(lines, "cluster")?,
        deploy_ref: DeployRef::parse(value(lines, "ref")?).ok()?,
        epoch: Epoch(field(lines, "epoch")?),
        seq: Seq(field(lines, "seq")?),
        parent: field(lines, "parent")?,
        step: field(lines, "step")?,
        commit: field(lines, "commit")?,
        machine: field(lines, "machine")?,
    };
    let (key, signature) = (value(lines, "key")?, value(lines, "signature")?);
    let again = format!("{}key {key}\nsignature {signature}\n", mark.body());
    (again == text).then_some(())?;
    Some((mark, STANDARD.decode(key).ok()?, STANDARD.decode(signature).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_access::IdentityKey;

    fn mark(key: &IdentityKey) -> Mark {
        Mark {
            cluster: ClusterId::from_bytes([1; 16]),
            deploy_ref: DeployRef::parse("refs/heads/main").expect("because it is a branch"),
            epoch: Epoch(0),
            seq: Seq(7),
            parent: StepId::from_bytes([2; 32]),
            step: StepId::from_bytes([3; 32]),
            commit: CommitId::parse(&"a".repeat(40)).expect("because it is hex"),
            machine: key.fingerprint(),
        }
    }

    #[test]
    fn a_mark_is_read_as_it_is_written_and_signed_by_its_machine_only() {
        let key = IdentityKey::generate().expect("because there is randomness");
        let mark = mark(&key);
        let signature = key.sign(&mark.to_sign()).expect("because there is randomness");
        let signed = SignedMark::join(&mark, &key.public_key(), &signature).expect("because it is its own");
        assert_eq!(SignedMark::parse(signed.text().as_bytes()), Ok(signed.clone()));
        for (from, to) in [("seq 7", "seq 8"), ("seq 7", "seq 07"), ("epoch 0", "epoch 1"), ("\nkey", "\n\nkey")] {
            let changed = signed.text().replace(from, to);
            assert!(SignedMark::parse(changed.as_bytes()).is_err(), "{to:?} was taken");
        }
        let other = IdentityKey::generate().expect("because there is randomness");
        let theirs = other.sign(&mark.to_sign()).expect("because there is randomness");
        let refused =
            SignedMark::join(&mark, &other.public_key(), &theirs).expect_err("because another machine signed");
        assert_eq!(refused.reason, Reason::BadSignature);
    }

    #[test]
    fn a_mark_is_signed_for_nothing_else() {
        let key = IdentityKey::generate().expect("because there is randomness");
        let mark = mark(&key);
        let signature = key.sign(mark.body().as_bytes()).expect("because there is randomness");
        let refused =
            SignedMark::join(&mark, &key.public_key(), &signature).expect_err("because the namespace is missing");
        assert_eq!(refused.reason, Reason::BadSignature);
    }
}
