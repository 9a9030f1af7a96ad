//! Loading kernel modules.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::error::SystemError;

/// MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel decompresses, where it was built to.
const COMPRESSED_FILE: u32 = 4;

/// Loads one module; a name that ends in .xz, .zst or .gz asks the kernel to decompress it.
pub fn load_module(path: &Path) -> Result<(), SystemError> {
    let compressed = path.extension().is_some_and(|ending| ["xz", "zst", "gz"].iter().any(|known| ending == *known));
    let flags = match compressed {
        true => ModuleInitFlags::from_bits_retain(COMPRESSED_FILE),
        false => ModuleInitFlags::empty(),
    };
    let file = File::open(path).map_err(|source| SystemError::path("open", path, source))?;
    match finit_module(&file, c"", flags) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(source) => Err(SystemError::path("finit_module", path, source)),
    }
}
