//! A secret that a TPM gives out only while its registers are as somebody signed them: sealed, kept outside in wrapped form, unsealed.
//!
//! The object names a key and no register's value (`TPM2_PolicyAuthorize`). Who holds the key signs, for each image, what PCR 11 will be once
//! that image has started; so an upgrade needs no new seal, and an image that the key did not sign opens nothing. Layouts are of the TPM
//! 2.0 Library, parts 1 to 3.

use super::attestation::{ALG_NULL, ALG_SHA256};
use super::commands::{authorised, authorised_by, plain};
use super::keys::{load, skip_creation};
use super::pcr::write_selection;
use super::wire::{Reader, Writer};
use super::{Fault, KeyHandle, PRIVATE_BYTES_MAX, Pcr, PcrValue, TpmCommand, TpmError};
use sha2::{Digest as _, Sha256};
use std::fmt;

const CREATE: u32 = 0x153;
const UNSEAL: u32 = 0x15e;
const LOAD_EXTERNAL: u32 = 0x167;
const POLICY_AUTHORIZE: u32 = 0x16a;
const START_AUTH_SESSION: u32 = 0x176;
const VERIFY_SIGNATURE: u32 = 0x177;
const POLICY_PCR: u32 = 0x17f;

const ALG_RSA: u16 = 0x0001;
const ALG_KEYED_HASH: u16 = 0x0008;
const ALG_RSASSA: u16 = 0x0014;
const OWNER: u32 = 0x4000_0001;
const NULL_HIERARCHY: u32 = 0x4000_0007;
const TAG_VERIFIED: u16 = 0x8022;
const POLICY_SESSION: u8 = 1;
/// What a session is begun with. It protects nothing here: no proof is derived from it.
const SESSION_NONCE: [u8; 16] = [0; 16];

/// fixedTPM, fixedParent, noDA. Without userWithAuth: the policy is the only way to the secret. Without sensitiveDataOrigin: it is given.
const SEALED_ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 10;
/// userWithAuth, decrypt, sign: as systemd loads policy keys, so that both name a key alike.
const POLICY_KEY_ATTRIBUTES: u32 = 1 << 6 | 1 << 17 | 1 << 18;

/// Bytes of an RSA modulus of 2048 bits, the one size that each TPM 2.0 of a PC knows.
pub const MODULUS_BYTES: usize = 256;
/// Bytes of a sealed secret.
pub const SECRET_BYTES: usize = 32;
/// The longest ticket that is taken, in bytes: a hash of at most 512 bits.
const TICKET_BYTES_MAX: usize = 64;

/// The public half of the key that signs policies: RSA with 2048 bits and the exponent 65537.
#[derive(Clone, PartialEq, Eq)]
pub struct PolicyKey([u8; MODULUS_BYTES]);

/// What a SubjectPublicKeyInfo of such a key is before the modulus (RFC 8017), and behind it.
const SPKI_BEGIN: [u8; 33] = [
    0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    0x03, 0x82, 0x01, 0x0f, 0x00, 0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00,
];
const SPKI_END: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];

impl PolicyKey {
    /// Reads a DER SubjectPublicKeyInfo; none for any other kind of key.
    #[must_use]
    pub fn from_der(spki: &[u8]) -> Option<Self> {
        let modulus = spki.strip_prefix(&SPKI_BEGIN)?.strip_suffix(&SPKI_END)?;
        // The highest bit is set in every modulus of 2048 bits.
        let modulus: [u8; MODULUS_BYTES] = modulus.try_into().ok()?;
        (modulus[0] & 0x80 != 0).then_some(PolicyKey(modulus))
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        [&SPKI_BEGIN[..], &self.0, &SPKI_END].concat()
    }

    /// SHA-256 of the DER SubjectPublicKeyInfo, as systemd's `pkfp`.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.to_der()).into()
    }

    fn area(&self) -> Vec<u8> {
        let kind = Writer::default().u16(ALG_RSA).u16(ALG_SHA256).u32(POLICY_KEY_ATTRIBUTES).sized(&[]);
        kind.u16(ALG_NULL).u16(ALG_NULL).u16(2048).u32(0).sized(&self.0).done()
    }

    /// The TPM's name for it.
    fn name(&self) -> Vec<u8> {
        Writer::default().u16(ALG_SHA256).bytes(&Sha256::digest(self.area())).done()
    }

    /// The policy of what is sealed to this key: any policy that it signs.
    fn authorises(&self) -> [u8; 32] {
        let extended = Writer::default().bytes(&[0; 32]).u32(POLICY_AUTHORIZE).bytes(&self.name()).done();
        // The second hash is over the policy's reference, which is empty.
        Sha256::digest(Sha256::digest(extended)).into()
    }
}

