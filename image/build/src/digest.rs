//! SHA-256 of bytes and files, and the short keys that name cached results.
//!
//! Called by every stage. A key must cover everything that the stage's output depends on.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::files::FileError;

/// Bytes read at a time when a file is hashed.
const CHUNK_BYTES: usize = 1 << 20;

/// The SHA-256 of some bytes, in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The SHA-256 of a file, in lower-case hexadecimal.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String, FileError> {
    let mut file = File::open(path).map_err(FileError::because("open", path))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk).map_err(FileError::because("read", path))?;
        if count == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&chunk[..count]);
    }
}

/// Collects what a stage depends on and turns it into the name of its cached result.
pub struct Key(Sha256);

impl Key {
    /// Starts a key for the stage with this name.
    pub fn of(stage: &str) -> Key {
        Key(Sha256::new()).with(stage)
    }

    /// Adds one input; length first, so that neighbouring inputs cannot run into each other.
    pub fn with(mut self, input: impl AsRef<[u8]>) -> Key {
        let input = input.as_ref();
        self.0.update((input.len() as u64).to_le_bytes());
        self.0.update(input);
        self
    }

    /// The key: 32 hexadecimal digits, plenty against accidents.
    pub fn finish(self) -> String {
        hex::encode(&self.0.finalize()[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_do_not_run_into_each_other() {
        let one = Key::of("stage").with("ab").with("c").finish();
        let other = Key::of("stage").with("a").with("bc").finish();
        assert_ne!(one, other);
    }
}
