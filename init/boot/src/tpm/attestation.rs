//! What a TPM signs about itself: the attestation key's public part, a quote, and the signature over it.
//!
//! The machine hands these bytes on as they are; whoever checks them parses them here.

use super::pcr::read_selection;
use super::wire::{Reader, Writer};
use super::{Fault, NONCE_BYTES_MAX, PCR_BYTES, Pcr, TpmError};

pub(super) const ALG_ECC: u16 = 0x0023;
pub(super) const ALG_ECDSA: u16 = 0x0018;
pub(super) const ALG_SHA256: u16 = 0x000b;
pub(super) const ALG_NULL: u16 = 0x0010;
pub(super) const CURVE_P256: u16 = 0x0003;
/// What begins everything that a TPM says about itself; a restricted key signs nothing else that begins so.
const GENERATED: u32 = 0xff54_4347;
const ATTEST_QUOTE: u16 = 0x8018;

/// Made in this TPM and never leaving it, and restricted: it signs only what the TPM itself made. fixedTPM, fixedParent,
/// sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const KEY_ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 18;

/// Everything of the public area of a key that signs by ECDSA with SHA-256, before the point.
pub(super) fn signing_head(attributes: u32) -> Writer {
    let kind = Writer::default().u16(ALG_ECC).u16(ALG_SHA256).u32(attributes).sized(&[]);
    kind.u16(ALG_NULL).u16(ALG_ECDSA).u16(ALG_SHA256).u16(CURVE_P256).u16(ALG_NULL)
}

fn head() -> Writer {
    signing_head(KEY_ATTRIBUTES)
}

/// What the key is made from.
pub(super) fn template() -> Vec<u8> {
    head().sized(&[]).sized(&[]).done()
}

/// The public part of an attestation key: a point of P-256, of a key with exactly the attributes that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationPublic {
    x: [u8; 32],
    y: [u8; 32],
}

impl AttestationPublic {
    /// Parses a public area (`TPMT_PUBLIC`), as [`AttestationPublic::to_bytes`] writes it.
    ///
    /// # Errors
    /// When it is another kind of key, or not well formed.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        Self::read(bytes).map_err(|fault| fault.of("TPM2_CreatePrimary"))
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let point = bytes.strip_prefix(head().done().as_slice());
        let point = point.ok_or(Fault::Malformed("the key is of another kind than was asked for"))?;
        let mut reader = Reader::new(point);
        let key = AttestationPublic { x: reader.number()?, y: reader.number()? };
        reader.end().map(|()| key)
    }

    /// The public area (`TPMT_PUBLIC`).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        head().sized(&self.x).sized(&self.y).done()
    }

    /// The point, uncompressed: what libraries check signatures with.
    #[must_use]
    pub fn point(&self) -> [u8; 65] {
        super::uncompressed(&self.x, &self.y)
    }
}

/// An ECDSA signature with SHA-256: r, then s, 32 bytes each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcdsaSignature(pub [u8; 64]);

impl EcdsaSignature {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.expect_u16(ALG_ECDSA, "the signature is of another kind")?;
        reader.expect_u16(ALG_SHA256, "the signature is over another hash")?;
        let mut both = [0; 64];
        both[..32].copy_from_slice(&reader.number()?);
        both[32..].copy_from_slice(&reader.number()?);
        Ok(EcdsaSignature(both))
    }
}

/// What a TPM said about its registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// What the asker sent.
    pub nonce: Vec<u8>,
    /// Starts of the machine, as the TPM counts them.
    pub resets: u32,
    /// Wake-ups since the last start.
    pub restarts: u32,
    /// Which registers, in the order of their numbers.
    pub pcrs: Vec<Pcr>,
    /// SHA-256 over their values, as [`super::pcr_digest`] makes it.
    pub digest: [u8; PCR_BYTES],
}

impl Quote {
    /// Parses what was signed (`TPMS_ATTEST`). It says nothing before the signature was checked.
    ///
    /// # Errors
    /// When it is no quote over the SHA-256 bank, or not well formed.
    pub fn parse(attested: &[u8]) -> Result<Self, TpmError> {
        Self::read(attested).map_err(|fault| fault.of("TPM2_Quote"))
    }

    fn read(attested: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(attested);
        reader.expect_u32(GENERATED, "no TPM made it")?;
        reader.expect_u16(ATTEST_QUOTE, "it is no quote")?;
        let _signer = reader.sized()?;
        let nonce = reader.sized()?;
        if nonce.len() > NONCE_BYTES_MAX {
            return Err(Fault::Malformed("its nonce is too long"));
        }
        let (_clock, resets, restarts, _safe) = (reader.u64()?, reader.u32()?, reader.u32()?, reader.u8()?);
        let _firmware = reader.u64()?;
        let pcrs = read_selection(&mut reader)?;
        let digest = reader.sized()?.try_into().map_err(|_| Fault::Malformed("its digest has another length"))?;
        reader.end()?;
        Ok(Quote { nonce: nonce.to_vec(), resets, restarts, pcrs, digest })
    }
}
