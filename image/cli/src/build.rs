//! `cairn-image build`: arguments -> `image_build::pipeline`, and a short summary.
//!
//! Must never decide anything about the image: that is the profile's part.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use image_build::esp::Enrolment;
use image_build::packages::{LockMode, Mirror};
use image_build::pipeline::{self, Built, Request};
use init_boot::artefact::{ImageNumber, ImageVersion};

use crate::check;
use crate::report::{self, Steps};

/// Where an image goes unless told otherwise.
pub(crate) const DEFAULT_IMAGE: &str = ".cairn/image";
/// Where release builds of our programs lie.
const DEFAULT_BINARIES: &str = "target/x86_64-unknown-linux-gnu/release";
/// Where downloads and intermediate results lie.
pub(crate) const DEFAULT_CACHE: &str = ".cairn/build";

/// Build an image: disk.raw, disk.qcow2, cairn.efi, root.img, cairn-VERSION-PROFILE.artefact and manifest.json.
///
/// The artefact is what upgrades carry: UKI and root image in one file, named by its image digest. It holds no seed, so it is the
/// same for every cluster.
///
/// A profile for real machines also makes install.iso, which installs from a CD or a USB stick, and netboot.efi with netboot.ipxe, which do
/// the same from the network.
///
/// Takes kernel, containerd and a few more files from Debian packages that apt has verified, and our own programs from the
/// folder of a release build. Versions are pinned in the profile's lock file; one that the mirror no longer carries is replaced by
/// the current one and the lock file rewritten, unless --locked is given. Needs no root.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Profile: a file NAME.kdl in the folder of profiles.
    #[arg(long, value_name = "NAME", default_value = "cloud")]
    profile: String,
    /// Version of the image, as 1.2.3 or 1.2.3-rc.1.
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    image_version: ImageVersion,
    /// Release number of the image, which a repository's floor counts [default: major * 1000000 + minor * 1000 + patch].
    #[arg(long, value_name = "NUMBER")]
    number: Option<u64>,
    /// Folder of profiles and lock files [default: image/profiles of the checkout that this folder belongs to].
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,
    /// URL of a Debian mirror [default: the one of this host's apt].
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Refuse to build when the mirror lacks a pinned package.
    #[arg(long, conflicts_with = "refresh")]
    locked: bool,
    /// Move every pin to what the mirror has now.
    #[arg(long)]
    refresh: bool,
    /// Build a second time under other circumstances (folders, umask, locale, time zone, nothing kept) and compare every byte.
    #[arg(long)]
    check: bool,
    /// Folder with our programs, linked statically.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BINARIES)]
    binaries: PathBuf,
    /// OCI archive to bake into the image; may be given more than once. See cairn-image oci.
    #[arg(long, value_name = "FILE")]
    preload: Vec<PathBuf>,
    /// Seed to write to the META partition: KDL text with introduction, repository and network.
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
    /// What install.iso installs on without asking anybody, as KDL: disk serial="S5GXNF0R"; wipe. Without it, somebody chooses at
    /// the machine's console. Only profiles with a medium have one.
    #[arg(long, value_name = "KDL", default_value = "", hide_default_value = true)]
    install: String,
    /// Sign boot loader and UKI with the keys in this folder, and lay the keys on the ESP for machines to enrol. See cairn-image
    /// keys generate --secure-boot.
    #[arg(long, value_name = "DIR")]
    secure_boot: Option<PathBuf>,
    /// When a machine whose firmware is in setup mode enrols those keys: by itself if it is virtual and from the boot menu if not,
    /// or always by itself. A real machine whose cards have firmware signed by their vendor alone may not start any more.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "safe", requires = "secure_boot")]
    enroll: Enroll,
    /// Sign what the image measures to with the policy key in this folder: machines with a TPM encrypt their disks at their first boot, and
    /// images of the same key open them. See cairn-image keys generate --policy.
    #[arg(long, value_name = "DIR")]
    policy_key: Option<PathBuf>,
    /// Folder for downloads and intermediate results; a second build is quick because of it.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CACHE)]
    cache: PathBuf,
    /// Folder for the image.
    #[arg(short, long, value_name = "DIR", default_value = DEFAULT_IMAGE)]
    output: PathBuf,
}

