//! Why there is no image: what each stage can say, in the order of the stages.

use std::io;
use std::path::PathBuf;

use init_boot::artefact::ImageVersion;
use init_boot::{CommandLineError, VerityError};

use crate::artefact::ArtefactFileError;
use crate::disk::DiskError;
use crate::esp::EspError;
use crate::files::FileError;
use crate::lock::LockError;
use crate::modules::ModulesError;
use crate::packages::PackagesError;
use crate::policy::PolicyKeyError;
use crate::profile::ProfileError;
use crate::root::RootError;
use crate::sbom::CratesError;
use crate::secure_boot::{PeError, SecureBootError};
use crate::squashfs::SquashfsError;
use crate::tools::ToolError;
use crate::uki::UkiError;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The lock file.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Packages.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// Modules.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// The root tree.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A tool of the build.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The root file system.
    #[error(transparent)]
    Squashfs(#[from] SquashfsError),
    /// The hash tree.
    #[error("cannot seal the root file system with dm-verity")]
    Verity(#[from] VerityError),
    /// The version counts to no number.
    #[error("version {0} counts to no release number, minor and patch go up to 999; name one with --number")]
    NoNumber(ImageVersion),
    /// The lock says no time.
    #[error("{} names no time; build once without --locked, and commit what that writes", .0.display())]
    NoTime(PathBuf),
    /// `--locked`, and the programs come from another compiler.
    #[error(
        "our programs were made with other compilers than {} names, so the image would have other bytes.\n  \
         made with: {made}\n  locked:    {names}\n\
         Install the toolchain that the lock names and build the programs again, or build without --locked to move the lock.",
        lock.display()
    )]
    Compilers {
        /// The lock file.
        lock: PathBuf,
        /// What made the programs and is not in the lock.
        made: String,
        /// What the lock names and did not make them.
        names: String,
    },
    /// The bill of materials.
    #[error("cannot write the bill of materials")]
    Bill(#[from] CratesError),
    /// The artefact.
    #[error(transparent)]
    Artefact(#[from] ArtefactFileError),
    /// The command line.
    #[error("the command line of the profile cannot be used")]
    CommandLine(#[from] CommandLineError),
    /// A file of a package that every image needs.
    #[error("no package of the profile has {0}; add the package that has it")]
    NoBootFile(&'static str),
    /// The initramfs.
    #[error("cannot compress the initramfs")]
    Initramfs(#[source] io::Error),
    /// Secure Boot keys.
    #[error(transparent)]
    SecureBoot(#[from] SecureBootError),
    /// The policy key.
    #[error(transparent)]
    PolicyKey(#[from] PolicyKeyError),
    /// A boot file that cannot be signed.
    #[error("cannot sign the {file} for Secure Boot")]
    Sign {
        /// Which one.
        file: &'static str,
        /// Why.
        #[source]
        source: PeError,
    },
    /// The unified kernel image.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// The EFI system partition.
    #[error(transparent)]
    Esp(#[from] EspError),
    /// The seed is none.
    #[error("{} is not a seed; expected KDL text with one node: seed {{ ... }}", .0.display())]
    Seed(PathBuf),
    /// What the installer is told is no text of its kind.
    #[error("{0:?} is not what an installer can be told; expected KDL such as: disk serial=\"S5GXNF0R\"; wipe")]
    Install(String),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}
