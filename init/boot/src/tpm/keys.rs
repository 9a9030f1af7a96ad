//! A signing key that a TPM made and that never leaves it: how it is made, kept outside in wrapped form, loaded, and used.
//!
//! The wrapping key (the "storage key") is the TPM's own: made from its owner's seed, the same one each time until the TPM is cleared. So a
//! wrapped key can be loaded into the TPM that made it and into no other, and not after a clear. The public part stands outside too, and
//! what is loaded is checked against it by the TPM.

use super::attestation::{ALG_ECC, ALG_ECDSA, ALG_NULL, ALG_SHA256, CURVE_P256, EcdsaSignature, signing_head};
use super::commands::{CREATE_PRIMARY, OWNER, authorised};
use super::wire::{Reader, Writer};
use super::{Fault, KeyHandle, TpmCommand, TpmError};
use std::fmt;

const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const SIGN: u32 = 0x15d;

const ALG_AES: u16 = 0x0006;
const ALG_CFB: u16 = 0x0043;
const AES_KEY_BITS: u16 = 128;
/// Marks a ticket that says where a digest comes from; only restricted keys ask for one.
const TAG_HASH_CHECK: u16 = 0x8024;
const NULL_HIERARCHY: u32 = 0x4000_0007;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA: of this TPM, made by it, used with an empty password. Without
/// dictionary attack protection: there is nothing to guess, and a locked-out TPM must not stop the machine.
const OWN: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10;
/// The key signs, and nothing else. Not restricted: what it signs is the machine's word, not the TPM's.
const SIGNING_ATTRIBUTES: u32 = OWN | 1 << 18;
/// restricted, decrypt: the key wraps other keys, and nothing else.
const STORAGE_ATTRIBUTES: u32 = OWN | 1 << 16 | 1 << 17;

/// The longest private part in bytes: so that a whole META record fits into one sector of 512 bytes, which power cuts write or do not.
pub const PRIVATE_BYTES_MAX: usize = 382;

/// What a wrapped key begins with where it is kept.
const KEPT_MAGIC: &[u8; 16] = b"CAIRN-TPM-KEY 1\n";

/// The public part of a signing key: a point of P-256, of a key with exactly the attributes that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningPublic {
    x: [u8; 32],
    y: [u8; 32],
}

impl SigningPublic {
    /// Takes an uncompressed point; none for anything else.
    #[must_use]
    pub fn from_point(point: &[u8; 65]) -> Option<Self> {
        let (kind, coordinates) = point.split_first()?;
        let (x, y) = coordinates.split_at(32);
        (*kind == 4).then_some(SigningPublic { x: x.try_into().ok()?, y: y.try_into().ok()? })
    }

    /// The point, uncompressed: what libraries check signatures with.
    #[must_use]
    pub fn point(&self) -> [u8; 65] {
        super::uncompressed(&self.x, &self.y)
    }

    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let point = bytes.strip_prefix(signing_head(SIGNING_ATTRIBUTES).done().as_slice());
        let mut reader = Reader::new(point.ok_or(Fault::Malformed("the key is of another kind than was asked for"))?);
        let key = SigningPublic { x: reader.number()?, y: reader.number()? };
        reader.end().map(|()| key)
    }

    fn to_area(&self) -> Vec<u8> {
        signing_head(SIGNING_ATTRIBUTES).sized(&self.x).sized(&self.y).done()
    }
}

/// A signing key outside its TPM: worth nothing without it.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey {
    public: SigningPublic,
    private: Vec<u8>,
}

impl WrappedKey {
    /// Puts the parts together; none when the private one is empty or longer than [`PRIVATE_BYTES_MAX`].
    #[must_use]
    pub fn new(public: SigningPublic, private: Vec<u8>) -> Option<Self> {
        ((1..=PRIVATE_BYTES_MAX).contains(&private.len())).then_some(WrappedKey { public, private })
    }

    /// The public part.
    #[must_use]
    pub fn public(&self) -> &SigningPublic {
        &self.public
    }

