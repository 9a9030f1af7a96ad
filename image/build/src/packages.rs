//! Stage 1: the packages of a profile, pinned by the lock, downloaded, verified and unpacked.
//!
//! Called by `pipeline`. apt runs with a configuration of its own below the build directory and needs no root; it verifies the
//! archive's signature with Debian's keyring, and every .deb is hashed against the lock again here. Must never read or
//! change the host's package state.

mod apt;
mod index;
mod sources;
mod unpack;

use std::path::{Path, PathBuf};

use crate::digest;
use crate::files::{self, FileError};
use crate::lock::{Lock, Pin};
use crate::profile::Profile;
use crate::progress::Progress;

pub use apt::AptError;
pub use index::{Candidate, Index, IndexError};
pub use sources::{Mirror, MirrorError, host_mirror};
pub use unpack::{Unpacked, UnpackedSet};

/// What to do when the lock and the mirror disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Take what the mirror has now for a version that is gone, and rewrite the lock.
    Follow,
    /// Refuse.
    Locked,
    /// Move every package to what the mirror has now.
    Refresh,
}

/// Why the packages of a profile cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// apt failed.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The package index is damaged, or a package is not in it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// No mirror to take packages from.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// `--locked`, and the mirror no longer carries a pinned version.
    #[error(
        "the mirror no longer carries {} of the lock:\n  {}\nBuild without --locked to move the lock to what it carries now.",
        if gone.len() == 1 { "a package" } else { "packages" },
        gone.join("\n  ")
    )]
    Gone {
        /// "name version" of each.
        gone: Vec<String>,
    },
    /// Same version, other content: never acceptable.
    #[error(
        "{package} {version} has SHA-256 {found}, the lock says {locked}. \
         A released version never changes: find out why before removing its line from the lock"
    )]
    Changed {
        /// Package name.
        package: String,
        /// Its version.
        version: String,
        /// Digest in the lock.
        locked: String,
        /// Digest that was found.
        found: String,
    },
    /// dpkg-deb could not unpack a package.
    #[error("cannot unpack {}: {message}", deb.display())]
    Unpack {
        /// The package file.
        deb: PathBuf,
        /// What dpkg-deb said.
        message: String,
    },
}

/// The inputs of this stage.
pub struct Request<'a> {
    /// Which packages.
    pub profile: &'a Profile,
    /// The lock as it was read.
    pub lock: Lock,
    /// What to do when it does not fit the mirror.
    pub mode: LockMode,
    /// `--mirror`; the host's own when absent.
    pub mirror: Option<Mirror>,
    /// Where apt's state, downloads and unpacked trees are kept.
    pub cache: &'a Path,
}

/// The output of this stage.
pub struct Packages {
    /// The lock as it is now.
    pub lock: Lock,
    /// One line for each pin that moved: for people.
    pub moved: Vec<String>,
    /// Unpacked packages that may enter the image.
    pub image: UnpackedSet,
    /// Unpacked tools of the build.
    pub tools: UnpackedSet,
    /// The kernel package.
    pub kernel: Unpacked,
}

/// Names the profile asks for, in order: kernel, packages, tools.
fn wanted(profile: &Profile) -> Vec<String> {
    let mut names = vec![profile.kernel.clone()];
    names.extend(profile.packages.iter().cloned());
    names.extend(profile.tools.iter().cloned());
    names
}

/// Brings all packages of the profile into the cache, unpacked.
///
/// When every pin is there already, neither apt nor the network is touched.
///
/// # Errors
/// See [`PackagesError`].
pub fn provide(request: Request<'_>, progress: &dyn Progress) -> Result<Packages, PackagesError> {
    let Request { profile, mut lock, mode, mirror, cache } = request;
    let names = wanted(profile);
    let downloads = cache.join("debs");
    files::create_dir(&downloads)?;
    lock.keep_only(&names);

    let mut moved = Vec::new();
    let unpinned = names.iter().any(|name| lock.get(name).is_none());
    if mode == LockMode::Refresh || unpinned || !missing(&lock, &downloads).is_empty() {
        let mirror = match mirror {
            Some(mirror) => mirror,
            None => host_mirror()?,
        };
        let apt = apt::PrivateApt::set_up(&cache.join("apt"), profile, &mirror)?;
        progress.step("Reading the package index");
        let index = apt.update(&lock)?;
        moved = settle(&mut lock, &names, &index, mode)?;
        let missing = missing(&lock, &downloads);
        if !missing.is_empty() {
            progress.step(&format!("Downloading {} packages", missing.len()));
            apt.download(&missing, &downloads)?;
        }
        for (_, pin) in lock.pins() {
            check(pin, &downloads)?;
        }
    }

    progress.step("Unpacking packages");
    let unpack = |wanted: &[String]| -> Result<UnpackedSet, PackagesError> {
        let mut set = Vec::new();
        for name in wanted {
            let pin = lock.get(name).expect("because settle() pinned every name of the profile");
            set.push(unpack::unpack(pin, &downloads, &cache.join("trees"))?);
        }
        Ok(UnpackedSet::new(set))
    };
    let image = unpack(&profile.packages)?;
    let tools = unpack(&profile.tools)?;
    let kernel = unpack(std::slice::from_ref(&profile.kernel))?.into_only();
    Ok(Packages { lock, moved, image, tools, kernel })
}

