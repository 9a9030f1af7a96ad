//! `cargo xtask test`: unit and integration tests, then the main job on a machine of its own in QEMU.

use crate::run::run;
use anyhow::{Context, Result};
use clap::Args;
use std::net::SocketAddr;
use tests_vm::faults::{self, End, Moments};
use tests_vm::members::Extent;
use tests_vm::scenarios::{self, DEMO_FILE, Stage};
use tests_vm::{Artefacts, Cluster, Kubectl, Places, Ports, Steps, VirtualMachine, demo_manifests};

/// Which tests to run.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Only the tests in a virtual machine.
    #[arg(long)]
    vm: bool,
    /// Only the demo on this computer, without a machine, in the network namespace that this was started in.
    #[arg(long, hide = true)]
    dev: bool,
    /// Only Secure Boot, in a virtual machine.
    #[arg(long)]
    secure_boot: bool,
    /// Only a machine with a TPM made of software, and a recovery at its console, in a virtual machine.
    #[arg(long)]
    tpm: bool,
    /// Only walls, processes that end, and the watchdog, in a virtual machine.
    #[arg(long)]
    walls: bool,
    /// Only host extensions, in a virtual machine.
    #[arg(long)]
    extensions: bool,
    /// Only a machine without a TPM whose disk key its cluster keeps, in virtual machines.
    #[arg(long)]
    peer_keys: bool,
    /// How often power is cut in the middle of a change.
    #[arg(long, default_value_t = 2)]
    cuts: u32,
    /// Where the moments of those cuts follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many of three machines of one cluster are lost in turn.
    #[arg(long, default_value_t = 1)]
    losses: usize,
    /// Leave the virtual machine running at the end, to look at it.
    #[arg(long)]
    keep: bool,
}

/// `cargo xtask sim`.
#[derive(Debug, clap::Args)]
pub(crate) struct Sim {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how long; zero is one seed.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
}

/// Simulates, optimised: a seed takes a tenth of the time.
pub(crate) fn sim(sim: &Sim) -> Result<()> {
    println!("\nclusters of the store, simulated");
    let (seed, minutes) = (sim.seed.to_string(), sim.minutes.to_string());
    let build = ["run", "--quiet", "--release", "--locked", "--package", "tests-sim", "--"];
    run("cargo", &[&build[..], &["--seed", &seed, "--minutes", &minutes]].concat())
}

pub(crate) async fn test(test: &Test) -> Result<()> {
    if test.dev {
        return dev().await;
    }
    if test.secure_boot {
        let mut steps = Steps::default();
        Artefacts::build(&Places::new(".cairn/test-secure-boot")?, &mut steps).await?;
        return secure_boot(&mut steps).await;
    }
    if test.tpm {
        let mut steps = Steps::default();
        Artefacts::build(&Places::new(".cairn/test-tpm")?, &mut steps).await?;
        return tpm(&mut steps).await;
    }
    if test.walls {
        return alone(".cairn/test-walls", Part::Walls).await;
    }
    if test.extensions {
        return alone(".cairn/test-extensions", Part::Extensions).await;
    }
    if test.peer_keys {
        let mut steps = Steps::default();
        Artefacts::build(&Places::new(".cairn/test-peer-keys")?, &mut steps).await?;
        return peer_keys(&mut steps).await;
    }
    if !test.vm {
        run("cargo", &["test", "--workspace", "--locked"])?;
        dev_in_a_namespace().await?;
    }
    let home = ".cairn/test";
    let places = Places::new(home)?;
    let ports = Ports::free()?;
    let machine = VirtualMachine::new(&places, "cp1", ports);
    machine.cut_power().await?;
    std::fs::remove_dir_all(places.home("")).context("removing what the last run left")?;
    let places = Places::new(home)?;
    println!("\nthe main job in a virtual machine");
    let mut steps = Steps::default();
    let result = main_job(&places, &machine, &mut steps, test).await;
    if let Err(error) = &result {
        let serial = machine.serial();
        let lines: Vec<&str> = serial.lines().collect();
        println!(
            "\n{error:#}\nthe console of the machine ends:\n{}",
            lines[lines.len().saturating_sub(60)..].join("\n")
        );
    }
    if !test.keep {
        machine.cut_power().await?;
    }
    result
}

