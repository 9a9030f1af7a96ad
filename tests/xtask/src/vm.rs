//! `cargo xtask vm`: what takes longer than `make test` should: upgrades with as many power cuts as one has patience for, and three
//! machines of which each is lost in turn.

use anyhow::{Context, Result};
use clap::Args;
use tests_vm::members::Extent;
use tests_vm::{Artefacts, Places, Steps, VirtualMachine, upgrades};

/// Where the machine lives.
const HOME: &str = ".cairn/test-upgrades";

/// How often power is cut in the middle of an upgrade.
#[derive(Debug, Args)]
pub(crate) struct Vm {
    /// Power cuts; each takes a minute or two
    #[arg(long, default_value_t = 2)]
    power_cuts: u32,
    /// Where the moments of those cuts follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only three machines of one cluster, of which this many are lost in turn, two restart and one leaves
    #[arg(long, value_name = "LOSSES", num_args = 0..=1, default_missing_value = "3")]
    members: Option<usize>,
}

/// Where the three machines live.
const MEMBERS_HOME: &str = ".cairn/test-members";

pub(crate) async fn vm(vm: &Vm) -> Result<()> {
    Artefacts::build(&Places::new(HOME)?, &mut Steps::default()).await?;
    if let Some(losses) = vm.members {
        return members(Extent { losses, restarts_and_leaving: true }).await;
    }
    run(vm.power_cuts, vm.seed).await
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
