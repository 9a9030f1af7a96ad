//! Secure Boot with the user's own keys, from an empty firmware to what it refuses.

use crate::artefacts::{self, logged};
use crate::machine::VirtualMachine;
use crate::places::{Places, text};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// What parts are aligned to, on the disk and in its file.
const SECTOR_BYTES: usize = 512;
/// Bytes that tell one place of an image from all others.
const MARK_BYTES: usize = 64;

/// A machine enrols the keys that its image brings, says that Secure Boot is on, and from then on refuses an unsigned image, and a
/// signed one with a flipped byte in the UKI or the root.
///
/// # Errors
/// What did not hold.
pub async fn only_signed_code_runs_with_secure_boot(places: &Places, machine: VirtualMachine) -> Result<()> {
    let (keys, image) = (places.home("secure-boot"), places.home("signed"));
    let program = places.program("cairn-image")?;
    logged(places, &program, &["keys", "generate", "--secure-boot", &text(&keys)?]).await?;
    artefacts::image(places, &image, &["--secure-boot", &text(&keys)?]).await?;
    let machine = machine.with_image(image.clone()).with_secure_boot();
    let held = enforced(places, &machine, &image).await;
    machine.cut_power().await?;
    held
}

async fn enforced(places: &Places, machine: &VirtualMachine, image: &Path) -> Result<()> {
    machine.power_on(places).await?;
    machine.console("Custom Secure Boot keys successfully enrolled").await?;
    machine.console("Secure Boot is on").await?;

    let signed = image.join("disk.qcow2");
    let uki = std::fs::read(image.join("cairn.efi")).context("reading the UKI")?;
    let root = std::fs::read(image.join("root.img")).context("reading the root image")?;
    // In the middle of the UKI lies its kernel or its initramfs; the root's first byte is its superblock's.
    boots_not(places, machine, &flipped(&signed, &uki, uki.len() / 2)?, "Error loading").await?;
    boots_not(places, machine, &flipped(&signed, &root, 0)?, "corrupted").await?;
    let unsigned = std::fs::read(places.image("disk.qcow2")).context("reading the unsigned image")?;
    boots_not(places, machine, &unsigned, "Access Denied").await
}

/// Puts another disk into the machine, which must say why it does not start it.
async fn boots_not(places: &Places, machine: &VirtualMachine, disk: &[u8], why: &str) -> Result<()> {
    machine.cut_power().await?;
    machine.replace_disk(disk)?;
    machine.power_on(places).await?;
    machine.console(why).await?;
    ensure!(!machine.serial().contains("--- Cairn"), "the machine started what it should refuse ({why})");
    Ok(())
}

/// A disk with one flipped byte: the first of the sector of `part` that holds `offset`.
fn flipped(disk: &Path, part: &[u8], offset: usize) -> Result<Vec<u8>> {
    let mut bytes = std::fs::read(disk).with_context(|| format!("reading {}", disk.display()))?;
    let offset = offset / SECTOR_BYTES * SECTOR_BYTES;
    let mark = part.get(offset..offset + MARK_BYTES).context("the place lies in the part")?;
    let mut sectors = (0..bytes.len()).step_by(SECTOR_BYTES);
    let at = sectors.find(|at| bytes[*at..].starts_with(mark)).context("the part does not lie on the disk")?;
    bytes[at] ^= 1;
    Ok(bytes)
}
