//! `controlplane dev` as a developer runs it: containerd and one process on this computer, no image, no virtual machine.
//!
//! It runs in a network namespace of its own, so that its bridge, its rules and its ports are nobody else's and go with it.

use crate::cluster::{Cluster, DEMO_PORT, demo_manifests};
use crate::kubectl::Kubectl;
use crate::places::{Places, text};
use crate::scenarios::exec_hands_on_input_and_exit_code;
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tests_support::wait_for;
use tokio::process::Child;

/// The computer's address inside the namespace, from a range that is reserved for examples.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// How long containerd and the control plane may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Why the demo cannot run on this computer, if it cannot: a node needs root, containerd and runc, the demo a kubectl.
///
/// # Errors
/// When kubectl does not say its version.
pub fn why_not() -> Result<Option<String>> {
    let runs = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !std::fs::read_to_string("/proc/self/status")?.contains("\nUid:\t0\t") {
        return Ok(Some("a node needs root".to_owned()));
    }
    if !runs("containerd") || !runs("runc") {
        return Ok(Some("a node needs containerd and runc".to_owned()));
    }
    Kubectl::new(Path::new("/dev/null")).why_not()
}

/// A login, a Deployment, its Service, its logs and a command in it, on `controlplane dev`. Call it in a new network namespace.
///
/// # Errors
/// What did not hold.
pub async fn the_demo_runs_on_this_computer(places: &Places) -> Result<()> {
    network()?;
    let cluster = Cluster::new(places, 0);
    cluster.create()?;
    let data = text(&places.home("data"))?;
    let listen = format!("{ADDRESS}:6443");
    cluster.cairnctl(&["dev", "--checkout", &text(&cluster.checkout())?, "--data", &data, "--listen", &listen])?;
    let containerd = containerd(places).await?;
    let control_plane = control_plane(places, &data)?;
    cluster.log_in().await?;
    let kubectl = Kubectl::new(&cluster.write_kubeconfig().await?);
    let held = demo(&cluster, &kubectl).await;
    // Pods outlive the control plane, as they should; a test leaves none.
    let removed = kubectl.run(&["delete", "namespace", "hello", "--timeout", "60s"], "");
    drop((control_plane, containerd));
    held.and(removed.map(drop))
}

async fn demo(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let greeting = "Hello from this computer";
    kubectl.run(&["apply", "--filename", "-"], &demo_manifests(2, greeting))?;
    cluster.answer_at(SocketAddr::from((ADDRESS, DEMO_PORT)), greeting).await?;
    let logs = kubectl.run(&["logs", "deployment/hello", "--namespace", "hello"], "")?;
    ensure!(logs.contains("hello: listening"), "kubectl logs shows: {logs}");
    exec_hands_on_input_and_exit_code(kubectl)
}

fn network() -> Result<()> {
    let address = format!("{ADDRESS}/24");
    let steps: [&[&str]; 6] = [
        &["link", "set", "lo", "up"],
        &["link", "add", "dev0", "type", "veth", "peer", "name", "dev1"],
        &["link", "set", "dev1", "up"],
        &["address", "add", &address, "dev", "dev0"],
        &["link", "set", "dev0", "up"],
        &["route", "add", "default", "dev", "dev0"],
    ];
    for arguments in steps {
        let done = Command::new("ip").args(arguments).status().context("starting ip")?;
        ensure!(done.success(), "ip {} failed", arguments.join(" "));
    }
    Ok(())
}

/// containerd with its own folders and socket, ended with the value.
async fn containerd(places: &Places) -> Result<Child> {
    let (root, state, socket) =
        (places.home("containerd/root"), places.home("containerd/state"), places.home("c.sock"));
    std::fs::create_dir_all(places.home("containerd"))?;
    let config = places.home("containerd/config.toml");
    let text = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {socket:?}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&config);
    let child = started(places, command, "containerd.log")?;
    let look = async || if socket.exists() { Ok(()) } else { Err("no socket yet") };
    wait_for("containerd", START_LIMIT, look).await?;
    Ok(child)
}

fn control_plane(places: &Places, data: &str) -> Result<Child> {
    let mut command = Command::new(places.programs().join("controlplane"));
    command.args(["dev", "--data", data, "--listen", "0.0.0.0:6443", "--node-address", &ADDRESS.to_string()]);
    command.arg("--containerd").arg(places.home("c.sock"));
    command.arg("--pause").arg(places.programs().join("pause"));
    command.arg("--images").arg(places.image(""));
    started(places, command, "controlplane.log")
}

fn started(places: &Places, command: Command, log: &str) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    let log = std::fs::File::create(places.home(log))?;
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    command.spawn().with_context(|| format!("starting {name}"))
}
