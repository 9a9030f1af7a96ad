//! `cargo xtask test`: unit and integration tests, then the main job on a machine of its own in QEMU.

use crate::run::run;
use anyhow::{Context, Result};
use clap::Args;
use std::net::SocketAddr;
use tests_vm::scenarios::{DEMO_FILE, Stage};
use tests_vm::{Artefacts, Cluster, Places, Ports, Steps, VirtualMachine, demo_manifests};

/// Which tests to run.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Only the tests in a virtual machine.
    #[arg(long)]
    vm: bool,
    /// Leave the virtual machine running at the end, to look at it.
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn test(test: &Test) -> Result<()> {
    if !test.vm {
        run("cargo", &["test", "--workspace", "--locked"])?;
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
    let result = main_job(&places, &machine, &mut steps).await;
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

async fn main_job(places: &Places, machine: &VirtualMachine, steps: &mut Steps) -> Result<()> {
    Artefacts::build(places, steps).await?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), listen).await?;
    let cluster = &Cluster::new(places, server.address().port());
    steps.take("a repository, signed", async { cluster.create() }).await?;
    steps.take("power on", machine.power_on(places)).await?;
    steps.take("enrolment", cluster.enroll(machine)).await?;
    let first = "Hello from Cairn";
    let push = async { cluster.push(&[(DEMO_FILE, &demo_manifests(2, first))], "Run hello, twice") };
    steps.take("a signed commit", push).await?;
    steps.take("the Service answers", cluster.answer(machine, first)).await?;
    steps.take("a login", cluster.log_in()).await?;
    let kubeconfig = steps.take("a kubeconfig", cluster.write_kubeconfig()).await?;
    let kubeconfig = kubeconfig.to_str().context("the path is text")?;
    let stage = Stage { places, cluster, machine };
    let second = "Hello again";
    steps.take("kubectl works unmodified", async { stage.kubectl_works_unmodified(kubeconfig) }).await?;
    steps.take("a signed commit changes what runs", stage.a_signed_commit_changes_what_runs(second)).await?;
    steps.take("an unsigned commit is refused", stage.an_unsigned_commit_is_refused_and_repaired(second)).await?;
    steps.take("a typo refuses the whole commit", stage.a_typo_refuses_the_whole_commit_with_its_place(second)).await?;
    for service in ["gitsync", "controlplane", "containerd"] {
        let step = stage.a_restarted_service_comes_back_and_containers_keep_running(service, second);
        steps.take(&format!("{service} is restarted"), step).await?;
    }
    steps.take("a power cut loses nothing", stage.a_power_cut_loses_nothing(second)).await?;
    println!("\nthe main job holds");
    Ok(())
}