/// Where `controlplane dev` is tested.
const DEV_HOME: &str = ".cairn/test-dev";

/// Runs this program again in a network namespace of its own; threads cannot be moved into one without unsafe code.
async fn dev_in_a_namespace() -> Result<()> {
    if let Some(reason) = tests_vm::dev::why_not()? {
        println!("\nthe demo on this computer: NOT RUN, {reason}");
        return Ok(());
    }
    println!("\nthe demo on this computer, without a machine");
    let home = Places::new(DEV_HOME)?;
    std::fs::remove_dir_all(home.home("")).context("removing what the last run left")?;
    Artefacts::programs(&Places::new(DEV_HOME)?, &mut Steps::default()).await?;
    let own = std::env::current_exe().context("finding this program")?;
    run("unshare", &["--net", own.to_str().context("the path is text")?, "test", "--dev"])
}

async fn dev() -> Result<()> {
    let places = Places::new(DEV_HOME)?;
    let held = Steps::default().take("the demo runs", tests_vm::dev::the_demo_runs_on_this_computer(&places)).await;
    held.inspect_err(|_| println!("logs are in {}", places.home("").display()))
}

async fn main_job(places: &Places, machine: &VirtualMachine, steps: &mut Steps, test: &Test) -> Result<()> {
    Artefacts::build(places, steps).await?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), listen).await?;
    let cluster = &Cluster::new(places, server.address().port());
    steps.take("a repository, signed", async { cluster.create() }).await?;
    let stage = Stage { places, cluster, machine };
    let mut moments = Moments::new(test.seed);
    let cut = stage.power_is_cut_during_the_first_boot(moments.next_in(&faults::FIRST_BOOT));
    steps.take("power is cut during the first boot", cut).await?;
    steps.take("enrolment", cluster.enroll(machine)).await?;
    let first = "Hello from Cairn";
    let push = async { cluster.push(&[(DEMO_FILE, &demo_manifests(2, first))], "Run hello, twice") };
    steps.take("a signed commit", push).await?;
    steps.take("the Service answers", cluster.answer(machine, first)).await?;
    steps.take("a login", cluster.log_in()).await?;
    let kubectl = &Kubectl::new(&steps.take("a kubeconfig", cluster.write_kubeconfig()).await?);
    match kubectl.why_not()? {
        Some(reason) => println!("  kubectl works unmodified: NOT RUN, {reason}"),
        None => steps.take("kubectl works unmodified", stage.kubectl_works_unmodified(kubectl)).await?,
    }
    changes(&stage, steps).await?;
    survive(&stage, kubectl, steps).await?;
    for cut in 1..=test.cuts {
        let (after, greeting) = (moments.next_in(&faults::CHANGE), format!("Hello after cut {cut}"));
        let step = stage.a_power_cut_in_the_middle_converges(after, &greeting);
        steps.take(&format!("power is cut {after:?} after a push"), step).await?;
    }
    machine.cut_power().await?;
    seeded(steps).await?;
    println!("\nthe main job holds");
    crate::vm::members(Extent { losses: test.losses, upgrades_and_leaving: false }).await
}

/// What can be run alone, on a machine of its own.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// What ends and comes back, and what a privileged pod sees.
    Walls,
    /// Host extensions, over a power cut.
    Extensions,
}

