//! libFuzzer over one reader, which `CAIRN_FUZZ_TARGET` names. Built and started by `cargo xtask fuzz`; it reads and writes nothing but the
//! corpus that libFuzzer is given and temporary folders.
//!
//! ```text
//! CAIRN_FUZZ_TARGET=packs fuzz <libFuzzer's options> <corpus>      fuzzes
//! CAIRN_FUZZ_TARGET=packs fuzz <file>                              feeds one input again
//! CAIRN_FUZZ_SEEDS=<folder>                                        first writes the target's own seeds there
//! ```

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use tests_readers::{Target, target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("CAIRN_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("CAIRN_FUZZ_TARGET is {name:?}, which is no target"))
});

/// Writes the target's seeds before libFuzzer reads its corpus.
fn write_seeds() {
    let Some(folder) = std::env::var_os("CAIRN_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (number, seed) in (TARGET.seeds)().into_iter().enumerate() {
        let file = folder.join(format!("seed-{number}"));
        std::fs::write(&file, seed).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

libfuzzer_sys::fuzz_target!(init: write_seeds(), |input: &[u8]| (TARGET.feed)(input));