/// When keys are enrolled.
#[derive(Clone, Copy, ValueEnum)]
enum Enroll {
    Safe,
    Force,
}

impl Enroll {
    fn enrolment(self) -> Enrolment {
        match self {
            Enroll::Safe => Enrolment::Safe,
            Enroll::Force => Enrolment::Force,
        }
    }
}

/// Builds.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    let mode = match (arguments.locked, arguments.refresh) {
        (true, _) => LockMode::Locked,
        (false, true) => LockMode::Refresh,
        (false, false) => LockMode::Follow,
    };
    let request = Request {
        version: arguments.image_version.clone(),
        number: arguments.number.map(ImageNumber),
        profiles: match &arguments.profiles {
            Some(folder) => folder.clone(),
            None => find_profiles()?,
        },
        profile: arguments.profile.clone(),
        mode,
        mirror: arguments.mirror.as_deref().map(Mirror::of_archive).transpose()?,
        binaries: arguments.binaries.clone(),
        preload: arguments.preload.clone(),
        seed: arguments.seed.clone(),
        install: arguments.install.clone(),
        secure_boot: arguments.secure_boot.clone(),
        enrolment: arguments.enroll.enrolment(),
        policy_key: arguments.policy_key.clone(),
        cache: arguments.cache.clone(),
        output: arguments.output.clone(),
    };
    let steps = Steps::new();
    let built = pipeline::build(&request, &steps);
    steps.finish();
    let built = built?;
    if arguments.check {
        eprintln!("Building the same image again");
        check::again(&arguments.again(&request)?, &arguments.cache, &arguments.output)?;
    }
    summarize(&built, &arguments.output);
    if arguments.check {
        println!("  check    a second build under other circumstances has the same bytes");
    }
    Ok(())
}

impl Arguments {
    /// What a second build of the same image is told, but for folders of its own.
    fn again(&self, request: &Request) -> anyhow::Result<Vec<OsString>> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        let absolute = |path: &Path| {
            let found = std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()));
            found.map(PathBuf::into_os_string)
        };
        add("--profile", self.profile.clone().into());
        add("--profiles", absolute(&request.profiles)?);
        add("--binaries", absolute(&request.binaries)?);
        add("--image-version", request.version.to_string().into());
        if let Some(number) = self.number {
            add("--number", number.to_string().into());
        }
        for archive in &request.preload {
            add("--preload", absolute(archive)?);
        }
        if let Some(keys) = &request.secure_boot {
            add("--secure-boot", absolute(keys)?);
            let when = self.enroll.to_possible_value().expect("because no value is hidden");
            add("--enroll", when.get_name().into());
        }
        if let Some(key) = &request.policy_key {
            add("--policy-key", absolute(key)?);
        }
        if let Some(seed) = &request.seed {
            add("--seed", absolute(seed)?);
        }
        add("--install", request.install.clone().into());
        Ok(arguments)
    }
}

/// Looks for image/profiles here and in the folders above.
pub(crate) fn find_profiles() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let found = here.ancestors().map(|folder| folder.join("image/profiles")).find(|folder| folder.is_dir());
    match found {
        Some(folder) => Ok(folder),
        None => bail!("no image/profiles here or above; run this inside of a checkout of Cairn, or name --profiles"),
    }
}

fn summarize(built: &Built, output: &Path) {
    let manifest = &built.manifest;
    let sum = manifest.uki_bytes + manifest.root_bytes;
    println!("{}", output.display());
    println!("  version  {} (number {})", manifest.version, manifest.number);
    println!("  kernel   {}", manifest.kernel);
    println!(
        "  size     UKI {} + root {} = {}",
        report::mebibytes(manifest.uki_bytes),
        report::mebibytes(manifest.root_bytes),
        report::mebibytes(sum)
    );
    println!("  root     {}", manifest.root_hash);
    println!("  artefact {}", output.join(&manifest.artefact).display());
    println!("  digest   {}", manifest.image_digest);
    let stages: Vec<String> =
        built.timings.iter().map(|(stage, time)| format!("{stage} {}", report::seconds(*time))).collect();
    let total: Duration = built.timings.iter().map(|(_, time)| *time).sum();
    println!("  time     {} ({})", report::seconds(total), stages.join(", "));
}
