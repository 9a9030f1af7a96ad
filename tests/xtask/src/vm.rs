//! `cargo xtask vm`: what takes longer than `make test` should: upgrades, power cuts by the hundred, three machines of which each is
//! lost in turn, and installations from the medium.

use anyhow::{Context, Result};
use clap::Args;
use std::time::Duration;
use tests_vm::members::Extent;
use tests_vm::power::{self, Campaign};
use tests_vm::{Artefacts, Places, Steps, VirtualMachine, upgrades};

/// Where the machine lives.
const HOME: &str = ".cairn/test-upgrades";

/// Where the machine lives whose power is cut.
const POWER_HOME: &str = ".cairn/test-power";

/// Where the machine lives whose boot chain is changed.
const FLIPS_HOME: &str = ".cairn/test-flips";

/// Without a flag of their own: upgrades on one machine, from a commit to an image that does not work.
#[derive(Debug, Args)]
pub(crate) struct Vm {
    /// Only power cuts: at this many writes of a recorded life (first boot, joining, upgrade, rollback, reset), each followed by a boot.
    /// The same command goes on where the last one stopped
    #[arg(long, value_name = "CUTS")]
    power_cuts: Option<u32>,
    /// Record a new life, instead of going on with the one that was recorded last
    #[arg(long, requires = "power_cuts")]
    fresh: bool,
    /// Without upgrade and rollback: no second image is built
    #[arg(long, requires = "power_cuts")]
    short: bool,
    /// Only flipped bits: one at this many places of the boot chain, with Secure Boot on, each followed by a boot
    #[arg(long, value_name = "FLIPS", conflicts_with = "power_cuts")]
    flips: Option<u32>,
    /// Begin no further power cut or flip after this many minutes
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,
    /// Where the moments of the cuts follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often the power is cut by the clock in the middle of an upgrade, among the upgrades
    #[arg(long, default_value_t = 2)]
    cuts: u32,
    /// Only three machines of one cluster, of which this many are lost in turn, all are upgraded at once under attack, and one leaves
    #[arg(long, value_name = "LOSSES", num_args = 0..=1, default_missing_value = "3")]
    members: Option<usize>,
    /// Only installations from the medium for real machines: CD, USB stick, a power cut in the middle
    #[arg(long)]
    install: bool,
}

/// Where the three machines live.
const MEMBERS_HOME: &str = ".cairn/test-members";

/// Where machines are installed.
const INSTALL_HOME: &str = ".cairn/test-install";

pub(crate) async fn vm(vm: &Vm) -> Result<()> {
    Artefacts::build(&Places::new(HOME)?, &mut Steps::default()).await?;
    if vm.install {
        return install().await;
    }
    if let Some(losses) = vm.members {
        return members(Extent { losses, upgrades_and_leaving: true }).await;
    }
    let limit = vm.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    if let Some(count) = vm.flips {
        std::fs::remove_dir_all(Places::new(FLIPS_HOME)?.home("")).context("removing what the last run left")?;
        println!("\nflipped bits on a virtual machine");
        tests_vm::flips::flips(&Places::new(FLIPS_HOME)?, &mut Steps::default(), count, vm.seed, limit).await?;
        println!("\nnothing ran changed");
        return Ok(());
    }
    if let Some(cuts) = vm.power_cuts {
        let extent = if vm.short { power::Extent::Short } else { power::Extent::Whole };
        return power_cuts(Campaign { cuts, seed: vm.seed, extent, limit, resume: !vm.fresh }).await;
    }
    run(vm.cuts, vm.seed).await
}

/// Cuts the power of a recorded machine.
pub(crate) async fn power_cuts(campaign: Campaign) -> Result<()> {
    let places = Places::new(POWER_HOME)?;
    VirtualMachine::new(&places, "cp1", tests_vm::Ports::free()?).cut_power().await?;
    if !campaign.resume {
        std::fs::remove_dir_all(places.home("")).context("removing what the last run left")?;
    }
    println!("\npower cuts on a virtual machine");
    power::power_cuts(&Places::new(POWER_HOME)?, &mut Steps::default(), campaign).await?;
    println!("\nevery power cut held");
    Ok(())
}

/// Runs the scenarios of upgrades, from an empty folder.
pub(crate) async fn run(power_cuts: u32, seed: u64) -> Result<()> {
    let places = Places::new(HOME)?;
    VirtualMachine::new(&places, "cp1", tests_vm::Ports::free()?).cut_power().await?;
    std::fs::remove_dir_all(places.home("")).context("removing what the last run left")?;
    let places = Places::new(HOME)?;
    println!("\nupgrades on a virtual machine");
    upgrades::upgrades(&places, &mut Steps::default(), power_cuts, seed).await?;
    println!("\nupgrades hold");
    Ok(())
}

/// Runs three machines, from an empty folder.
pub(crate) async fn members(extent: Extent) -> Result<()> {
    std::fs::remove_dir_all(Places::new(MEMBERS_HOME)?.home("")).context("removing what the last run left")?;
    let places = Places::new(MEMBERS_HOME)?;
    println!("\nthree machines, one cluster");
    tests_vm::members::members(&places, &mut Steps::default(), extent).await?;
    println!("\nthe cluster holds");
    Ok(())
}

/// Installs, from an empty folder.
async fn install() -> Result<()> {
    std::fs::remove_dir_all(Places::new(INSTALL_HOME)?.home("")).context("removing what the last run left")?;
    println!("\ninstallations from the medium");
    tests_vm::install::installs(&Places::new(INSTALL_HOME)?, &mut Steps::default()).await?;
    println!("\ninstallations hold");
    Ok(())
}