impl fmt::Debug for PolicyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: String = self.fingerprint()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        write!(formatter, "PolicyKey({digits})")
    }
}

/// The policy "this register has this value": what is signed for an image.
#[must_use]
pub fn pcr_policy(pcr: Pcr, value: PcrValue) -> [u8; 32] {
    let values: [u8; 32] = Sha256::digest(value.as_bytes()).into();
    let selected = write_selection(Writer::default().bytes(&[0; 32]).u32(POLICY_PCR), &[pcr]);
    Sha256::digest(selected.bytes(&values).done()).into()
}

/// A secret outside its TPM: worth nothing without it, and without what its policy key signs.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    public: Vec<u8>,
    private: Vec<u8>,
}

/// Only that it is one is shown.
impl fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sealed")
    }
}

fn sealed_head(key: &PolicyKey) -> Vec<u8> {
    let kind = Writer::default().u16(ALG_KEYED_HASH).u16(ALG_SHA256).u32(SEALED_ATTRIBUTES);
    kind.sized(&key.authorises()).u16(ALG_NULL).done()
}

impl Sealed {
    /// Puts the parts together; none when they are no secret sealed to this key.
    #[must_use]
    pub fn new(key: &PolicyKey, public: Vec<u8>, private: Vec<u8>) -> Option<Self> {
        let unique = public.strip_prefix(sealed_head(key).as_slice())?;
        let whole = unique.len() == 34 && unique.starts_with(&[0, 32]);
        (whole && (1..=PRIVATE_BYTES_MAX).contains(&private.len())).then_some(Sealed { public, private })
    }

    /// As a TPM makes it, for TPMs that are not real: the unique part is any hash.
    ///
    /// # Panics
    /// When the private part is empty or too long.
    #[must_use]
    pub fn made(key: &PolicyKey, unique: &[u8; 32], private: Vec<u8>) -> Self {
        let public = Writer::default().bytes(&sealed_head(key)).sized(unique).done();
        Sealed::new(key, public, private).expect("because it is put together as it should be")
    }

    /// The public area (`TPMT_PUBLIC`).
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The secret, as its TPM wrapped it.
    #[must_use]
    pub fn private(&self) -> &[u8] {
        &self.private
    }
}

/// What `TPM2_Create` gave: [`Sealed::new`] judges it.
#[derive(Clone, PartialEq, Eq)]
pub struct Created {
    /// The public area.
    pub public: Vec<u8>,
    /// The private part, wrapped.
    pub private: Vec<u8>,
}

/// A session in which a policy is fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicySession(pub u32);

/// The TPM's word that it checked a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    hierarchy: u32,
    proof: Vec<u8>,
}

impl TpmError {
    /// Whether the registers or the signer are not what the policy asks for (`TPM_RC_POLICY_FAIL`, `TPM_RC_VALUE`, `TPM_RC_PCR_CHANGED`).
    #[must_use]
    pub fn is_policy_refusal(&self) -> bool {
        const RC_POLICY_FAIL: u32 = 0x09d;
        const RC_PCR_CHANGED: u32 = 0x128;
        matches!(self, TpmError::Refused { code, .. } if code & 0xbf == RC_POLICY_FAIL && code & !0xfff == 0 || *code == RC_PCR_CHANGED)
    }
}

fn nothing(_handle: u32, _reader: &mut Reader<'_>) -> Result<(), Fault> {
    Ok(())
}

/// Seals a secret to a policy key.
#[must_use]
pub fn create_sealed(storage: KeyHandle, secret: &[u8; SECRET_BYTES], key: &PolicyKey) -> TpmCommand<Created> {
    let sensitive = Writer::default().sized(&[]).sized(secret).done();
    let area = Writer::default().bytes(&sealed_head(key)).sized(&[]).done();
    let parameters = Writer::default().sized(&sensitive).sized(&area).sized(&[]).u32(0);
    TpmCommand {
        name: "TPM2_Create",
        bytes: authorised(CREATE, &[storage.0], parameters),
        sessions: true,
        makes: false,
        decode: |_, reader| {
            let private = reader.sized()?.to_vec();
            let public = reader.sized()?.to_vec();
            skip_creation(reader)?;
            Ok(Created { public, private })
        },
    }
}

