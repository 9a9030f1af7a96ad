//! What made our programs: compilers and linkers name themselves in the `.comment` section of what they make.
//!
//! Read by `pipeline` and kept in the lock, because another compiler makes other bytes from the same source. Pure.

use std::collections::BTreeSet;

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _};

/// Longest name that is kept, in bytes: a linker's holds a commit's id.
const NAME_BYTES_MAX: usize = 200;

/// The names in one program; none when it has no such section or is no program.
pub fn of(program: &[u8]) -> BTreeSet<String> {
    let Ok(file) = ElfFile64::<object::Endianness>::parse(program) else { return BTreeSet::new() };
    let section = file.section_by_name(".comment").and_then(|section| section.data().ok());
    let names = section.unwrap_or_default().split(|byte| *byte == 0);
    names.filter_map(name).collect()
}

/// One line of printable ASCII; what is none is not taken.
fn name(bytes: &[u8]) -> Option<String> {
    let printable = bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (printable && !text.is_empty() && text.len() <= NAME_BYTES_MAX).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_rust_names_its_compiler() {
        let own = std::env::current_exe().and_then(std::fs::read).expect("because the test runs from a file");
        let names = of(&own);
        assert!(names.iter().any(|name| name.starts_with("rustc version ")), "{names:?}");
    }

    #[test]
    fn what_is_no_program_names_nothing() {
        assert!(of(b"#!/bin/sh\n").is_empty());
        assert!(of(&[]).is_empty());
        assert_eq!(name(b"two\nlines"), None);
    }
}
