//! Shared libraries: what a program needs, found in the packages, until nothing is missing.
//!
//! Called by the root stage for every file it put into the tree, and by `tools` for programs of the build. Reads DT_NEEDED and the
//! interpreter only; what a program opens by name at run time (dlopen) must stand in the profile.

use std::collections::BTreeMap;
use std::path::PathBuf;

use object::elf;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::{Endianness, FileKind};

use crate::files::{self, FileError};
use crate::packages::UnpackedSet;

/// Where Debian's packages keep libraries of amd64.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// What one ELF file asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Dynamic linker; none when the program is static.
    pub interpreter: Option<String>,
    /// Names of shared libraries.
    pub libraries: Vec<String>,
}

/// One library and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    /// Path in the image.
    pub path: String,
    /// File of the host.
    pub source: PathBuf,
    /// Whether the kernel starts it as a program's dynamic linker; all others are only mapped.
    pub interpreter: bool,
}

/// Why the libraries cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A damaged program.
    #[error("{} is not a sound ELF file", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: object::Error,
    },
    /// No package has the library.
    #[error("{needed_by} needs {library}, which no package of the profile has; add the package that has it")]
    Missing {
        /// The program or library that asks.
        needed_by: String,
        /// What it asks for.
        library: String,
    },
}

/// Reads what an ELF file needs; nothing for a file that is not one.
///
/// # Errors
/// When it begins like an ELF file and is damaged.
pub fn needs(bytes: &[u8]) -> Result<Needs, object::Error> {
    match FileKind::parse(bytes) {
        Ok(FileKind::Elf64) => {}
        Ok(_) | Err(_) => return Ok(Needs::default()),
    }
    let header = elf::FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let mut needs = Needs::default();
    for segment in header.program_headers(endian, bytes)? {
        if let Some(path) = segment.interpreter(endian, bytes)? {
            needs.interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let sections = header.sections(endian, bytes)?;
    if let Some((dynamic, link)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, link)?;
        for entry in dynamic {
            if entry.tag(endian) == elf::DT_NEEDED {
                needs.libraries.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
            }
        }
    }
    Ok(needs)
}

/// All libraries that these files need, directly or through each other, sorted.
///
/// # Errors
/// When a file is damaged or no package has a library.
pub fn closure(programs: &[(String, PathBuf)], packages: &UnpackedSet) -> Result<Vec<Library>, ElfError> {
    let mut found: BTreeMap<String, Library> = BTreeMap::new();
    let mut open: Vec<(String, PathBuf)> = programs.to_vec();
    while let Some((name, path)) = open.pop() {
        let bytes = files::read(&path)?;
        let needs = needs(&bytes).map_err(|source| ElfError::Damaged { path: path.clone(), source })?;
        let interpreter = needs.interpreter.as_deref().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
        let asked = interpreter.into_iter().map(|name| (name, true));
        for (library, interpreter) in asked.chain(needs.libraries.into_iter().map(|name| (name, false))) {
            let path = format!("{LIBRARIES}/{library}");
            let Some(source) = packages.file(&path) else {
                return Err(ElfError::Missing { needed_by: name, library });
            };
            let known = found.entry(path.clone()).or_insert_with(|| {
                open.push((path.clone(), source.clone()));
                Library { path, source, interpreter }
            });
            known.interpreter |= interpreter;
        }
    }
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_program_needs_nothing() {
        let own = std::env::current_exe().expect("because the test runs from a file");
        let bytes = files::read(&own).expect("because the file is running");
        assert_eq!(needs(&bytes).expect("because the file is running"), Needs::default());
    }

    #[test]
    fn a_dynamic_program_names_its_linker_and_libraries() {
        let bytes = files::read("/bin/sh".as_ref()).expect("because every Debian host has a shell");
        let needs = needs(&bytes).expect("because the shell runs");
        assert_eq!(needs.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert!(needs.libraries.contains(&"libc.so.6".to_owned()), "{needs:?}");
    }

    #[test]
    fn text_is_no_program() {
        assert_eq!(needs(b"#!/bin/sh\n").expect("because text is passed over"), Needs::default());
    }
}
