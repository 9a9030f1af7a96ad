//! The package index: what a mirror carries now, in the words of `apt-cache show`.
//!
//! Filled by `apt`, read when the lock is settled. Pure.

use std::collections::BTreeMap;

use crate::lock::Pin;

/// One version of one package that the mirror carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Package name.
    pub package: String,
    /// Debian version.
    pub version: String,
    /// SHA-256 of the .deb file.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// The Depends field as it stands.
    pub depends: String,
}

impl Candidate {
    /// The pin for exactly this file.
    pub fn pin(&self) -> Pin {
        let Candidate { package, version, sha256, size, depends: _ } = self;
        Pin { package: package.clone(), version: version.clone(), sha256: sha256.clone(), size: *size }
    }
}

/// Versions by package name, the one that apt would install first.
#[derive(Debug, Clone, Default)]
pub struct Index {
    packages: BTreeMap<String, Vec<Candidate>>,
    /// Packages that stand for the newest of a series: name to the real package.
    follows: BTreeMap<String, String>,
}

/// Why the index cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A record without a field that every record has.
    #[error("the index has a record of package {package:?} without {field}")]
    Field {
        /// Package name, as far as known.
        package: String,
        /// The missing field.
        field: &'static str,
    },
    /// Not in the index at all.
    #[error("the mirror has no package {0}; correct the profile's packages or use another mirror")]
    Unknown(String),
    /// The package that should depend on the current kernel does not.
    #[error("{0} does not depend on a linux-image package; correct the profile's kernel")]
    NoKernel(String),
}

impl Index {
    /// Parses records as `apt-cache show` prints them, best version of a package first.
    ///
    /// # Errors
    /// When a record lacks a field.
    pub fn parse(text: &str) -> Result<Index, IndexError> {
        let mut index = Index::default();
        for record in text.split("\n\n").filter(|record| !record.trim().is_empty()) {
            let optional = |name: &str| {
                record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
            };
            let package = optional("Package").unwrap_or_default();
            let field = |name: &'static str| {
                optional(name).ok_or_else(|| IndexError::Field { package: package.clone(), field: name })
            };
            let size = field("Size")?.parse().ok();
            let candidate = Candidate {
                version: field("Version")?,
                sha256: field("SHA256")?,
                size: size.ok_or_else(|| IndexError::Field { package: package.clone(), field: "Size" })?,
                depends: optional("Depends").unwrap_or_default(),
                package: field("Package")?,
            };
            let versions = index.packages.entry(package).or_default();
            if !versions.contains(&candidate) {
                versions.push(candidate);
            }
        }
        Ok(index)
    }

    /// Makes `name` stand for the kernel package that its best version depends on, and returns that name.
    ///
    /// # Errors
    /// When `name` is not in the index or depends on no kernel.
    pub fn follow_kernel(&mut self, name: &str) -> Result<String, IndexError> {
        let depends = self.candidate(name)?.depends.clone();
        let target = depends
            .split(',')
            .filter_map(|dependency| dependency.split_whitespace().next())
            .find(|package| package.starts_with("linux-image-"))
            .ok_or_else(|| IndexError::NoKernel(name.to_owned()))?
            .to_owned();
        self.follows.insert(name.to_owned(), target.clone());
        Ok(target)
    }

    /// Adds all of another index.
    pub fn merge(&mut self, other: Index) {
        self.packages.extend(other.packages);
        self.follows.extend(other.follows);
    }

    /// The best version for a name of the profile.
    ///
    /// # Errors
    /// When the mirror does not have it.
    pub fn candidate(&self, name: &str) -> Result<&Candidate, IndexError> {
        let name = self.follows.get(name).map_or(name, String::as_str);
        let best = self.packages.get(name).and_then(|versions| versions.first());
        best.ok_or_else(|| IndexError::Unknown(name.to_owned()))
    }

    /// One version of a package, when the mirror carries it.
    pub fn version(&self, package: &str, version: &str) -> Option<&Candidate> {
        self.packages.get(package)?.iter().find(|candidate| candidate.version == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(package: &str, version: &str, depends: &str) -> String {
        let digest = "c".repeat(64);
        format!("Package: {package}\nVersion: {version}\nDepends: {depends}\nSize: 7\nSHA256: {digest}\n\n")
    }

    #[test]
    fn the_first_version_is_the_best_one() {
        let text = record("runc", "2", "libc6") + &record("runc", "1", "libc6");
        let index = Index::parse(&text).expect("because the records are whole");
        assert_eq!(index.candidate("runc").expect("because runc is there").version, "2");
        assert_eq!(index.version("runc", "1").expect("because both are there").size, 7);
    }

    #[test]
    fn the_kernel_is_found_through_the_package_that_follows_it() {
        let text =
            record("linux-image-cloud-amd64", "6.12.117-1", "linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)")
                + &record("linux-image-6.12.117+deb13-cloud-amd64", "6.12.117-1", "kmod");
        let mut index = Index::parse(&text).expect("because the records are whole");
        index.follow_kernel("linux-image-cloud-amd64").expect("because it depends on a kernel");
        let kernel = index.candidate("linux-image-cloud-amd64").expect("because the kernel is in the index");
        assert_eq!(kernel.package, "linux-image-6.12.117+deb13-cloud-amd64");
    }

    #[test]
    fn an_unknown_package_is_named() {
        let error = Index::default().candidate("runk").expect_err("because the index is empty");
        assert!(error.to_string().contains("no package runk"), "{error}");
    }

    #[test]
    fn a_record_without_digest_is_refused() {
        let error = Index::parse("Package: runc\nVersion: 1\nSize: 3\n").expect_err("because SHA256 is missing");
        assert!(error.to_string().contains("without SHA256"), "{error}");
    }
}