/// Loads a sealed secret, which says nothing yet. The TPM refuses one that it did not wrap.
#[must_use]
pub fn load_sealed(storage: KeyHandle, sealed: &Sealed) -> TpmCommand<KeyHandle> {
    load(storage, &sealed.private, &sealed.public)
}

/// Loads the public half of a policy key.
#[must_use]
pub fn load_policy_key(key: &PolicyKey) -> TpmCommand<KeyHandle> {
    TpmCommand {
        name: "TPM2_LoadExternal",
        bytes: plain(LOAD_EXTERNAL, Writer::default().sized(&[]).sized(&key.area()).u32(OWNER)),
        sessions: false,
        makes: true,
        decode: |handle, reader| {
            let _name = reader.sized()?;
            Ok(KeyHandle(handle))
        },
    }
}

/// Checks the signature over a policy; RSA with PKCS#1 v1.5 and SHA-256.
#[must_use]
pub fn verify_policy(key: KeyHandle, policy: &[u8; 32], signature: &[u8; MODULUS_BYTES]) -> TpmCommand<Ticket> {
    // What is signed is the policy with an empty reference behind it.
    let digest: [u8; 32] = Sha256::digest(policy).into();
    let parameters = Writer::default().u32(key.0).sized(&digest).u16(ALG_RSASSA).u16(ALG_SHA256).sized(signature);
    TpmCommand {
        name: "TPM2_VerifySignature",
        bytes: plain(VERIFY_SIGNATURE, parameters),
        sessions: false,
        makes: false,
        decode: |_, reader| {
            reader.expect_u16(TAG_VERIFIED, "its ticket is of another kind")?;
            let (hierarchy, proof) = (reader.u32()?, reader.sized()?.to_vec());
            match proof.len() {
                0..=TICKET_BYTES_MAX => Ok(Ticket { hierarchy, proof }),
                _ => Err(Fault::Malformed("its ticket is too long")),
            }
        },
    }
}

/// Begins a session in which a policy is fulfilled step by step.
#[must_use]
pub fn start_policy_session() -> TpmCommand<PolicySession> {
    let parameters = Writer::default().u32(NULL_HIERARCHY).u32(NULL_HIERARCHY).sized(&SESSION_NONCE).sized(&[]);
    TpmCommand {
        name: "TPM2_StartAuthSession",
        bytes: plain(START_AUTH_SESSION, parameters.u8(POLICY_SESSION).u16(ALG_NULL).u16(ALG_SHA256)),
        sessions: false,
        makes: true,
        decode: |handle, reader| {
            let _nonce = reader.sized()?;
            Ok(PolicySession(handle))
        },
    }
}

/// Takes the register's present value into the session's policy.
#[must_use]
pub fn policy_pcr(session: PolicySession, pcr: Pcr) -> TpmCommand<()> {
    TpmCommand {
        name: "TPM2_PolicyPCR",
        bytes: plain(POLICY_PCR, write_selection(Writer::default().u32(session.0).sized(&[]), &[pcr])),
        sessions: false,
        makes: false,
        decode: nothing,
    }
}

/// Puts "what this key signed" in the place of the session's policy, which must be the one that was signed.
#[must_use]
pub fn policy_authorize(session: PolicySession, policy: &[u8; 32], key: &PolicyKey, ticket: &Ticket) -> TpmCommand<()> {
    let parameters = Writer::default().u32(session.0).sized(policy).sized(&[]).sized(&key.name());
    TpmCommand {
        name: "TPM2_PolicyAuthorize",
        bytes: plain(POLICY_AUTHORIZE, parameters.u16(TAG_VERIFIED).u32(ticket.hierarchy).sized(&ticket.proof)),
        sessions: false,
        makes: false,
        decode: nothing,
    }
}

