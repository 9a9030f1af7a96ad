//! What an image is made of, for those who look for vulnerable or unwanted software: SPDX 2.3, CycloneDX 1.6 and a provenance statement.
//!
//! Called at the end of `pipeline`. All three follow from lock file, Cargo.lock and sources alone: the same image has the same bill.
//! Must never list what could be in an image as if it were: build tools stand in the provenance, as inputs.

mod crates;
mod cyclonedx;
mod licence;
mod provenance;
mod spdx;

use std::path::{Path, PathBuf};
use std::process::Command;

use init_boot::artefact::ArtefactManifest;

use crate::files::{self, FileError};
use crate::packages::{Packages, Unpacked};

pub use crates::CratesError;

/// One piece of software in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// Its package URL (<https://github.com/package-url/purl-spec>): unique in an image.
    pub purl: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// An SPDX licence expression; none when nobody said one that can be read.
    pub licence: Option<String>,
    /// SHA-256 of the package's file; none for our own sources.
    pub sha256: Option<String>,
}

/// All that the three documents say.
pub struct Bill<'a> {
    /// The image.
    pub manifest: &'a ArtefactManifest,
    /// What is inside, by package URL.
    pub components: Vec<Component>,
    /// Packages that ran or were looked at during the build.
    pub tools: Vec<Component>,
    /// SHA-256 of the lock file.
    pub lock_sha256: String,
    /// What made our programs.
    pub compilers: Vec<String>,
    /// The commit of the sources, when they lie in a git repository.
    pub commit: Option<String>,
}

/// Collects components from packages and from the sources that the folder of profiles belongs to.
///
/// # Errors
/// When cargo cannot tell what our programs are made of.
pub fn components(packages: &Packages, profiles: &Path, programs: &[&str]) -> Result<Vec<Component>, CratesError> {
    let debian = packages.image.iter().chain(std::iter::once(&packages.kernel));
    let mut found: Vec<Component> = debian.map(debian_component).collect();
    if let Some(checkout) = checkout(profiles) {
        found.extend(crates::components(&checkout, programs)?);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The build's tools.
pub fn tools(packages: &Packages) -> Vec<Component> {
    let mut found: Vec<Component> = packages.tools.iter().map(debian_component).collect();
    found.sort();
    found.dedup();
    found
}

fn debian_component(package: &Unpacked) -> Component {
    let pin = &package.pin;
    let copyright = package.file(&format!("/usr/share/doc/{}/copyright", pin.package));
    let licence = copyright.and_then(|path| files::read_text(&path).ok()).and_then(|text| licence::of_copyright(&text));
    Component {
        purl: format!("pkg:deb/debian/{}@{}?arch=amd64", percent(&pin.package), percent(&pin.version)),
        name: pin.package.clone(),
        version: pin.version.clone(),
        licence,
        sha256: Some(pin.sha256.clone()),
    }
}

/// Percent-encodes what a package URL does not take as it is.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':');
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

/// The checkout that a folder of profiles lies in.
fn checkout(profiles: &Path) -> Option<PathBuf> {
    let profiles = std::path::absolute(profiles).ok()?;
    profiles.ancestors().find(|folder| folder.join("Cargo.lock").is_file()).map(Path::to_path_buf)
}

/// The commit that a folder of profiles is of, with `-dirty` when files differ from it.
pub fn commit(profiles: &Path) -> Option<String> {
    let checkout = checkout(profiles)?;
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&checkout).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { head } else { format!("{head}-dirty") })
}

/// Writes the three documents beside the artefact.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(bill: &Bill<'_>, folder: &Path) -> Result<(), FileError> {
    let name = bill.manifest.file_name();
    let stem = name.trim_end_matches(".artefact");
    for (kind, document) in [
        ("spdx", spdx::document(bill)),
        ("cdx", cyclonedx::document(bill)),
        ("provenance", provenance::statement(bill)),
    ] {
        let mut text = serde_json::to_string_pretty(&document).expect("because it holds strings and numbers only");
        text.push('\n');
        files::write(&folder.join(format!("{stem}.{kind}.json")), text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
