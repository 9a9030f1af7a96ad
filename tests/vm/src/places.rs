//! Where things lie: the workspace, what is built, and the folder of one demo or test.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Folders and programs.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
    home: PathBuf,
}

impl Places {
    /// The workspace that this program was built from, with `home` (relative to it) for everything that is made.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(home: &str) -> Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().context("finding the workspace")?;
        let home = root.join(home);
        std::fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
        Ok(Places { root, home })
    }

    /// The workspace.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or folder of this demo or test.
    #[must_use]
    pub fn home(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// What images are built in, shared by demo and tests.
    #[must_use]
    pub fn image(&self, name: &str) -> PathBuf {
        self.root.join(".cairn/image").join(name)
    }

    /// Where cargo puts release programs.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        target.join("x86_64-unknown-linux-gnu/release")
    }

    /// One of our programs, as text for a command line.
    ///
    /// # Errors
    /// When the path is no text.
    pub fn program(&self, name: &str) -> Result<String> {
        text(&self.programs().join(name))
    }
}

/// A path as text for a command line.
pub(crate) fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is no text", path.display()))?.to_owned())
}
