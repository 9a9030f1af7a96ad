//! Attest: what the TPM says about the machine, with what explains it. It is judged by whoever asks, never here.

use crate::model::Model;
use machined_access::{ATTEST_NONCE_BYTES_MIN, ATTESTED, binding, is_nonce};
use machined_api::{AttestReply, AttestRequest};
use machined_controllers::identity::MachineKey;
use machined_controllers::tpm::{Measured, TpmHost};
use machined_reconcile::story;
use tonic::Status;

/// How often a quote is asked for again because a commit was applied meanwhile.
const ATTEMPTS: usize = 3;

/// Gathers the evidence for one nonce.
pub(crate) async fn attest(model: &Model, request: AttestRequest) -> Result<AttestReply, Status> {
    let nonce = request.nonce;
    if !is_nonce(&nonce) {
        return Err(Status::invalid_argument(format!("a nonce has {ATTEST_NONCE_BYTES_MIN} to 32 bytes")));
    }
    if !model.tpm.is_present() {
        return Err(Status::failed_precondition(
            "this machine has no TPM 2.0, so it can prove nothing; switch it on in the firmware's setup",
        ));
    }
    let key =
        model.keys.get(MachineKey::ID).ok_or_else(|| Status::unavailable("the identity key is not loaded yet"))?;
    for _ in 0..ATTEMPTS {
        let before = model.measured.get(Measured::ID).ok_or_else(|| {
            Status::unavailable("what is applied is not measured yet; try again, or see why: cairnctl status")
        })?;
        let evidence = model.tpm.quote(nonce.clone(), ATTESTED.to_vec()).await;
        let evidence = evidence.map_err(|error| Status::internal(story(&error)))?;
        if model.measured.get(Measured::ID).as_ref() != Some(&before) {
            continue;
        }
        let public = evidence.key.to_bytes();
        let bound = key.sign(binding(&nonce, &public)).await.map_err(|error| Status::internal(story(&error)))?;
        return Ok(AttestReply {
            key: public,
            attested: evidence.quote.attested,
            signature: evidence.quote.signature.0.to_vec(),
            values: evidence.values.iter().map(|(_, value)| value.as_bytes().to_vec()).collect(),
            log: before.log.render(),
            identity: key.public_key(),
            identity_signature: bound,
        });
    }
    Err(Status::unavailable("commits are being applied; try again"))
}
