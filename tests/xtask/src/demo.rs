//! `make up`: the main job, as a newcomer sees it. `.cairn/demo/` holds all of it; running it again goes on where it was.

mod screen;

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tests_support::wait_for;
use tests_vm::scenarios::DEMO_FILE;
use tests_vm::{Artefacts, Cluster, Places, Ports, Steps, VirtualMachine, demo_manifests};

/// What the demo's Service says.
const GREETING: &str = "Hello from Cairn";

/// The demo's machine.
const MACHINE: &str = "cp1";

/// How long the git server may take to listen.
const SERVER_LIMIT: Duration = Duration::from_secs(20);

/// What one run leaves for the next, in `.cairn/demo/state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    ports: Ports,
    git_port: u16,
    git_pid: u32,
    enrolled: bool,
    refused: Option<Refused>,
}

/// The unsigned commit that the demo pushed, and what the machine said to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Refused {
    commit: String,
    reason: String,
    message: String,
}

/// Serve a folder of git repositories over HTTP.
#[derive(Debug, Args)]
pub(crate) struct ServeGit {
    /// Folder of bare repositories.
    #[arg(long)]
    root: PathBuf,
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
}

pub(crate) async fn serve_git(serve: &ServeGit) -> Result<()> {
    tests_support::git::serve(&serve.root, serve.listen).await?.forever().await;
    Ok(())
}

fn places() -> Result<Places> {
    Places::new(".cairn/demo")
}

pub(crate) async fn up() -> Result<()> {
    let places = places()?;
    let mut steps = Steps::default();
    println!("Cairn's demo: from a clone to a container that a signed commit started\n");
    Artefacts::build(&places, &mut steps).await?;
    let file = places.home("state.json");
    let mut state = load(&file)?;
    let cluster = Cluster::new(&places, state.git_port);
    if !cluster.checkout().exists() {
        steps.take("making the repository and its signing key", async { cluster.create() }).await?;
    }
    steps.take("serving the repository", serve_repository(&cluster, &mut state)).await?;
    save(&file, &state)?;
    let machine = VirtualMachine::new(&places, MACHINE, state.ports);
    if !machine.is_running() {
        steps.take("switching the machine on (QEMU, UEFI)", machine.power_on(&places)).await?;
    }
    if !state.enrolled {
        steps.take("booting until it shows its identity", machine.identity()).await?;
        steps.take("enrolling it", cluster.enroll(&machine)).await?;
        state.enrolled = true;
        save(&file, &state)?;
    }
    if !cluster.checkout().join(DEMO_FILE).exists() {
        let files = [(DEMO_FILE, demo_manifests(2, GREETING))];
        let push = async { cluster.push(&[(files[0].0, &files[0].1)], "Run hello, twice") };
        steps.take("pushing a signed commit", push).await?;
    }
    steps.take("until the Service answers over HTTP", cluster.answer(&machine, "pod ")).await?;
    steps.take("logging in", cluster.log_in()).await?;
    let kubeconfig = steps.take("writing the kubeconfig", cluster.write_kubeconfig()).await?;
    if state.refused.is_none() {
        let manifests = demo_manifests(2, "Smuggled in");
        let refusal = refused(&cluster, &manifests);
        state.refused = Some(steps.take("an unsigned commit, refused, and the repair", refusal).await?);
        save(&file, &state)?;
    }
    screen::show(
        &screen::Demo { places: &places, cluster: &cluster, machine: &machine, kubeconfig: &kubeconfig },
        &state,
        &steps,
    )
}

/// Shows what this is about: a commit without a signature changes nothing, and the branch is put right by a signed one.
async fn refused(cluster: &Cluster, manifests: &str) -> Result<Refused> {
    let record = cluster.push_unsigned(&[(DEMO_FILE, manifests)]).await?;
    cluster.repair()?;
    let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
    Ok(Refused { commit: text("commit"), reason: text("reason"), message: text("message") })
}

/// Starts the git server in the background unless it runs.
async fn serve_repository(cluster: &Cluster, state: &mut State) -> Result<()> {
    let listens = async |port: u16| tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop);
    if is_git_server(state.git_pid) && listens(state.git_port).await.is_ok() {
        return Ok(());
    }
    let program = std::env::current_exe().context("finding this program")?;
    let child = Command::new(program)
        .args(["serve-git", "--listen", &format!("127.0.0.1:{}", state.git_port), "--root"])
        .arg(cluster.served())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the git server")?;
    state.git_pid = child.id();
    wait_for("the git server", SERVER_LIMIT, async || listens(state.git_port).await).await?;
    Ok(())
}

/// Whether a process is one of our git servers; pids are given again to others.
fn is_git_server(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("xtask") && line.contains("serve-git")
    })
}

fn load(file: &Path) -> Result<State> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("reading {}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let git_port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            Ok(State { ports: Ports::free()?, git_port, git_pid: 0, enrolled: false, refused: None })
        }
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

fn save(file: &Path, state: &State) -> Result<()> {
    std::fs::write(file, serde_json::to_vec_pretty(state)?).with_context(|| format!("writing {}", file.display()))
}

pub(crate) fn down() -> Result<()> {
    let places = places()?;
    let file = places.home("state.json");
    if !file.exists() {
        println!("nothing runs");
        return Ok(());
    }
    let state = load(&file)?;
    if VirtualMachine::new(&places, MACHINE, state.ports).is_running() {
        let machine = places.home(MACHINE);
        let status =
            Command::new(places.programs().join("cairn-image")).args(["stop", "--machine"]).arg(machine).status()?;
        anyhow::ensure!(status.success(), "cairn-image stop ended with {status}");
    }
    if is_git_server(state.git_pid) {
        let process = Pid::from_raw(i32::try_from(state.git_pid).context("a process id is small")?);
        kill(process, Signal::SIGTERM).context("cannot stop the git server")?;
    }
    println!("the machine and the git server are stopped; `make up` starts them again where they were");
    Ok(())
}

pub(crate) fn clean_up() -> Result<()> {
    down()?;
    let folder = places()?.root().join(".cairn");
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    println!("removed {}", folder.display());
    Ok(())
}
