//! Stage 4: the dm-verity superblock and hash tree behind the root file system, in the format of veritysetup.
//!
//! Called by `pipeline`; PID 1 sets the target up from what stands here and on the command line. Salt and UUID come from the
//! content, so the same root always has the same hash. Format: cryptsetup's wiki, page DMVerity.

use init_boot::{RootHash, Superblock, VERITY_BLOCK_BYTES, VerityError};
use sha2::{Digest as _, Sha256};

/// Bytes of a block of data and of hashes.
const BLOCK: usize = VERITY_BLOCK_BYTES as usize;

/// A root image: data, superblock and hash tree, as it is written into a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootImage {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Blocks of data before the superblock.
    pub data_blocks: u64,
    /// The hash that vouches for every block.
    pub root_hash: RootHash,
}

/// Appends superblock and hash tree to a file system.
///
/// # Errors
/// When the data is empty or too large for the format.
pub fn seal(mut data: Vec<u8>) -> Result<RootImage, VerityError> {
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    let content = Sha256::digest(&data);
    let derived = |purpose: &str| Sha256::new().chain_update(purpose).chain_update(content).finalize();
    let salt = derived("cairn verity salt").to_vec();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&derived("cairn verity uuid")[..16]);
    let data_blocks = (data.len() / BLOCK) as u64;
    let superblock = Superblock { uuid, data_blocks, salt: salt.clone() }.encode()?;

    let (tree, root_hash) = hash_tree(&data, &salt);
    let mut bytes = data;
    bytes.extend_from_slice(&superblock);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes.extend_from_slice(&tree);
    Ok(RootImage { bytes, data_blocks, root_hash })
}

/// The hash blocks, top level first as on disk, and the hash of the topmost one.
fn hash_tree(data: &[u8], salt: &[u8]) -> (Vec<u8>, RootHash) {
    let salted = Sha256::new().chain_update(salt);
    let mut levels: Vec<Vec<u8>> = Vec::new();
    loop {
        let below = levels.last().map_or(data, Vec::as_slice);
        // One block of hashes is the top; a single block of data has no tree at all.
        if below.len() == BLOCK {
            let root = salted.clone().chain_update(below).finalize();
            let tree = levels.into_iter().rev().flatten().collect();
            return (tree, RootHash::from_bytes(root.into()));
        }
        let mut level = Vec::with_capacity(below.len() / 128 + BLOCK);
        for block in below.chunks(BLOCK) {
            level.extend_from_slice(&salted.clone().chain_update(block).finalize());
        }
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        levels.push(level);
    }
}

#[cfg(test)]
mod tests;
