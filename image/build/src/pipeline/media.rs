//! What machines start from, in the output folder: the disk, the installer's medium, and what the network hands out. All hold the same
//! UKI and root.

use std::path::Path;

use init_boot::Medium;
use init_boot::artefact::ArtefactManifest;

use super::{BuildError, Request, signed};
use crate::disk::{self, Contents};
use crate::esp::{self, Boot};
use crate::files;
use crate::initramfs;
use crate::iso;
use crate::profile::Profile;
use crate::qcow2;
use crate::secure_boot::SecureBoot;
use crate::uki;
use crate::verity::RootImage;

/// The installer's medium in the output folder.
pub const ISO: &str = "install.iso";
/// The same as one EFI program: for UEFI HTTP boot, PXE and iPXE.
pub const NETWORK: &str = "netboot.efi";
/// What iPXE is told; it takes the program from where it took these lines.
const IPXE: (&str, &str) = ("netboot.ipxe", "#!ipxe\nchain netboot.efi\n");

/// Stage 7 and the files of the output folder, but for the manifest: it comes last and says that all is there.
pub(super) fn write_disk(
    request: &Request,
    profile: &Profile,
    root: &RootImage,
    boot: &Boot<'_>,
) -> Result<(), BuildError> {
    let seed = request.seed.as_deref().map(read_seed).transpose()?;
    let contents = Contents {
        esp: esp::build(profile.disk.esp, boot)?,
        root: &root.bytes,
        root_hash: root.root_hash,
        seed: seed.as_deref(),
    };
    let disk = disk::lay_out(&profile.disk, contents)?;
    let output = |name: &str| request.output.join(name);
    files::replace_with(&output("disk.raw"), |path| disk::write_raw(&disk, path))?;
    files::replace_with(&output("disk.qcow2"), |path| qcow2::write(&disk, path))?;
    files::write(&output("cairn.efi"), boot.uki)?;
    files::write(&output("root.img"), &root.bytes)?;
    Ok(())
}

/// The installer's medium: the same boot files, root and seed, and what makes it an installer.
pub(super) fn write_iso(
    request: &Request,
    profile: &Profile,
    root: &RootImage,
    manifest: &ArtefactManifest,
    boot: &Boot<'_>,
) -> Result<(), BuildError> {
    let seed = request.seed.as_deref().map(read_seed).transpose()?;
    let install = install_text(&request.install)?;
    let medium = Medium { sizes: profile.disk.partitions(), manifest: manifest.clone() }.render();
    let size = iso::esp_bytes(boot.loader.len() + boot.uki.len());
    let contents = iso::Contents {
        esp: esp::build(size, &Boot { medium: Some(&medium), ..*boot })?,
        root: &root.bytes,
        root_hash: root.root_hash,
        seed: seed.as_deref(),
        install: install.as_bytes(),
    };
    let disk = iso::lay_out(contents)?;
    files::replace_with(&request.output.join(ISO), |path| disk::write_raw(&disk, path))?;
    Ok(())
}

/// What the network hands out: the UKI with the medium behind its initramfs, under one signature.
pub(super) fn write_network(
    request: &Request,
    stub: &[u8],
    uki: &[u8],
    keys: Option<&SecureBoot>,
) -> Result<(), BuildError> {
    let medium = files::read(&request.output.join(ISO))?;
    let medium = initramfs::medium(&medium).map_err(BuildError::Initramfs)?;
    let program = signed(NETWORK, uki::with_more_initramfs(stub, uki, &medium)?, keys)?;
    files::write(&request.output.join(NETWORK), &program)?;
    let (name, script) = IPXE;
    Ok(files::write(&request.output.join(name), script.as_bytes())?)
}

/// The text of the record by which machined knows an installation; what the block says is judged there.
fn install_text(block: &str) -> Result<String, BuildError> {
    let text = format!("install {{\n{block}\n}}\n");
    let is_one = |document: kdl::KdlDocument| matches!(document.nodes(), [node] if node.name().value() == "install");
    match kdl::KdlDocument::parse_v2(&text).is_ok_and(is_one) {
        true => Ok(text),
        false => Err(BuildError::Install(block.to_owned())),
    }
}

/// Reads a seed; what it says is judged by machined, but that it is one is seen before it is baked in.
fn read_seed(path: &Path) -> Result<Vec<u8>, BuildError> {
    let text = files::read_text(path)?;
    let is_seed = |document: kdl::KdlDocument| matches!(document.nodes(), [node] if node.name().value() == "seed");
    match kdl::KdlDocument::parse_v2(&text).is_ok_and(is_seed) {
        true => Ok(text.into_bytes()),
        false => Err(BuildError::Seed(path.to_path_buf())),
    }
}