    /// The private part, as its TPM wrapped it.
    #[must_use]
    pub fn private(&self) -> &[u8] {
        &self.private
    }

    /// The form in which it is kept: magic, x, y, length and bytes of the private part; numbers big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = Writer::default().bytes(KEPT_MAGIC).bytes(&self.public.x).bytes(&self.public.y);
        head.sized(&self.private).done()
    }

    /// Whether these bytes are kept in this form, damaged ones included, and not a key of another kind.
    #[must_use]
    pub fn is_kept(bytes: &[u8]) -> bool {
        bytes.starts_with(KEPT_MAGIC)
    }

    /// Reads what [`WrappedKey::to_bytes`] wrote.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        Self::read(bytes).map_err(|fault| fault.of("TPM2_Create"))
    }

    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(bytes);
        if reader.take(KEPT_MAGIC.len())? != KEPT_MAGIC {
            return Err(Fault::Malformed("it is not kept as a wrapped key"));
        }
        let mut coordinate = || Ok(reader.take(32)?.try_into().expect("because 32 bytes were taken"));
        let public = SigningPublic { x: coordinate()?, y: coordinate()? };
        let private = reader.sized()?.to_vec();
        reader.end()?;
        WrappedKey::new(public, private).ok_or(LENGTH)
    }
}

const LENGTH: Fault = Fault::Malformed("the private part is empty or too long");

/// Only the public part is shown.
impl fmt::Debug for WrappedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("WrappedKey").field(&self.public).finish()
    }
}

/// The storage key's public area before the point: P-256, wraps with AES-128-CFB.
fn storage_head() -> Writer {
    let kind = Writer::default().u16(ALG_ECC).u16(ALG_SHA256).u32(STORAGE_ATTRIBUTES).sized(&[]);
    kind.u16(ALG_AES).u16(AES_KEY_BITS).u16(ALG_CFB).u16(ALG_NULL).u16(CURVE_P256).u16(ALG_NULL)
}

/// What is created: nothing secret is given, nothing outside is bound.
fn creation(area: Writer) -> Writer {
    let sensitive = Writer::default().sized(&[]).sized(&[]).done();
    Writer::default().sized(&sensitive).sized(&area.sized(&[]).sized(&[]).done()).sized(&[]).u32(0)
}

/// What a TPM says about how a key was made: not looked at, but it must be whole.
pub(super) fn skip_creation(reader: &mut Reader<'_>) -> Result<(), Fault> {
    let (_data, _hash) = (reader.sized()?, reader.sized()?);
    let (_tag, _hierarchy, _ticket) = (reader.u16()?, reader.u32()?, reader.sized()?);
    Ok(())
}

/// Makes the storage key: the same one each time, until the TPM is cleared.
#[must_use]
pub fn create_storage_key() -> TpmCommand<KeyHandle> {
    TpmCommand {
        name: "TPM2_CreatePrimary",
        bytes: authorised(CREATE_PRIMARY, &[OWNER], creation(storage_head())),
        sessions: true,
        makes: true,
        decode: |handle, reader| {
            if !reader.sized()?.starts_with(&storage_head().done()) {
                return Err(Fault::Malformed("the key is of another kind than was asked for"));
            }
            skip_creation(reader)?;
            let _name = reader.sized()?;
            Ok(KeyHandle(handle))
        },
    }
}

/// Makes a signing key from the TPM's randomness, another one each time, and wraps it.
#[must_use]
pub fn create_signing_key(storage: KeyHandle) -> TpmCommand<WrappedKey> {
    TpmCommand {
        name: "TPM2_Create",
        bytes: authorised(CREATE, &[storage.0], creation(signing_head(SIGNING_ATTRIBUTES))),
        sessions: true,
        makes: false,
        decode: |_, reader| {
            let private = reader.sized()?.to_vec();
            let public = SigningPublic::read(reader.sized()?)?;
            skip_creation(reader)?;
            WrappedKey::new(public, private).ok_or(LENGTH)
        },
    }
}

