//! Programs of the build that come from pinned packages, such as mksquashfs.
//!
//! Each is started through the dynamic linker of its own packages with their libraries, so the host's version of libc does not
//! matter and the result is the same on every host. Must never fall back to a program of the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::elf::{self, ElfError};
use crate::packages::UnpackedSet;

/// The dynamic linker of amd64 in Debian's package libc6.
const LINKER: &str = "ld-linux-x86-64.so.2";

/// A program with its linker and the folders of its libraries.
#[derive(Debug, Clone)]
pub struct Tool {
    linker: PathBuf,
    library_path: String,
    program: PathBuf,
}

/// Why a tool cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// Not in the packages.
    #[error("no package of the profile's tools has {0}")]
    Missing(String),
    /// Its libraries are not in the packages.
    #[error(transparent)]
    Libraries(#[from] ElfError),
}

impl Tool {
    /// Finds a program by its absolute path in the packages.
    ///
    /// # Errors
    /// When the program or one of its libraries is not there.
    pub fn find(path: &str, packages: &UnpackedSet) -> Result<Tool, ToolError> {
        let program = packages.file(path).ok_or_else(|| ToolError::Missing(path.to_owned()))?;
        let libraries = elf::closure(&[(path.to_owned(), program.clone())], packages)?;
        let linker = libraries.iter().find(|library| library.path.ends_with(LINKER)).map(|found| found.source.clone());
        let linker = linker.ok_or_else(|| ToolError::Missing(LINKER.to_owned()))?;
        let mut folders: Vec<&Path> = libraries.iter().filter_map(|library| library.source.parent()).collect();
        folders.sort();
        folders.dedup();
        let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        Ok(Tool { linker, library_path: folders.join(":"), program })
    }

    /// A command that starts the program with an empty environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.linker);
        command.arg("--library-path").arg(&self.library_path).arg(&self.program).env_clear().env("LC_ALL", "C");
        command
    }
}
