//! Records on the META partition: a few fixed places, each with a header that says what it is and proves that it is
//! whole.
//!
//! The image builder writes the seed, machined reads it and keeps its identity key here, and the boot record says what
//! is being tried. Writers write the whole
//! record and sync; a torn write shows as a wrong digest, which is an error and never "absent".
//!
//! ```text
//! magic 8 | kind u32 | length u32 | SHA-256 of kind, length and bytes 32 | bytes      (integers little-endian)
//! ```

use sha2::{Digest, Sha256};
use thiserror::Error;

/// The size of the META partition, in bytes.
pub const META_BYTES: u64 = 1024 * 1024;
/// The distance of two records, in bytes: sixteen fit, seven are used.
const PLACE_BYTES: u64 = 64 * 1024;
/// The longest content of one record, in bytes: its place without the header.
pub const META_RECORD_BYTES_MAX: usize = PLACE_BYTES as usize - HEADER_BYTES;

const MAGIC: [u8; 8] = *b"CAIRNMET";
const HEADER_BYTES: usize = 48;

/// What a record holds; each kind has its own place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaKind {
    /// KDL text baked into the image: introduction, repositories, network defaults.
    Seed,
    /// The machine's identity key: as its TPM wrapped it, or as PKCS#8 PEM where there is no TPM.
    IdentityKey,
    /// One copy of the boot record, see [`crate::BootRecord`].
    BootFirst,
    /// The other copy.
    BootSecond,
    /// Somebody wants the machine to forget everything; machined does it at the next start, before anything else.
    Reset,
    /// KDL text on an installer's medium, never on a disk: what to install on. A boot with it is an installation.
    Install,
    /// KDL text: network and time servers of the machine's document, for a start whose disk waits for other machines.
    Reach,
}

/// One record.
#[derive(Clone, PartialEq, Eq)]
pub struct MetaRecord {
    /// What it holds.
    pub kind: MetaKind,
    /// Its content, at most [`META_RECORD_BYTES_MAX`] long.
    pub bytes: Vec<u8>,
}

/// Why a record cannot be read or written.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MetaError {
    /// More content than its place holds.
    #[error("a META record of {bytes} bytes is too long, at most {META_RECORD_BYTES_MAX} fit")]
    TooLong {
        /// The content's length.
        bytes: usize,
    },
    /// Fewer bytes than the header or its length want.
    #[error("the {kind:?} record on META is cut off: {bytes} bytes are there, {wanted} are needed")]
    CutOff {
        /// Which record.
        kind: MetaKind,
        /// What is there.
        bytes: usize,
        /// What is needed.
        wanted: usize,
    },
    /// Something else lies there.
    #[error("the {kind:?} place on META holds neither zeros nor a record; it was written by something else")]
    Magic {
        /// Which record was looked for.
        kind: MetaKind,
    },
    /// A record of another kind lies there.
    #[error("the {kind:?} place on META holds a record of kind {found}")]
    Kind {
        /// Which record was looked for.
        kind: MetaKind,
        /// The number that stands there.
        found: u32,
    },
    /// Torn or damaged.
    #[error("the {kind:?} record on META is damaged: its digest does not match its content")]
    Digest {
        /// Which record.
        kind: MetaKind,
    },
}

impl MetaKind {
    /// What a reset erases: all that makes this machine another one than its neighbour from the same image.
    pub const OF_THE_MACHINE: [Self; 2] = [Self::IdentityKey, Self::Reach];

    /// Where its place begins on the partition, in bytes.
    pub const fn offset(self) -> u64 {
        match self {
            Self::Seed => 0,
            Self::IdentityKey => PLACE_BYTES,
            Self::BootFirst => 2 * PLACE_BYTES,
            Self::BootSecond => 3 * PLACE_BYTES,
            Self::Reset => 4 * PLACE_BYTES,
            Self::Install => 6 * PLACE_BYTES,
            Self::Reach => 7 * PLACE_BYTES,
        }
    }

    /// How many bytes to read there: a whole place.
    pub const fn place_bytes(self) -> usize {
        PLACE_BYTES as usize
    }

    const fn number(self) -> u32 {
        match self {
            Self::Seed => 1,
            Self::IdentityKey => 2,
            Self::BootFirst => 3,
            Self::BootSecond => 4,
            Self::Reset => 5,
            Self::Install => 6,
            Self::Reach => 7,
        }
    }
}