/// Pins whose file is not in the download folder.
fn missing(lock: &Lock, downloads: &Path) -> Vec<Pin> {
    let absent = |pin: &&Pin| std::fs::metadata(deb_path(pin, downloads)).map_or(true, |found| found.len() != pin.size);
    lock.pins().map(|(_, pin)| pin).filter(absent).cloned().collect()
}

/// Where a package file lies; the digest is part of the name, so another content is another file.
fn deb_path(pin: &Pin, downloads: &Path) -> PathBuf {
    downloads.join(format!("{}_{}.deb", pin.package, &pin.sha256[..16]))
}

/// Hashes a downloaded package against its pin.
fn check(pin: &Pin, downloads: &Path) -> Result<(), PackagesError> {
    let found = digest::sha256_file(&deb_path(pin, downloads))?;
    if found == pin.sha256 {
        return Ok(());
    }
    Err(PackagesError::Changed {
        package: pin.package.clone(),
        version: pin.version.clone(),
        locked: pin.sha256.clone(),
        found,
    })
}

/// Makes the lock fit the index as `mode` allows; returns a line for each pin that moved. Pure.
fn settle(lock: &mut Lock, names: &[String], index: &Index, mode: LockMode) -> Result<Vec<String>, PackagesError> {
    let mut moved = Vec::new();
    let mut gone = Vec::new();
    for name in names {
        let current = index.candidate(name)?;
        let Some(pin) = lock.get(name) else {
            if mode == LockMode::Locked {
                gone.push(format!("{name} (not in the lock at all)"));
                continue;
            }
            moved.push(format!("{name}: {} (new)", current.version));
            lock.insert(name, current.pin());
            continue;
        };
        if mode != LockMode::Refresh {
            if let Some(same) = index.version(&pin.package, &pin.version) {
                if same.sha256 != pin.sha256 {
                    return Err(PackagesError::Changed {
                        package: pin.package.clone(),
                        version: pin.version.clone(),
                        locked: pin.sha256.clone(),
                        found: same.sha256.clone(),
                    });
                }
                continue;
            }
            if mode == LockMode::Locked {
                gone.push(format!("{} {}", pin.package, pin.version));
                continue;
            }
        }
        if *pin != current.pin() {
            moved.push(format!("{name}: {} -> {}", pin.version, current.version));
            lock.insert(name, current.pin());
        }
    }
    if gone.is_empty() { Ok(moved) } else { Err(PackagesError::Gone { gone }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "\
Package: runc
Version: 1.1.15-3
Size: 10
SHA256: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb

";

    fn locked(version: &str, digit: &str) -> Lock {
        let pin = Pin { package: "runc".to_owned(), version: version.to_owned(), sha256: digit.repeat(64), size: 10 };
        let mut lock = Lock::default();
        lock.insert("runc", pin);
        lock
    }

    fn names() -> Vec<String> {
        vec!["runc".to_owned()]
    }

    fn index() -> Index {
        Index::parse(INDEX).expect("because the index is well-formed")
    }

    #[test]
    fn a_version_that_is_gone_moves_the_lock() {
        let mut lock = locked("1.1.15-2", "a");
        let moved = settle(&mut lock, &names(), &index(), LockMode::Follow).expect("because following is allowed");
        assert_eq!(moved, ["runc: 1.1.15-2 -> 1.1.15-3"]);
        assert_eq!(lock, locked("1.1.15-3", "b"));
    }

    #[test]
    fn a_version_that_is_gone_is_refused_when_locked() {
        let mut lock = locked("1.1.15-2", "a");
        let error = settle(&mut lock, &names(), &index(), LockMode::Locked).expect_err("because of --locked");
        assert!(error.to_string().contains("runc 1.1.15-2"), "{error}");
        assert_eq!(lock, locked("1.1.15-2", "a"));
    }

    #[test]
    fn the_same_version_with_other_content_is_never_taken() {
        let mut lock = locked("1.1.15-3", "a");
        let error = settle(&mut lock, &names(), &index(), LockMode::Follow).expect_err("because the digests differ");
        assert!(error.to_string().contains("never changes"), "{error}");
    }

    #[test]
    fn a_pin_that_the_mirror_carries_stays() {
        let mut lock = locked("1.1.15-3", "b");
        let moved = settle(&mut lock, &names(), &index(), LockMode::Locked).expect("because the mirror carries it");
        assert_eq!(moved, Vec::<String>::new());
    }
}
