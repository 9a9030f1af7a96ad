//! The dm-verity superblock (version 1, as veritysetup writes it) and the table line that the kernel's verity target
//! takes.
//!
//! The image builder encodes the superblock behind the data, stage one parses it for the salt. Only SHA-256 over
//! blocks of 4096 bytes is accepted: one shape is tested, others are mistakes. Nothing in the superblock is trusted:
//! a wrong salt or count gives a wrong hash, and the kernel compares with the root hash of the command line.
//!
//! Layout: <https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity>, table:
//! Documentation/admin-guide/device-mapper/verity.rst.

use thiserror::Error;

use crate::root_hash::RootHash;

/// The block size of data and hashes, in bytes.
pub const VERITY_BLOCK_BYTES: u32 = 4096;
/// The size of the superblock, in bytes; the rest of its hash block is zeros.
pub const SUPERBLOCK_BYTES: usize = 512;
/// Device-mapper counts in sectors of 512 bytes, whatever the disk's are.
const SECTORS_PER_BLOCK: u64 = VERITY_BLOCK_BYTES as u64 / 512;
/// The longest salt that the format holds, in bytes.
const SALT_BYTES_MAX: usize = 256;
/// The most data blocks whose sectors still fit in 64 bits.
const DATA_BLOCKS_MAX: u64 = u64::MAX / SECTORS_PER_BLOCK - 1;

const SIGNATURE: [u8; 8] = *b"verity\0\0";
const VERSION: u32 = 1;
const HASH_TYPE_NORMAL: u32 = 1;
const ALGORITHM: &[u8] = b"sha256";

/// What a superblock says that can differ between images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The image's UUID; informational.
    pub uuid: [u8; 16],
    /// The number of data blocks.
    pub data_blocks: u64,
    /// What is hashed before each block, at most 256 bytes.
    pub salt: Vec<u8>,
}

/// Everything the kernel's verity target needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerityTable {
    /// The length of the mapped device, in sectors of 512 bytes.
    pub sectors: u64,
    /// The target's parameters.
    pub parameters: String,
}

/// Why a superblock is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VerityError {
    /// Too few bytes.
    #[error("a verity superblock has {SUPERBLOCK_BYTES} bytes, {bytes} are there")]
    CutOff {
        /// What is there.
        bytes: usize,
    },
    /// No superblock at all.
    #[error("there is no verity superblock where the command line says that the hash tree begins")]
    Signature,
    /// Another shape than the one we build.
    #[error("the verity superblock has {field} {found}, only {wanted} is supported")]
    Unsupported {
        /// What differs.
        field: &'static str,
        /// What stands there.
        found: u64,
        /// What we build.
        wanted: u64,
    },
    /// Another hash.
    #[error("the verity superblock names another hash algorithm than sha256")]
    Algorithm,
    /// A salt that does not fit.
    #[error("a verity salt has at most {SALT_BYTES_MAX} bytes, this one has {bytes}")]
    Salt {
        /// Its length.
        bytes: usize,
    },
    /// No blocks, or more than can be addressed.
    #[error("a verity device of {blocks} blocks cannot be made")]
    DataBlocks {
        /// The count.
        blocks: u64,
    },
    /// The superblock and the command line disagree.
    #[error("the verity superblock counts {superblock} data blocks, the command line {command_line}")]
    Disagreement {
        /// The superblock's count.
        superblock: u64,
        /// The command line's count.
        command_line: u64,
    },
}