/// Loads a wrapped key. The TPM refuses one that it did not wrap, or whose public part is not the private one's.
#[must_use]
pub fn load_key(storage: KeyHandle, key: &WrappedKey) -> TpmCommand<KeyHandle> {
    load(storage, &key.private, &key.public.to_area())
}

/// Loads what was made under the storage key.
pub(super) fn load(storage: KeyHandle, private: &[u8], public: &[u8]) -> TpmCommand<KeyHandle> {
    TpmCommand {
        name: "TPM2_Load",
        bytes: authorised(LOAD, &[storage.0], Writer::default().sized(private).sized(public)),
        sessions: true,
        makes: true,
        decode: |handle, reader| {
            let _name = reader.sized()?;
            Ok(KeyHandle(handle))
        },
    }
}

/// Signs a SHA-256 digest.
#[must_use]
pub fn sign(key: KeyHandle, digest: &[u8; 32]) -> TpmCommand<EcdsaSignature> {
    let scheme = Writer::default().sized(digest).u16(ALG_ECDSA).u16(ALG_SHA256);
    TpmCommand {
        name: "TPM2_Sign",
        bytes: authorised(SIGN, &[key.0], scheme.u16(TAG_HASH_CHECK).u32(NULL_HIERARCHY).sized(&[])),
        sessions: true,
        makes: false,
        decode: |_, reader| EcdsaSignature::read(reader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{MetaKind, MetaRecord};

    fn wrapped(private: usize) -> Option<WrappedKey> {
        let public = SigningPublic { x: [1; 32], y: [2; 32] };
        WrappedKey::new(public, vec![7; private])
    }

    /// A response with a password session; `handle` stands before its parameters.
    fn response(handle: &[u8], parameters: &[u8]) -> Vec<u8> {
        let length = (10 + handle.len() + 4 + parameters.len() + 5) as u32;
        let size = (parameters.len() as u32).to_be_bytes();
        [&[0x80, 0x02][..], &length.to_be_bytes(), &[0; 4], handle, &size, parameters, &[0, 0, 1, 0, 0]].concat()
    }

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    /// A public area, by hand from part 2 of the specification: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign.
    fn area(attributes: u32) -> Vec<u8> {
        let head = [&[0, 0x23, 0, 0x0b][..], &attributes.to_be_bytes(), &[0, 0], &[0, 0x10, 0, 0x18, 0, 0x0b]].concat();
        [head, vec![0, 3, 0, 0x10], sized(&[1; 32]), sized(&[2; 32])].concat()
    }

    fn created(attributes: u32, private: &[u8]) -> Vec<u8> {
        let rest = [sized(&[9; 20]), sized(&[8; 32]), vec![0x80, 0x21, 0x40, 0, 0, 1], sized(&[7; 32])].concat();
        response(&[], &[sized(private), sized(&area(attributes)), rest].concat())
    }

    #[test]
    fn the_commands_are_laid_out_as_the_specification_says() {
        let sign = sign(KeyHandle(0x8000_0001), &[5; 32]);
        let begin =
            [0x80, 0x02, 0, 0, 0, 73, 0, 0, 0x01, 0x5d, 0x80, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let end = [0, 0x18, 0, 0x0b, 0x80, 0x24, 0x40, 0, 0, 7, 0, 0];
        assert_eq!(sign.bytes(), [&begin[..], &[0, 32], &[5; 32], &end].concat());
        let key = wrapped(3).expect("because it is short");
        let load = load_key(KeyHandle(0x8000_0000), &key);
        assert_eq!(load.bytes()[6..14], [0, 0, 0x01, 0x57, 0x80, 0, 0, 0]);
        assert_eq!(load.bytes()[27..], [sized(&[7; 3]), sized(&area(0x0004_0472))].concat());
    }

    #[test]
    fn only_a_key_that_cannot_leave_and_only_signs_is_taken() {
        let create = create_signing_key(KeyHandle(1));
        let key = create.decode(&created(0x0004_0472, &[7; 3])).expect("because it is as asked for");
        assert_eq!(Some(key), wrapped(3));
        // May leave the TPM; may be moved; made outside; restricted; decrypts too.
        for attributes in [0x0004_0470, 0x0004_0462, 0x0004_0452, 0x0005_0472, 0x0006_0472] {
            assert!(create.decode(&created(attributes, &[7; 3])).is_err(), "{attributes:#x} was taken");
        }
        for private in [0, PRIVATE_BYTES_MAX + 1] {
            assert!(create.decode(&created(0x0004_0472, &vec![7; private])).is_err(), "{private} bytes were taken");
        }
    }

    #[test]
    fn answers_that_are_cut_off_or_longer_are_refused() {
        let create = create_signing_key(KeyHandle(1));
        let signature = response(&[], &[vec![0, 0x18, 0, 0x0b], sized(&[1; 32]), sized(&[2; 32])].concat());
        let loaded = response(&[0x80, 0, 0, 1], &sized(&[0; 34]));
        let key = wrapped(3).expect("because it is short");
        let (sign, load) = (sign(KeyHandle(1), &[5; 32]), load_key(KeyHandle(1), &key));
        assert!(sign.decode(&signature).is_ok());
        assert_eq!(load.decode(&loaded), Ok(KeyHandle(0x8000_0001)));
        let whole = created(0x0004_0472, &[7; 3]);
        for length in 0..whole.len() {
            assert!(create.decode(&whole[..length]).is_err());
        }
        for length in 0..signature.len() {
            assert!(sign.decode(&signature[..length]).is_err());
        }
        for length in 0..loaded.len() {
            assert!(load.decode(&loaded[..length]).is_err());
        }
        assert!(sign.decode(&[&signature[..], &[0]].concat()).is_err());
        let other_hash = response(&[], &[vec![0, 0x18, 0, 0x0c], sized(&[1; 32]), sized(&[2; 32])].concat());
        assert!(sign.decode(&other_hash).is_err());
        let long = response(&[], &[vec![0, 0x18, 0, 0x0b], sized(&[1; 33]), sized(&[2; 32])].concat());
        assert!(sign.decode(&long).is_err());
    }

    #[test]
    fn a_key_of_another_tpm_is_told_from_other_refusals() {
        let load = load_key(KeyHandle(1), &wrapped(3).expect("because it is short"));
        let refused = |code: u32| {
            let answer = [&[0x80, 0x01, 0, 0, 0, 10][..], &code.to_be_bytes()].concat();
            load.decode(&answer).expect_err("because the TPM refused").is_foreign_key()
        };
        // TPM_RC_INTEGRITY for the first parameter, and without saying for which; TPM_RC_SIZE, TPM_RC_BINDING and TPM_RC_LOCKOUT are not.
        assert!(refused(0x1df) && refused(0x09f));
        assert!(![0x1d5, 0x2e5, 0x921, 0x18b].into_iter().any(refused));
    }

    #[test]
    fn a_key_is_read_back_as_it_was_kept_and_nothing_else_is() {
        for private in [1, 126, PRIVATE_BYTES_MAX] {
            let key = wrapped(private).expect("because it fits");
            let kept = key.to_bytes();
            assert!(WrappedKey::is_kept(&kept));
            assert_eq!(WrappedKey::parse(&kept), Ok(key));
            assert!((0..kept.len()).all(|length| WrappedKey::parse(&kept[..length]).is_err()));
            assert!(WrappedKey::parse(&[&kept[..], &[0]].concat()).is_err());
        }
        assert!(wrapped(0).is_none() && wrapped(PRIVATE_BYTES_MAX + 1).is_none());
        assert!(!WrappedKey::is_kept(b"-----BEGIN PRIVATE KEY-----"));
    }

    #[test]
    fn the_longest_key_fits_into_one_sector_of_meta() {
        let bytes = wrapped(PRIVATE_BYTES_MAX).expect("because it fits").to_bytes();
        let record = MetaRecord { kind: MetaKind::IdentityKey, bytes }.encode().expect("because it is short");
        assert!(record.len() <= 512, "{} bytes: a power cut may write a part", record.len());
    }
}
