//! Unpacked packages: one folder each, named by digest, so that a second build finds them done.
//!
//! Called by the packages stage; later stages look files up through `UnpackedSet`. Must never merge packages into one
//! tree: then nobody could say where a file came from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PackagesError, check, deb_path};
use crate::files::{self, FileError};
use crate::lock::Pin;

/// One unpacked package.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// Which one.
    pub pin: Pin,
    /// The folder that is its `/`.
    pub folder: PathBuf,
}

/// Several unpacked packages, searched in order.
#[derive(Debug, Clone)]
pub struct UnpackedSet(Vec<Unpacked>);

/// Unpacks one package, unless that was done before.
pub(super) fn unpack(pin: &Pin, downloads: &Path, trees: &Path) -> Result<Unpacked, PackagesError> {
    let folder = trees.join(format!("{}_{}", pin.package, &pin.sha256[..16]));
    if !folder.exists() {
        check(pin, downloads)?;
        let deb = deb_path(pin, downloads);
        let partial = folder.with_extension("partial");
        files::replace_dir(&partial)?;
        let output = Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&partial).output();
        let output = output.map_err(FileError::because("run dpkg-deb on", &deb))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(PackagesError::Unpack { deb, message });
        }
        fs::rename(&partial, &folder).map_err(FileError::because("rename into place", &folder))?;
    }
    Ok(Unpacked { pin: pin.clone(), folder })
}

impl Unpacked {
    /// The file at an absolute path of the package; none when it has no such regular file. Links are followed inside of
    /// the package only as far as they are relative, which Debian's policy makes them within a folder.
    pub fn file(&self, path: &str) -> Option<PathBuf> {
        let path = self.folder.join(path.trim_start_matches('/'));
        path.is_file().then_some(path)
    }
}

impl UnpackedSet {
    /// A set that is searched in this order.
    pub fn new(packages: Vec<Unpacked>) -> UnpackedSet {
        UnpackedSet(packages)
    }

    /// The only package of a set of one.
    pub(super) fn into_only(self) -> Unpacked {
        let mut packages = self.0;
        packages.pop().expect("because the set was made of one name")
    }

    /// The file at an absolute path, from the first package that has it.
    pub fn file(&self, path: &str) -> Option<PathBuf> {
        self.0.iter().find_map(|package| package.file(path))
    }

    /// All packages in order.
    pub fn iter(&self) -> impl Iterator<Item = &Unpacked> {
        self.0.iter()
    }
}