impl Superblock {
    /// Encodes it as veritysetup does.
    ///
    /// # Errors
    /// When the salt is too long or the count of blocks impossible.
    pub fn encode(&self) -> Result<[u8; SUPERBLOCK_BYTES], VerityError> {
        check_blocks(self.data_blocks)?;
        let salt_length = self.salt.len();
        if salt_length > SALT_BYTES_MAX {
            return Err(VerityError::Salt { bytes: salt_length });
        }
        let mut block = [0; SUPERBLOCK_BYTES];
        block[0..8].copy_from_slice(&SIGNATURE);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&HASH_TYPE_NORMAL.to_le_bytes());
        block[16..32].copy_from_slice(&self.uuid);
        block[32..32 + ALGORITHM.len()].copy_from_slice(ALGORITHM);
        block[64..68].copy_from_slice(&VERITY_BLOCK_BYTES.to_le_bytes());
        block[68..72].copy_from_slice(&VERITY_BLOCK_BYTES.to_le_bytes());
        block[72..80].copy_from_slice(&self.data_blocks.to_le_bytes());
        block[80..82].copy_from_slice(&(salt_length as u16).to_le_bytes());
        block[88..88 + salt_length].copy_from_slice(&self.salt);
        Ok(block)
    }

    /// Parses the first bytes of the hash area.
    ///
    /// # Errors
    /// When it is not a superblock of the one shape that we build.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerityError> {
        let block = bytes.get(..SUPERBLOCK_BYTES).ok_or(VerityError::CutOff { bytes: bytes.len() })?;
        if block[0..8] != SIGNATURE {
            return Err(VerityError::Signature);
        }
        expect("version", u32_at(block, 8), VERSION)?;
        expect("hash type", u32_at(block, 12), HASH_TYPE_NORMAL)?;
        let algorithm = &block[32..64];
        if !algorithm.starts_with(ALGORITHM) || algorithm[ALGORITHM.len()..].iter().any(|byte| *byte != 0) {
            return Err(VerityError::Algorithm);
        }
        expect("data block size", u32_at(block, 64), VERITY_BLOCK_BYTES)?;
        expect("hash block size", u32_at(block, 68), VERITY_BLOCK_BYTES)?;
        let mut count = [0; 8];
        count.copy_from_slice(&block[72..80]);
        let data_blocks = u64::from_le_bytes(count);
        check_blocks(data_blocks)?;
        let salt_length = usize::from(u16::from_le_bytes([block[80], block[81]]));
        if salt_length > SALT_BYTES_MAX {
            return Err(VerityError::Salt { bytes: salt_length });
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&block[16..32]);
        Ok(Self { uuid, data_blocks, salt: block[88..88 + salt_length].to_vec() })
    }

    /// The table for `device` (a path or `major:minor`), which holds data, superblock and hash tree one after the
    /// other.
    ///
    /// # Errors
    /// When `command_line_blocks`, the count that the UKI vouches for, is another than the superblock's.
    pub fn table(&self, device: &str, root: &RootHash, command_line_blocks: u64) -> Result<VerityTable, VerityError> {
        if self.data_blocks != command_line_blocks {
            return Err(VerityError::Disagreement { superblock: self.data_blocks, command_line: command_line_blocks });
        }
        check_blocks(self.data_blocks)?;
        let salt = match self.salt.as_slice() {
            [] => "-".to_owned(),
            salt => salt.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let block = VERITY_BLOCK_BYTES;
        let blocks = self.data_blocks;
        // The superblock fills one hash block, the tree begins in the next one.
        let tree = blocks + 1;
        Ok(VerityTable {
            sectors: blocks * SECTORS_PER_BLOCK,
            parameters: format!("1 {device} {device} {block} {block} {blocks} {tree} sha256 {root} {salt}"),
        })
    }
}

fn check_blocks(blocks: u64) -> Result<(), VerityError> {
    match blocks {
        1..=DATA_BLOCKS_MAX => Ok(()),
        _ => Err(VerityError::DataBlocks { blocks }),
    }
}

fn expect(field: &'static str, found: u32, wanted: u32) -> Result<(), VerityError> {
    match found == wanted {
        true => Ok(()),
        false => Err(VerityError::Unsupported { field, found: found.into(), wanted: wanted.into() }),
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(four)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock { uuid: [3; 16], data_blocks: 1000, salt: vec![0xab; 32] }
    }

    #[test]
    fn a_superblock_survives_encoding() {
        let bytes = superblock().encode().expect("because it is well formed");
        assert_eq!(Superblock::parse(&bytes), Ok(superblock()));
    }

    #[test]
    fn the_table_names_both_devices_and_the_block_behind_the_superblock() {
        let root = RootHash::from_bytes([0x11; 32]);
        let table = superblock().table("254:3", &root, 1000).expect("because the counts agree");
        assert_eq!(table.sectors, 8000);
        let expected = format!("1 254:3 254:3 4096 4096 1000 1001 sha256 {} {}", "11".repeat(32), "ab".repeat(32));
        assert_eq!(table.parameters, expected);
        let plain = Superblock { salt: Vec::new(), ..superblock() };
        let table = plain.table("/dev/vda2", &root, 1000).expect("because the counts agree");
        assert!(table.parameters.ends_with(" -"));
    }

    #[test]
    fn the_command_line_has_the_last_word_on_the_size() {
        let root = RootHash::from_bytes([0x11; 32]);
        let refused = superblock().table("254:3", &root, 999);
        assert_eq!(refused, Err(VerityError::Disagreement { superblock: 1000, command_line: 999 }));
    }

    #[test]
    fn other_shapes_are_refused() {
        let whole = superblock().encode().expect("because it is well formed");
        for (index, value) in [(0, 0), (8, 2), (12, 0), (32, b'x'), (38, b'x'), (64, 1), (68, 1), (81, 255)] {
            let mut other = whole;
            other[index] = value;
            assert!(Superblock::parse(&other).is_err(), "byte {index} = {value} was accepted");
        }
        assert_eq!(Superblock::parse(&whole[..511]), Err(VerityError::CutOff { bytes: 511 }));
        let mut huge = whole;
        huge[72..80].fill(0xff);
        assert_eq!(Superblock::parse(&huge), Err(VerityError::DataBlocks { blocks: u64::MAX }));
    }
}
