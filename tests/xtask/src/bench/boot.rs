//! `cargo xtask bench boot`: the main job on a fresh machine, several times, with its sizes, times and memory.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;
use tests_vm::scenarios::DEMO_FILE;
use tests_vm::{Artefacts, Cluster, Places, Ports, Steps, VirtualMachine, demo_manifests};

/// How the boot is measured.
#[derive(Debug, Args)]
pub(crate) struct Boot {
    /// Fresh machines to boot, one after the other.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

/// Figures of one run by name; the unit is the name's last word.
type Figures = BTreeMap<&'static str, f64>;

pub(crate) async fn run(boot: &Boot) -> Result<()> {
    let home = ".cairn/bench";
    let places = Places::new(home)?;
    let artefacts = Artefacts::build(&places, &mut Steps::default()).await?;
    let manifest: Value = serde_json::from_slice(&std::fs::read(&artefacts.manifest)?)?;
    let mut runs = Vec::new();
    for number in 1..=boot.runs {
        println!("\nrun {number} of {}", boot.runs);
        let folder = format!("{home}/run-{number}");
        if let Err(error) = std::fs::remove_dir_all(places.home(&format!("run-{number}")))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).context("removing an earlier run");
        }
        runs.push(one_run(&Places::new(&folder)?).await?);
    }
    report(&places, &manifest, &runs)
}

async fn one_run(places: &Places) -> Result<Figures> {
    let machine = VirtualMachine::new(places, "cp1", Ports::free()?);
    let result = measure(places, &machine).await;
    machine.cut_power().await?;
    result
}

async fn measure(places: &Places, machine: &VirtualMachine) -> Result<Figures> {
    let mut figures = Figures::new();
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let cluster = Cluster::new(places, server.address().port());
    cluster.create()?;
    let power = Instant::now();
    machine.power_on(places).await?;
    machine.identity().await?;
    figures.insert("power_on_to_identity_on_console_s", power.elapsed().as_secs_f64());
    cluster.enroll(machine).await?;
    let enrolled = Instant::now();
    cluster.log_in().await?;
    cluster.write_kubeconfig().await?;
    figures.insert("enrolment_to_kubernetes_api_s", enrolled.elapsed().as_secs_f64());
    let pushed = Instant::now();
    cluster.push(&[(DEMO_FILE, &demo_manifests(2, "Hello from Cairn"))], "Run hello, twice")?;
    cluster.answer(machine, "Hello from Cairn").await?;
    figures.insert("push_to_service_answer_s", pushed.elapsed().as_secs_f64());
    let status = cluster.cairnctl_json(&["status"])?;
    for (figure, field) in
        [("kernel_start_to_pid1_ms", "bootKernelMs"), ("kernel_start_to_machine_api_ms", "bootApiMs")]
    {
        figures.insert(figure, status[field].as_f64().unwrap_or(f64::NAN));
    }
    memory(&cluster, &mut figures)?;
    Ok(figures)
}

/// What the idle machine's services use, by their cgroups.
fn memory(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    const MIB: f64 = 1024.0 * 1024.0;
    let services = cluster.cairnctl_json(&["service", "list"])?;
    for (figure, service) in [
        ("containerd_memory_mib", "containerd"),
        ("controlplane_memory_mib", "controlplane"),
        ("gitsync_memory_mib", "gitsync"),
    ] {
        let found = services.as_array().and_then(|list| list.iter().find(|found| found["name"] == service));
        let bytes = found.and_then(|found| found["memoryBytes"].as_f64()).unwrap_or(f64::NAN);
        figures.insert(figure, bytes / MIB);
    }
    Ok(())
}

fn report(places: &Places, manifest: &Value, runs: &[Figures]) -> Result<()> {
    println!("\n{:<38} {:>10} {:>10} {:>10}", "figure", "min", "median", "max");
    let names: Vec<&&str> = runs.first().context("there was no run")?.keys().collect();
    for name in names {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(*name).copied()).collect();
        values.sort_by(f64::total_cmp);
        let median = values[values.len() / 2];
        println!("{name:<38} {:>10.1} {median:>10.1} {:>10.1}", values[0], values[values.len() - 1]);
    }
    let sizes = json!({ "uki_bytes": manifest["uki_bytes"], "root_bytes": manifest["root_bytes"] });
    println!("image: {sizes}");
    let file = places.home("boot.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&json!({ "image": sizes, "runs": runs }))?)?;
    println!("JSON: {}", file.display());
    Ok(())
}
