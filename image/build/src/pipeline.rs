//! All stages in order, with what each hands to the next.
//!
//! ```text
//! profile, lock -> packages -> root tree -> squashfs -> verity --root hash--> command line
//!                         \-> modules, pid1 -> initramfs ----------------------------> UKI -> ESP -> disk
//!                                                                 root and UKI -> artefact, which upgrades carry
//! ```
//!
//! Called by `cairn-image build` and by tests. The slow result (the squashfs) is kept in the build directory under the digest of
//! its inputs; nothing else is worth keeping.

mod error;
mod media;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use init_boot::CommandLine;
use init_boot::artefact::{ArtefactHeader, ArtefactManifest, CLUSTER_LEVEL, ImageNumber, ImageVersion, Part};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::artefact;
use crate::compilers;
use crate::digest::{self, Key};
use crate::esp::{Boot, Enrolment};
use crate::files::{self, FileError};
use crate::initramfs;
use crate::lock::Lock;
use crate::manifest::{FileLine, Manifest, PackageLine};
use crate::modules::Catalogue;
use crate::packages::{self, LockMode, Mirror, Packages};
use crate::policy::PolicySigner;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::root::{self, RootError};
use crate::sbom::{self, Bill};
use crate::secure_boot::{self, SecureBoot};
use crate::squashfs::{self, SquashfsError};
use crate::tools::Tool;
use crate::tree::{Node, Tree};
use crate::uki;
use crate::verity::{self, RootImage};

pub use error::BuildError;
pub use media::{ISO, NETWORK};

/// Programs and boot files in Debian's packages.
const MKSQUASHFS: &str = "/usr/bin/mksquashfs";
const EFI_STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const BOOT_LOADER: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// Name of PID 1 among our programs.
const PID1: &str = "pid1";
/// Squashfs files kept in the build directory; the oldest go first.
const KEPT_ROOTS: usize = 4;

/// What to build, from what, to where.
#[derive(Debug, Clone)]
pub struct Request {
    /// Version of the image; Cairn's own unless told otherwise.
    pub version: ImageVersion,
    /// Release number of the image; counted from the version unless told otherwise.
    pub number: Option<ImageNumber>,
    /// Folder of profiles and lock files.
    pub profiles: PathBuf,
    /// Name of the profile.
    pub profile: String,
    /// What to do when lock and mirror disagree.
    pub mode: LockMode,
    /// `--mirror`.
    pub mirror: Option<Mirror>,
    /// Folder with our own programs.
    pub binaries: PathBuf,
    /// OCI archives to bake in.
    pub preload: Vec<PathBuf>,
    /// File with the seed.
    pub seed: Option<PathBuf>,
    /// What the installer's medium installs on: text of the block of an `install` node; empty to ask at the console.
    pub install: String,
    /// Folder with Secure Boot keys, when boot files are to be signed.
    pub secure_boot: Option<PathBuf>,
    /// Folder with the policy key, when the image is to open encrypted volumes.
    pub policy_key: Option<PathBuf>,
    /// When machines enrol those keys.
    pub enrolment: Enrolment,
    /// Folder for downloads and intermediate results.
    pub cache: PathBuf,
    /// Folder for the image.
    pub output: PathBuf,
}

