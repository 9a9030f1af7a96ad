//! A profile: the data that says what goes into an image (`image/profiles/<name>.kdl`).
//!
//! Read once at the start of a build; every stage takes the part it needs. Parsing collects all mistakes of the
//! file before it gives up. Must never touch packages or the network: it is a pure function of the text.

mod parse;

use std::path::Path;

use init_boot::PartitionSizes;

use crate::files::{self, FileError};

/// What goes into one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Name of the profile; the stem of its file.
    pub name: String,
    /// Debian suite, such as `trixie`.
    pub suite: String,
    /// Debian architecture, such as `amd64`.
    pub architecture: String,
    /// The package whose dependency is the current kernel image, such as `linux-image-cloud-amd64`.
    pub kernel: String,
    /// Packages whose files may enter the image.
    pub packages: Vec<String>,
    /// Packages that only run on the build host, through their own dynamic linker.
    pub tools: Vec<String>,
    /// Files from packages: absolute paths, the same in the package and in the image.
    pub files: Vec<String>,
    /// Our own programs.
    pub binaries: Vec<Binary>,
    /// Symbolic links: path in the image and target.
    pub links: Vec<(String, String)>,
    /// Empty folders: mount points.
    pub directories: Vec<String>,
    /// Folder beside the profile whose files are copied to the same paths of the image.
    pub overlay: Option<String>,
    /// Where the bundle of certificate authorities goes; none when the image carries none.
    pub certificates: Option<String>,
    /// Kernel modules and when they are loaded.
    pub modules: ModuleLists,
    /// Kernel command line, without the parts that name the root.
    pub command_line: Vec<String>,
    /// Compression of the root file system.
    pub compression: Compression,
    /// Sizes of the disk and its partitions.
    pub disk: DiskSizes,
    /// Whether an installer's medium is made too.
    pub iso: bool,
}

/// One of our own programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// File name in the folder of built programs.
    pub name: String,
    /// Path in the image.
    pub path: String,
    /// An image may be built without it, with a warning.
    pub optional: bool,
}

/// Kernel modules by the time at which they are loaded; what they depend on comes along by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleLists {
    /// In the initramfs: all it takes to reach the root file system.
    pub stage_one: Vec<String>,
    /// In the root file system, loaded when the machine starts.
    pub boot: Vec<String>,
    /// In the root file system, loaded where volumes are encrypted.
    pub encryption: Vec<String>,
    /// In the root file system, loaded where the machine's document names extensions.
    pub extension: Vec<String>,
}

/// How mksquashfs compresses the root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// Algorithm as mksquashfs names it.
    pub algorithm: String,
    /// Algorithm's own options, such as `-Xcompression-level 19`.
    pub options: Vec<String>,
    /// Block size in bytes: larger compresses better and makes a small read cost more.
    pub block_bytes: u64,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSizes {
    /// The whole disk as built; EPHEMERAL takes what the others leave.
    pub total: u64,
    /// EFI system partition: systemd-boot and the UKIs of both slots.
    pub esp: u64,
    /// Each of the two root slots.
    pub root: u64,
    /// STATE: identity, ledger, cluster store.
    pub state: u64,
}

impl DiskSizes {
    /// What every disk of this profile has in common, whatever its own size.
    pub fn partitions(&self) -> PartitionSizes {
        PartitionSizes { esp: self.esp, root: self.root, state: self.state }
    }
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file has mistakes; each with line and column.
    #[error("{file} has {} mistake(s):\n{}", problems.len(), problems.join("\n"))]
    Mistakes {
        /// The profile's path.
        file: String,
        /// One line each.
        problems: Vec<String>,
    },
}

impl Profile {
    /// Reads `<folder>/<name>.kdl`.
    ///
    /// # Errors
    /// When the file cannot be read or has mistakes.
    pub fn load(folder: &Path, name: &str) -> Result<Profile, ProfileError> {
        let path = folder.join(format!("{name}.kdl"));
        Profile::parse(&path.display().to_string(), &files::read_text(&path)?)
    }

    /// Parses the text of a profile; `file` is only named in messages.
    ///
    /// # Errors
    /// When the text has mistakes: all of them at once.
    pub fn parse(file: &str, text: &str) -> Result<Profile, ProfileError> {
        parse::parse(text).map_err(|problems| ProfileError::Mistakes {
            file: file.to_owned(),
            problems: problems.iter().map(|problem| format!("  {file}:{problem}")).collect(),
        })
    }
}
