//! Installing from the medium, as it comes out of `cairn-image build`: from a CD drive, from a USB stick with the power cut in between, and
//! from the network.

use crate::artefacts;
use crate::machine::{Medium, Ports, VirtualMachine};
use crate::places::Places;
use crate::steps::Steps;
use anyhow::{Context, Result, ensure};

/// What the medium is told: the serial number that `cairn-image run` gives its disk.
const REQUEST: &str = "disk serial=\"cairn\"";
/// What the installer says when its last write is kept.
const INSTALLED: &str = "cairn: INSTALLED on /dev/";
/// The phase in which most is written.
const WRITING: &str = "writing the image";
/// What a machine says whose machine API answers.
const READY: &str = "cairn: READY phase=";

/// Builds the metal image and installs it on empty disks.
///
/// # Errors
/// What did not hold.
pub async fn installs(places: &Places, steps: &mut Steps) -> Result<()> {
    let image = places.home("metal");
    let more = ["--profile", "metal", "--install", REQUEST];
    steps.take("building the image for real machines", artefacts::image(places, &image, &more)).await?;
    let medium = image.join("install.iso");
    let machine = |name: &str| anyhow::Ok(VirtualMachine::new(places, name, Ports::free()?));

    let cd = machine("cd")?.with_medium(medium.clone(), Medium::Cd);
    let held = steps.take("installing from a CD, unattended", an_empty_disk_becomes_a_machine(places, &cd)).await;
    cd.cut_power().await?;
    held?;
    let stick = machine("stick")?.with_medium(medium, Medium::Stick);
    let cut = a_cut_installation_begins_again(places, &stick);
    let held = steps.take("installing from a USB stick, with a power cut", cut).await;
    stick.cut_power().await?;
    held?;
    let network = machine("network")?.with_medium(image.join("netboot.efi"), Medium::Network);
    let held =
        steps.take("installing from the network, unattended", an_empty_disk_becomes_a_machine(places, &network)).await;
    network.cut_power().await?;
    held
}

/// The machine installs without being asked anything, restarts from its disk though the medium with the same root is still there, and
/// its machine API answers.
async fn an_empty_disk_becomes_a_machine(places: &Places, machine: &VirtualMachine) -> Result<()> {
    machine.power_on(places).await?;
    machine.console(INSTALLED).await?;
    machine.console(READY).await?;
    let said = machine.serial();
    let (before, after) = said.split_once(INSTALLED).context("it said so")?;
    ensure!(!before.contains(READY), "the installer served a machine API");
    ensure!(!after.contains("Cairn installer"), "the machine started from the medium again");
    Ok(())
}

/// Power is cut while the image is written: the disk starts nothing, so the medium starts again, and installs without being told that
/// anything may be lost. A machine that is installed is left alone from then on.
async fn a_cut_installation_begins_again(places: &Places, machine: &VirtualMachine) -> Result<()> {
    machine.power_on(places).await?;
    machine.console(WRITING).await?;
    machine.cut_power().await?;
    ensure!(!machine.serial().contains(INSTALLED), "it was done already; the cut came too late");
    machine.power_on(places).await?;
    machine.console("an installation that was cut off").await?;
    machine.console(INSTALLED).await?;
    machine.console(READY).await
}