/// What was built.
pub struct Built {
    /// What the image is made of.
    pub manifest: Manifest,
    /// How long each stage took, in order.
    pub timings: Vec<(&'static str, Duration)>,
    /// Packages whose pin moved, one line each.
    pub moved: Vec<String>,
}

/// Measures stages.
struct Stopwatch {
    started: Instant,
    timings: Vec<(&'static str, Duration)>,
}

impl Stopwatch {
    fn lap(&mut self, stage: &'static str) {
        self.timings.push((stage, self.started.elapsed()));
        self.started = Instant::now();
    }
}

/// Builds an image.
///
/// # Errors
/// See [`BuildError`].
pub fn build(request: &Request, progress: &dyn Progress) -> Result<Built, BuildError> {
    let mut watch = Stopwatch { started: Instant::now(), timings: Vec::new() };
    files::create_dir(&request.output)?;
    // Two builds at the same time would write the same partial files.
    let _alone = files::lock(&request.cache, || progress.step("Waiting for another build to end"))?;
    let profile = Profile::load(&request.profiles, &request.profile)?;
    let number = request.number.or_else(|| request.version.default_number());
    let number = number.ok_or_else(|| BuildError::NoNumber(request.version.clone()))?;
    let packages = provide_packages(request, &profile, progress)?;
    watch.lap("packages");

    progress.step("Assembling the root file tree");
    let catalogue = Catalogue::read(&packages.kernel.folder)?;
    let os_release = os_release(&profile, &request.version, number);
    let tree = root::assemble(
        &root::Request {
            profile: &profile,
            profiles: &request.profiles,
            packages: &packages.image,
            catalogue: &catalogue,
            binaries: &request.binaries,
            preload: &request.preload,
            os_release: &os_release,
        },
        progress,
    )?;
    root::harden(&tree)?;
    watch.lap("root tree");

    progress.step("Compressing the root file system");
    let root = verity::seal(root_file_system(&tree, &profile, &packages, &request.cache)?)?;
    watch.lap("root file system");

    progress.step("Building the unified kernel image");
    let keys = request.secure_boot.as_deref().map(SecureBoot::load).transpose()?;
    let mut boot = boot_image(request, &profile, &packages, &catalogue, &root, &os_release)?;
    boot.uki = signed("unified kernel image", boot.uki, keys.as_ref())?;
    watch.lap("kernel image");

    progress.step("Writing the disk image");
    let artefact = ArtefactHeader::new(ArtefactManifest {
        version: request.version.clone(),
        number,
        level: CLUSTER_LEVEL,
        profile: profile.name.clone(),
        architecture: profile.architecture.clone(),
        built: packages.lock.built().ok_or_else(|| BuildError::NoTime(lock_path(request)))?,
        uki: Part::of(&boot.uki),
        root: Part::of(&root.bytes),
        root_hash: root.root_hash,
    });
    let manifest = describe(request, &artefact.manifest, &packages, &catalogue.release, &tree, &boot)?;
    let loader = signed("boot loader", boot_file(&packages, BOOT_LOADER)?, keys.as_ref())?;
    let enrolment = keys.as_ref().map(|keys| (keys.enrolment.as_slice(), request.enrolment));
    let boot = Boot { loader: &loader, uki: &boot.uki, keys: enrolment, medium: None };
    media::write_disk(request, &profile, &root, &boot)?;
    if profile.iso {
        media::write_iso(request, &profile, &root, &artefact.manifest, &boot)?;
        media::write_network(request, &boot_file(&packages, EFI_STUB)?, boot.uki, keys.as_ref())?;
    }
    artefact::write(&request.output.join(&manifest.artefact), &artefact, boot.uki, &root.bytes)?;
    write_bill(request, &profile, &packages, &artefact.manifest)?;
    manifest.save(&request.output)?;
    watch.lap("disk image");
    Ok(Built { manifest, timings: watch.timings, moved: packages.moved })
}

/// Packs a tree as a root file system is packed, by the tools and with the compression of a profile as its lock file pins them.
///
/// # Errors
/// See [`BuildError`].
pub fn pack(
    tree: &Tree,
    (profiles, profile): (&Path, &str),
    cache: &Path,
    progress: &dyn Progress,
) -> Result<Vec<u8>, BuildError> {
    let _alone = files::lock(cache, || progress.step("Waiting for another build to end"))?;
    let mut profile = Profile::load(profiles, profile)?;
    // Only its tools work here.
    profile.packages.clear();
    let path = profiles.join(format!("{}.lock", profile.name));
    let lock = Lock::parse(&path.display().to_string(), &files::read_text(&path)?)?;
    let request = packages::Request { profile: &profile, lock, mode: LockMode::Follow, mirror: None, cache };
    let packages = packages::provide(request, progress)?;
    for line in &packages.moved {
        progress
            .warn(&format!("{} names what the mirror no longer has; the bytes may be others: {line}", path.display()));
    }
    progress.step("Compressing the file system");
    root_file_system(tree, &profile, &packages, cache)
}

/// The bills of materials and the provenance.
fn write_bill(
    request: &Request,
    profile: &Profile,
    packages: &Packages,
    manifest: &ArtefactManifest,
) -> Result<(), BuildError> {
    let programs: Vec<&str> = profile.binaries.iter().map(|binary| binary.name.as_str()).collect();
    let bill = Bill {
        manifest,
        components: sbom::components(packages, &request.profiles, &programs)?,
        tools: sbom::tools(packages),
        lock_sha256: digest::sha256_hex(packages.lock.render().as_bytes()),
        compilers: packages.lock.compilers().iter().cloned().collect(),
        commit: sbom::commit(&request.profiles),
    };
    Ok(sbom::write(&bill, &request.output)?)
}

fn describe(
    request: &Request,
    artefact: &ArtefactManifest,
    packages: &Packages,
    release: &str,
    tree: &Tree,
    boot: &BootImage,
) -> Result<Manifest, FileError> {
    let mut files = Vec::new();
    for (path, node) in tree.iter() {
        if let Node::File { content, mode } = node {
            let content = content.read()?;
            files.push(FileLine {
                path: path.to_owned(),
                bytes: content.len() as u64,
                sha256: digest::sha256_hex(&content),
                executable: mode & 0o111 != 0,
            });
        }
    }
    Ok(Manifest {
        version: artefact.version.to_string(),
        number: artefact.number.0,
        image_digest: artefact.digest().to_string(),
        artefact: artefact.file_name(),
        profile: artefact.profile.clone(),
        kernel: release.to_owned(),
        root_hash: artefact.root_hash.to_string(),
        command_line: boot.command_line.clone(),
        uki_bytes: artefact.uki.bytes,
        initramfs_bytes: boot.initramfs_bytes,
        root_bytes: artefact.root.bytes,
        root_files_bytes: files.iter().map(|file| file.bytes).sum(),
        uki_sha256: artefact.uki.hex(),
        root_sha256: artefact.root.hex(),
        disk_bytes: boot.disk_bytes,
        seed: request.seed.is_some(),
        secure_boot: request.secure_boot.is_some(),
        policy_key: boot.policy_key.clone(),
        executables: files.iter().filter(|file| file.executable).count(),
        packages: package_lines(packages),
        files,
    })
}

fn lock_path(request: &Request) -> PathBuf {
    request.profiles.join(format!("{}.lock", request.profile))
}

/// Stage 1 between reading and writing the lock file.
fn provide_packages(request: &Request, profile: &Profile, progress: &dyn Progress) -> Result<Packages, BuildError> {
    let path = lock_path(request);
    let old = if path.exists() { files::read_text(&path)? } else { String::new() };
    let mut provided = packages::provide(
        packages::Request {
            profile,
            lock: Lock::parse(&path.display().to_string(), &old)?,
            mode: request.mode,
            mirror: request.mirror.clone(),
            cache: &request.cache,
        },
        progress,
    )?;
    let fresh = !provided.moved.is_empty() || (provided.lock.built().is_none() && request.mode != LockMode::Locked);
    if fresh {
        provided.lock.set_built(Timestamp::now());
    }
    settle_compilers(request, profile, &mut provided)?;
    let new = provided.lock.render();
    if new != old {
        files::write(&path, new.as_bytes())?;
        match old.is_empty() {
            true => {
                progress.warn(&format!("{} is new; it pins {} packages", path.display(), provided.lock.pins().count()))
            }
            false => {
                for line in &provided.moved {
                    progress.warn(&format!("{} moved: {line}", path.display()));
                }
            }
        }
    }
    Ok(provided)
}

/// Makes the lock name what made our programs, as the request allows.
fn settle_compilers(request: &Request, profile: &Profile, provided: &mut Packages) -> Result<(), BuildError> {
    let names = profile.binaries.iter().map(|binary| binary.name.as_str()).chain([PID1]);
    let mut found = BTreeSet::new();
    for path in names.map(|name| request.binaries.join(name)).filter(|path| path.exists()) {
        found.extend(compilers::of(&files::read(&path)?));
    }
    let locked = provided.lock.compilers();
    if found == *locked || (found.is_empty() && request.mode != LockMode::Locked) {
        return Ok(());
    }
    let list = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>().join(", ")
    };
    let (made, names) = (list(&found, locked), list(locked, &found));
    if request.mode == LockMode::Locked {
        return Err(BuildError::Compilers { lock: lock_path(request), made, names });
    }
    provided.moved.push(format!("compilers: {names} -> {made}"));
    provided.lock.set_compilers(found);
    Ok(())
}

/// The squashfs, from the build directory when the same one was made before.
fn root_file_system(tree: &Tree, profile: &Profile, packages: &Packages, cache: &Path) -> Result<Vec<u8>, BuildError> {
    let mksquashfs = Tool::find(MKSQUASHFS, &packages.tools)?;
    let mut hash = HashWriter(Sha256::new());
    tree.write_tar(&mut hash).map_err(SquashfsError::Feed)?;
    let mut key = Key::of("squashfs").with(hash.0.finalize()).with(format!("{:?}", profile.compression));
    for package in packages.tools.iter() {
        key = key.with(&package.pin.sha256);
    }
    let folder = cache.join("roots");
    files::create_dir(&folder)?;
    let target = folder.join(format!("{}.squashfs", key.finish()));
    if !target.exists() {
        files::replace_with(&target, |path| squashfs::write(tree, &profile.compression, &mksquashfs, path))?;
        forget_oldest(&folder)?;
    }
    Ok(files::read(&target)?)
}

/// Keeps the build directory from growing for ever.
fn forget_oldest(folder: &Path) -> Result<(), FileError> {
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    let mut kept = files::list(folder)?;
    kept.sort_by_key(modified);
    let surplus = kept.len().saturating_sub(KEPT_ROOTS);
    for path in &kept[..surplus] {
        fs::remove_file(path).map_err(FileError::because("remove", path))?;
    }
    Ok(())
}

/// The unified kernel image and what the manifest says of it.
struct BootImage {
    uki: Vec<u8>,
    initramfs_bytes: u64,
    command_line: String,
    disk_bytes: u64,
    /// The fingerprint of the key that signed the policy.
    policy_key: Option<String>,
}

/// Stages 5 and 6.
fn boot_image(
    request: &Request,
    profile: &Profile,
    packages: &Packages,
    catalogue: &Catalogue,
    root: &RootImage,
    os_release: &str,
) -> Result<BootImage, BuildError> {
    let modules = catalogue.select(&profile.modules.stage_one)?;
    let pid1 = request.binaries.join(PID1);
    if !pid1.exists() {
        return Err(RootError::NotBuilt(pid1).into());
    }
    let archive = initramfs::archive(&root::static_program(&pid1)?, &modules);
    let initramfs = initramfs::compress(&archive).map_err(BuildError::Initramfs)?;
    let mut command_line = CommandLine::parse(&profile.command_line.join(" "))?;
    command_line.root = Some(root.root_hash);
    command_line.root_blocks = Some(root.data_blocks);
    let command_line = command_line.render()?;
    let kernel = packages.kernel.folder.join(format!("boot/vmlinuz-{}", catalogue.release));
    let signer = request.policy_key.as_deref().map(PolicySigner::load).transpose()?;
    let policy_key = signer.as_ref().map(PolicySigner::key_pem);
    let mut parts = uki::Parts {
        stub: &boot_file(packages, EFI_STUB)?,
        os_release,
        command_line: &command_line,
        release: &catalogue.release,
        initramfs: &initramfs,
        kernel: &files::read(&kernel)?,
        policy_key: policy_key.as_deref(),
        policy_signatures: None,
    };
    let mut uki = uki::build(&parts)?;
    if let Some(signer) = &signer {
        let signatures = signer.signatures(&uki)?;
        parts.policy_signatures = Some(&signatures);
        uki = uki::build(&parts)?;
    }
    Ok(BootImage {
        uki,
        initramfs_bytes: initramfs.len() as u64,
        policy_key: signer.map(|signer| signer.fingerprint()),
        disk_bytes: profile.disk.total,
        command_line: command_line.clone(),
    })
}

/// A boot file with a signature, when there are keys.
fn signed(file: &'static str, bytes: Vec<u8>, keys: Option<&SecureBoot>) -> Result<Vec<u8>, BuildError> {
    let Some(keys) = keys else { return Ok(bytes) };
    secure_boot::sign_pe(&bytes, &keys.db).map_err(|source| BuildError::Sign { file, source })
}

fn boot_file(packages: &Packages, path: &'static str) -> Result<Vec<u8>, BuildError> {
    let source = packages.tools.file(path).or_else(|| packages.image.file(path));
    Ok(files::read(&source.ok_or(BuildError::NoBootFile(path))?)?)
}

/// What /etc/os-release and the boot loader say. The running machine reads its version, number and level here.
fn os_release(profile: &Profile, version: &ImageVersion, number: ImageNumber) -> String {
    let profile = &profile.name;
    format!(
        "NAME=\"Cairn\"\nID=cairn\nPRETTY_NAME=\"Cairn {version}\"\nVERSION_ID={version}\nIMAGE_ID=cairn-{profile}\n\
         IMAGE_VERSION={version}\nCAIRN_IMAGE_NUMBER={number}\nCAIRN_LEVEL={CLUSTER_LEVEL}\n"
    )
}

fn package_lines(packages: &Packages) -> Vec<PackageLine> {
    let all = packages.image.iter().chain(std::iter::once(&packages.kernel));
    let line = |package: &packages::Unpacked| PackageLine {
        name: package.pin.package.clone(),
        version: package.pin.version.clone(),
        sha256: package.pin.sha256.clone(),
    };
    all.map(line).collect()
}

/// A stream that is only hashed.
struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
