//! `cargo xtask bench boot`: the main job on a fresh machine, several times, with its sizes, times and memory.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tests_support::wait_for;
use tests_vm::scenarios::DEMO_FILE;
use tests_vm::{Artefacts, Cluster, Kubectl, Places, Ports, Steps, VirtualMachine, demo_manifests, downtime};

/// How the boot is measured.
#[derive(Debug, Args)]
pub(crate) struct Boot {
    /// Fresh machines to boot, one after the other.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

/// Figures of one run by name; the unit is the name's last word.
type Figures = BTreeMap<String, f64>;

/// How long the machine is left alone before its memory is read, so that what start-up took is given back.
const IDLE: Duration = Duration::from_secs(30);

/// How long a machine that is switched on again may take before the run is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(240);

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
    let mut put = |name: &str, since: Instant| figures.insert(name.to_owned(), since.elapsed().as_secs_f64());
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let cluster = Cluster::new(places, server.address().port());
    cluster.create()?;
    let power = Instant::now();
    machine.power_on(places).await?;
    machine.identity().await?;
    put("power_on_to_identity_on_console_s", power);
    cluster.enroll(machine).await?;
    let enrolled = Instant::now();
    cluster.log_in().await?;
    let kubectl = Kubectl::new(&cluster.write_kubeconfig().await?);
    put("enrolment_to_kubernetes_api_s", enrolled);
    let form = "--output=jsonpath={.status.containerStatuses[0].state}{\"\\n\"}";
    let mut pods = kubectl.follow(&["get", "pods", "--all-namespaces", "--watch", form])?;
    let pushed = Instant::now();
    cluster.push(&[(DEMO_FILE, &demo_manifests(2, "Hello from Cairn"))], "Run hello, twice")?;
    pods.line("running").await?;
    put("push_to_first_container_s", pushed);
    cluster.answer(machine, "Hello from Cairn").await?;
    put("push_to_service_answer_s", pushed);
    drop(pods);
    let status = cluster.cairnctl_json(&["status"])?;
    for (figure, field) in
        [("kernel_start_to_pid1_ms", "bootKernelMs"), ("kernel_start_to_machine_api_ms", "bootApiMs")]
    {
        figures.insert(figure.to_owned(), status[field].as_f64().unwrap_or(f64::NAN));
    }
    tokio::time::sleep(IDLE).await;
    memory(&cluster, &mut figures)?;
    machine.cut_power().await?;
    let power = Instant::now();
    machine.power_on(places).await?;
    let readyz = ["get", "--raw", "/readyz", "--request-timeout", "2s"];
    let ready = async || kubectl.run(&readyz, "").map_err(|error| format!("{error:#}"));
    wait_for("the Kubernetes API", ANSWER_LIMIT, ready).await?;
    figures.insert("power_on_again_to_kubernetes_api_s".to_owned(), power.elapsed().as_secs_f64());
    cluster.answer(machine, "Hello from Cairn").await?;
    figures.insert("power_on_again_to_service_answer_s".to_owned(), power.elapsed().as_secs_f64());
    let upgrade = downtime::of_an_upgrade(places, &cluster, machine, &kubectl, "Hello from Cairn").await?;
    for (figure, time) in [
        ("upgrade_without_machine_api_s", upgrade.machine),
        ("upgrade_without_kubernetes_api_s", upgrade.kubernetes),
        ("upgrade_without_service_s", upgrade.service),
        ("upgrade_push_to_good_s", upgrade.whole),
    ] {
        figures.insert(figure.to_owned(), time.as_secs_f64());
    }
    Ok(figures)
}

/// What the idle machine uses, and who: in use is MemTotal - MemAvailable; resident sizes include shared pages.
fn memory(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    const MIB: f64 = 1024.0 * 1024.0;
    let reply = cluster.cairnctl_json(&["processes"])?;
    let bytes = |value: &Value| value.as_f64().context("a number of bytes");
    let in_use = bytes(&reply["memoryTotalBytes"])? - bytes(&reply["memoryAvailableBytes"])?;
    figures.insert("idle_memory_in_use_mib".to_owned(), in_use / MIB);
    for process in reply["processes"].as_array().context("a list of processes")? {
        let name = process["name"].as_str().context("a process has a name")?;
        *figures.entry(format!("resident_{name}_mib")).or_default() += bytes(&process["residentBytes"])? / MIB;
    }
    Ok(())
}

fn report(places: &Places, manifest: &Value, runs: &[Figures]) -> Result<()> {
    println!("\n{:<38} {:>10} {:>10} {:>10}", "figure", "min", "median", "max");
    for name in runs.first().context("there was no run")?.keys() {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(name).copied()).collect();
        values.sort_by(f64::total_cmp);
        let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        println!("{name:<38} {:>10.1} {median:>10.1} {:>10.1}", values[0], values[values.len() - 1]);
    }
    let sizes = json!({ "uki_bytes": manifest["uki_bytes"], "root_bytes": manifest["root_bytes"] });
    println!("image: {sizes}");
    let file = places.home("boot.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&json!({ "image": sizes, "runs": runs }))?)?;
    println!("JSON: {}", file.display());
    Ok(())
}