impl MetaRecord {
    /// The record as it is written at its kind's offset.
    ///
    /// # Errors
    /// When the content is longer than [`META_RECORD_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, MetaError> {
        let too_long = || MetaError::TooLong { bytes: self.bytes.len() };
        if self.bytes.len() > META_RECORD_BYTES_MAX {
            return Err(too_long());
        }
        let length = u32::try_from(self.bytes.len()).map_err(|_| too_long())?;
        let mut encoded = Vec::with_capacity(HEADER_BYTES + self.bytes.len());
        encoded.extend_from_slice(&MAGIC);
        encoded.extend_from_slice(&self.kind.number().to_le_bytes());
        encoded.extend_from_slice(&length.to_le_bytes());
        encoded.extend_from_slice(&digest(self.kind.number(), length, &self.bytes));
        encoded.extend_from_slice(&self.bytes);
        Ok(encoded)
    }

    /// Reads the record of `kind` from the bytes at its offset; `None` when nothing was ever written there.
    ///
    /// # Errors
    /// When the place holds something that is not a whole record of that kind.
    pub fn parse(kind: MetaKind, place: &[u8]) -> Result<Option<Self>, MetaError> {
        let Some((header, rest)) = place.split_at_checked(HEADER_BYTES) else {
            return Err(MetaError::CutOff { kind, bytes: place.len(), wanted: HEADER_BYTES });
        };
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if header[..8] != MAGIC {
            return Err(MetaError::Magic { kind });
        }
        let found = u32_at(header, 8);
        if found != kind.number() {
            return Err(MetaError::Kind { kind, found });
        }
        let length = u32_at(header, 12);
        let wanted = length as usize;
        if wanted > META_RECORD_BYTES_MAX {
            return Err(MetaError::TooLong { bytes: wanted });
        }
        let bytes =
            rest.get(..wanted).ok_or(MetaError::CutOff { kind, bytes: place.len(), wanted: HEADER_BYTES + wanted })?;
        if header[16..HEADER_BYTES] != digest(found, length, bytes) {
            return Err(MetaError::Digest { kind });
        }
        Ok(Some(Self { kind, bytes: bytes.to_vec() }))
    }
}

/// The content may be a private key, so only its length is shown.
impl std::fmt::Debug for MetaRecord {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "MetaRecord({:?}, {} bytes)", self.kind, self.bytes.len())
    }
}

fn digest(kind: u32, length: u32, bytes: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(kind.to_le_bytes());
    hasher.update(length.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize().into()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(four)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: &[u8]) -> Vec<u8> {
        MetaRecord { kind: MetaKind::Seed, bytes: bytes.to_vec() }.encode().expect("because the content is short")
    }

    #[test]
    fn a_record_is_read_back_from_its_place() {
        let mut place = encoded(b"seed { }");
        place.resize(MetaKind::Seed.place_bytes(), 0xaa);
        let record =
            MetaRecord::parse(MetaKind::Seed, &place).expect("because it is whole").expect("because it is there");
        assert_eq!(record.bytes, b"seed { }");
    }

    #[test]
    fn a_place_of_zeros_is_absent() {
        assert_eq!(MetaRecord::parse(MetaKind::IdentityKey, &[0; 4096]), Ok(None));
    }

    #[test]
    fn each_changed_byte_is_noticed() {
        let whole = encoded(b"content");
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 1;
            assert!(MetaRecord::parse(MetaKind::Seed, &damaged).is_err(), "byte {index} may change unnoticed");
        }
    }

    #[test]
    fn cut_off_and_misplaced_records_are_refused() {
        let whole = encoded(b"content");
        for length in 0..whole.len() {
            assert!(matches!(MetaRecord::parse(MetaKind::Seed, &whole[..length]), Err(MetaError::CutOff { .. })));
        }
        let misplaced = MetaRecord::parse(MetaKind::IdentityKey, &whole);
        assert_eq!(misplaced, Err(MetaError::Kind { kind: MetaKind::IdentityKey, found: 1 }));
        let long = MetaRecord { kind: MetaKind::Seed, bytes: vec![0; META_RECORD_BYTES_MAX + 1] };
        assert!(long.encode().is_err());
    }
}
