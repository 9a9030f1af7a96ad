//! Sealing and unsealing the secret of the disks: the commands in their order. Whatever fails, nothing stays loaded.

use super::{Talk, with_storage_key};
use init_boot::tpm::{
    KeyHandle, Pcr, PolicyKey, PolicySession, Sealed, Ticket, TpmError, create_sealed, flush, load_policy_key,
    load_sealed, pcr_policy, pcr_read, policy_authorize, policy_pcr, start_policy_session, unseal, verify_policy,
};
use machined_controllers::tpm::TpmAccessError;
use machined_luks::{PolicySignature, Secret, SignedPolicy};

impl Talk {
    pub(super) fn seal(&mut self, secret: &Secret, key: &PolicyKey) -> Result<Sealed, TpmAccessError> {
        let created = with_storage_key(self, |talk, storage| talk.run(&create_sealed(storage, secret, key)))?;
        let wrong = "the sealed object is of another kind than was asked for";
        Sealed::new(key, created.public, created.private).ok_or_else(|| TpmAccessError::Answer {
            device: self.device.clone(),
            source: TpmError::Malformed { command: "TPM2_Create", what: wrong },
        })
    }

    pub(super) fn unseal(&mut self, sealed: &Sealed, policy: &SignedPolicy) -> Result<Secret, TpmAccessError> {
        let values = self.run(&pcr_read(&[Pcr::UKI]))?;
        // A TPM without this register answers with none.
        let value = values.iter().find(|(pcr, _)| *pcr == Pcr::UKI).map(|(_, value)| *value);
        let signature = value.and_then(|value| policy.signature(&pcr_policy(Pcr::UKI, value)));
        let Some(signature) = signature else { return Err(self.unsigned()) };
        let ticket = self.checked(&policy.key, signature)?;
        let object = with_storage_key(self, |talk, storage| {
            talk.send(&load_sealed(storage, sealed))?.map_err(|source| talk.foreign(source))
        })?;
        let opened = self.fulfilled(object, policy, signature, &ticket);
        self.run(&flush(object))?;
        opened
    }

    fn unsigned(&self) -> TpmAccessError {
        TpmAccessError::Unsigned { device: self.device.clone() }
    }

    /// A refusal to load: by another TPM, or for another reason.
    pub(super) fn foreign(&self, source: TpmError) -> TpmAccessError {
        let device = self.device.clone();
        match source.is_foreign_key() {
            true => TpmAccessError::OtherTpm { device },
            false => TpmAccessError::Answer { device, source },
        }
    }

    fn checked(&mut self, key: &PolicyKey, signature: &PolicySignature) -> Result<Ticket, TpmAccessError> {
        let handle = self.run(&load_policy_key(key))?;
        let ticket = self.run(&verify_policy(handle, &signature.policy, &signature.signature));
        self.run(&flush(handle))?;
        ticket
    }

    fn fulfilled(
        &mut self,
        object: KeyHandle,
        policy: &SignedPolicy,
        signature: &PolicySignature,
        ticket: &Ticket,
    ) -> Result<Secret, TpmAccessError> {
        let session = self.run(&start_policy_session())?;
        let opened = self.fulfil(session, object, policy, signature, ticket);
        if opened.is_err() {
            // Unsealing would have ended it.
            let _gone = self.send(&flush(KeyHandle(session.0)))?;
        }
        opened
    }

    fn fulfil(
        &mut self,
        session: PolicySession,
        object: KeyHandle,
        policy: &SignedPolicy,
        signature: &PolicySignature,
        ticket: &Ticket,
    ) -> Result<Secret, TpmAccessError> {
        self.run(&policy_pcr(session, Pcr::UKI))?;
        self.run(&policy_authorize(session, &signature.policy, &policy.key, ticket))?;
        match self.send(&unseal(object, session))? {
            Ok(secret) => Ok(Secret::new(secret)),
            Err(source) if source.is_policy_refusal() => Err(self.unsigned()),
            Err(source) => Err(TpmAccessError::Answer { device: self.device.clone(), source }),
        }
    }
}