/// Gives the secret, when the session's policy is the object's. The session ends with it.
#[must_use]
pub fn unseal(object: KeyHandle, session: PolicySession) -> TpmCommand<[u8; SECRET_BYTES]> {
    TpmCommand {
        name: "TPM2_Unseal",
        bytes: authorised_by(session.0, UNSEAL, &[object.0], Writer::default()),
        sessions: true,
        makes: false,
        decode: |_, reader| {
            reader.sized()?.try_into().map_err(|_| Fault::Malformed("the sealed secret has another length"))
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PolicyKey {
        let der = [&SPKI_BEGIN[..], &[byte; MODULUS_BYTES], &SPKI_END].concat();
        PolicyKey::from_der(&der).expect("because it is the right kind")
    }

    #[test]
    fn only_rsa_keys_of_2048_bits_with_the_usual_exponent_are_policy_keys() {
        let der = key(0xab).to_der();
        assert_eq!((der.len(), PolicyKey::from_der(&der)), (294, Some(key(0xab))));
        for length in 0..der.len() {
            assert!(PolicyKey::from_der(&der[..length]).is_none());
        }
        for at in [0, 12, 20, 33, 293] {
            let mut other = der.clone();
            other[at] ^= 0x80;
            assert_eq!(PolicyKey::from_der(&other), None, "a flipped bit in byte {at}");
        }
    }

    /// Part 3 of the specification, TPM2_PolicyPCR: H(old || command || selection || H(values)), by hand.
    #[test]
    fn the_policy_of_a_register_is_what_the_specification_says() {
        let value = PcrValue::from_bytes([5; 32]);
        let digest: [u8; 32] = Sha256::digest([5; 32]).into();
        let selection = [0, 0, 0, 1, 0, 0x0b, 3, 0, 8, 0];
        let by_hand = [&[0; 32][..], &[0, 0, 0x01, 0x7f], &selection, &digest].concat();
        assert_eq!(pcr_policy(Pcr::UKI, value), <[u8; 32]>::from(Sha256::digest(by_hand)));
    }

    #[test]
    fn what_is_sealed_to_a_key_is_refused_as_sealed_to_another() {
        let unique = [&[0, 32][..], &[6; 32]].concat();
        let public = [sealed_head(&key(0xab)), unique].concat();
        assert!(Sealed::new(&key(0xab), public.clone(), vec![1; 100]).is_some());
        assert!(Sealed::new(&key(0xac), public.clone(), vec![1; 100]).is_none());
        assert!(Sealed::new(&key(0xab), public.clone(), Vec::new()).is_none());
        // With userWithAuth: an empty password would be enough.
        let mut open = public.clone();
        open[7] |= 1 << 6;
        assert!(Sealed::new(&key(0xab), open, vec![1; 100]).is_none());
        for length in 0..public.len() {
            assert!(Sealed::new(&key(0xab), public[..length].to_vec(), vec![1; 100]).is_none());
        }
    }

    #[test]
    fn the_commands_are_laid_out_as_the_specification_says() {
        let session = start_policy_session();
        assert_eq!(session.bytes()[6..18], [0, 0, 1, 0x76, 0x40, 0, 0, 7, 0x40, 0, 0, 7]);
        assert_eq!(session.bytes()[18..], [&[0, 16][..], &[0; 16], &[0, 0, 1, 0, 0x10, 0, 0x0b]].concat());
        let pcr = policy_pcr(PolicySession(0x0300_0000), Pcr::UKI);
        assert_eq!(pcr.bytes()[10..], [3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x0b, 3, 0, 8, 0]);
        let unseal = unseal(KeyHandle(0x8000_0001), PolicySession(0x0300_0000));
        let expected = [0, 0, 1, 0x5e, 0x80, 0, 0, 1, 0, 0, 0, 9, 3, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(unseal.bytes()[6..], expected);
    }

    #[test]
    fn an_unsealed_secret_is_whole_or_refused() {
        let answer = |secret: &[u8], nonce: &[u8]| {
            let parameters = [&(secret.len() as u16).to_be_bytes()[..], secret].concat();
            let session = [&(nonce.len() as u16).to_be_bytes()[..], nonce, &[0, 0, 0]].concat();
            let length = (14 + parameters.len() + session.len()) as u32;
            let head = [&[0x80, 0x02][..], &length.to_be_bytes(), &[0; 4]].concat();
            [head, (parameters.len() as u32).to_be_bytes().to_vec(), parameters, session].concat()
        };
        let unseal = unseal(KeyHandle(1), PolicySession(2));
        // A policy session answers with a nonce of its own.
        let whole = answer(&[7; 32], &[9; 16]);
        assert_eq!(unseal.decode(&whole), Ok([7; 32]));
        assert!((0..whole.len()).all(|length| unseal.decode(&whole[..length]).is_err()));
        assert!(unseal.decode(&answer(&[7; 31], &[9; 16])).is_err());
        let refused = |code: u32| {
            let answer = [&[0x80, 0x01, 0, 0, 0, 10][..], &code.to_be_bytes()].concat();
            unseal.decode(&answer).expect_err("because the TPM refused").is_policy_refusal()
        };
        // TPM_RC_POLICY_FAIL of session 1, TPM_RC_PCR_CHANGED; TPM_RC_INTEGRITY and TPM_RC_LOCKOUT are something else.
        assert!(refused(0x99d) && refused(0x128) && !refused(0x1df) && !refused(0x921));
    }
}