async fn alone(home: &str, part: Part) -> Result<()> {
    let machine = VirtualMachine::new(&Places::new(home)?, "cp1", Ports::free()?);
    machine.cut_power().await?;
    std::fs::remove_dir_all(Places::new(home)?.home("")).context("removing what the last run left")?;
    let (places, steps) = (&Places::new(home)?, &mut Steps::default());
    Artefacts::build(places, steps).await?;
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let cluster = &Cluster::new(places, server.address().port());
    let stage = Stage { places, cluster, machine: &machine };
    let held = async {
        cluster.create()?;
        steps.take("a machine", machine.power_on(places)).await?;
        steps.take("enrolment", cluster.enroll(&machine)).await?;
        let push = async { cluster.push(&[(DEMO_FILE, &demo_manifests(2, FOURTH))], "Run hello, twice") };
        steps.take("a signed commit", push).await?;
        steps.take("the Service answers", cluster.answer(&machine, FOURTH)).await?;
        steps.take("a login", cluster.log_in()).await?;
        let kubectl = Kubectl::new(&cluster.write_kubeconfig().await?);
        match (part, kubectl.why_not()?) {
            (Part::Extensions, _) => extensions_and_a_power_cut(&stage, steps).await,
            (Part::Walls, None) => killed(&stage, &kubectl, steps).await,
            (Part::Walls, Some(reason)) => {
                println!("  walls and the watchdog: NOT RUN, {reason}");
                Ok(())
            }
        }
    };
    let held = held.await;
    if held.is_err() {
        println!("the console ends:\n{}", machine.serial());
    }
    machine.cut_power().await?;
    held
}

/// A cluster of its own, whose machine comes up by a seed.
async fn seeded(steps: &mut Steps) -> Result<()> {
    let home = ".cairn/test-seeded";
    std::fs::remove_dir_all(Places::new(home)?.home("")).context("removing what the last run left")?;
    let places = Places::new(home)?;
    let machine = VirtualMachine::new(&places, "cp1", Ports::free()?);
    let held = scenarios::a_baked_seed_introduces_the_machine(&places, machine);
    steps.take("a baked seed introduces a machine", held).await
}

/// A machine of its own whose firmware takes only what a key signed.
async fn secure_boot(steps: &mut Steps) -> Result<()> {
    let home = ".cairn/test-secure-boot";
    std::fs::remove_dir_all(Places::new(home)?.home("")).context("removing what the last run left")?;
    let places = Places::new(home)?;
    let machine = VirtualMachine::new(&places, "cp1", Ports::free()?).with_secure_boot();
    let held = tests_vm::secure_boot::only_signed_code_runs_with_secure_boot(&places, machine.clone());
    let held = steps.take("only signed code runs with Secure Boot", held).await;
    if held.is_err() {
        println!("the console ends:\n{}", machine.serial());
    }
    held
}

/// A machine of its own with a TPM made of software.
async fn tpm(steps: &mut Steps) -> Result<()> {
    let home = ".cairn/test-tpm";
    std::fs::remove_dir_all(Places::new(home)?.home("")).context("removing what the last run left")?;
    let places = Places::new(home)?;
    let machine = VirtualMachine::new(&places, "cp1", Ports::free()?).with_tpm();
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let cluster = Cluster::new(&places, server.address().port());
    let held = async {
        let proven = tests_vm::tpm::a_machine_proves_what_runs_and_notices_an_old_disk(&places, &cluster, &machine);
        steps.take("a machine proves what runs and notices an old disk", proven).await?;
        let recovered =
            tests_vm::console::a_recovery_is_confirmed_by_its_code_and_by_no_other(&places, &cluster, &machine);
        steps.take("a recovery is confirmed at the console", recovered).await
    };
    let held = held.await;
    if held.is_err() {
        println!("the console ends:\n{}", machine.serial());
    }
    machine.cut_power().await?;
    held?;
    encrypted(steps).await
}

/// Two machines without TPMs, one of which keeps the other's disk key.
async fn peer_keys(steps: &mut Steps) -> Result<()> {
    let home = ".cairn/test-peer-keys";
    std::fs::remove_dir_all(Places::new(home)?.home("")).context("removing what the last run left")?;
    let places = Places::new(home)?;
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let cluster = Cluster::new(&places, server.address().port());
    tests_vm::peer_keys::peers_release_disk_keys(&places, &cluster, steps).await
}

/// A machine of its own whose image has a signed policy.
async fn encrypted(steps: &mut Steps) -> Result<()> {
    let home = ".cairn/test-disks";
    std::fs::remove_dir_all(Places::new(home)?.home("")).context("removing what the last run left")?;
    let places = Places::new(home)?;
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let cluster = Cluster::new(&places, server.address().port());
    tests_vm::disks::disks_are_encrypted(&places, &cluster, steps).await
}

/// What the Service answers after the first change, after a hold, and after [`changes`].
const SECOND: &str = "Hello again";
const THIRD: &str = "Hello after the hold";
const FOURTH: &str = "Hello by hand";

async fn changes(stage: &Stage<'_>, steps: &mut Steps) -> Result<()> {
    steps.take("a signed commit changes what runs", stage.a_signed_commit_changes_what_runs(SECOND)).await?;
    steps.take("an unsigned commit is refused", stage.an_unsigned_commit_is_refused_and_repaired(SECOND)).await?;
    steps.take("a typo refuses the whole commit", stage.a_typo_refuses_the_whole_commit_with_its_place(SECOND)).await?;
    let hold = stage.a_hold_keeps_what_runs_until_it_ends(SECOND, THIRD);
    steps.take("a hold keeps what runs", hold).await?;
    steps.take("a pin goes back for a while", stage.a_pin_goes_back_for_a_while(THIRD)).await?;
    let bundle = stage.a_bundle_carries_a_commit_past_the_git_host(FOURTH);
    steps.take("a bundle passes the git host", bundle).await?;
    let revert = stage.a_step_that_does_not_become_healthy_is_reverted(FOURTH);
    steps.take("a step that makes things worse is reverted", revert).await?;
    steps.take("logs and events are followed", stage.logs_and_events_are_followed()).await?;
    steps.take("a signed commit sets addresses", stage.a_signed_commit_sets_static_addresses(FOURTH)).await
}

async fn survive(stage: &Stage<'_>, kubectl: &Kubectl, steps: &mut Steps) -> Result<()> {
    for service in ["gitsync", "controlplane", "containerd"] {
        let step = stage.a_restarted_service_comes_back_and_containers_keep_running(service, FOURTH);
        steps.take(&format!("{service} is restarted"), step).await?;
    }
    match kubectl.why_not()? {
        // A command in a pod is what kills.
        Some(reason) => println!("  killed processes and containers: NOT RUN, {reason}"),
        None => killed(stage, kubectl, steps).await?,
    }
    extensions_and_a_power_cut(stage, steps).await
}

/// The power cut is the restart that extensions wait for.
async fn extensions_and_a_power_cut(stage: &Stage<'_>, steps: &mut Steps) -> Result<()> {
    let named = stage.extensions_are_fetched_and_a_changed_one_is_refused();
    let _served = steps.take("extensions are fetched, a changed one is refused", named).await?;
    steps.take("a power cut loses nothing", stage.a_power_cut_loses_nothing(FOURTH)).await?;
    steps.take("extensions are merged after a restart", stage.extensions_are_merged_after_a_restart()).await
}

/// Ends the machine's processes and its containers, one after the other.
async fn killed(stage: &Stage<'_>, kubectl: &Kubectl, steps: &mut Steps) -> Result<()> {
    steps.take("a privileged pod", stage.a_pod_with_the_machines_processes_runs(kubectl)).await?;
    let walls = async { stage.walls_hide_the_machine_from_a_privileged_pod(kubectl) };
    steps.take("walls hide the machine from it", walls).await?;
    for (name, end) in [("machined", End::Asked), ("containerd", End::Killed)] {
        let step = stage.an_ended_process_comes_back(kubectl, (name, end), FOURTH);
        steps.take(&format!("{name} ends"), step).await?;
    }
    steps.take("containers are killed", stage.a_killed_container_is_started_again(kubectl, FOURTH)).await?;
    let step = stage.the_watchdog_restarts_a_machine_that_hangs(kubectl, FOURTH);
    steps.take("the kernel hangs, the watchdog restarts", step).await?;
    Ok(())
}
