//! What an upgrade costs those who use a machine: how long nobody answers, from the last answer before to the first one after.

use crate::cluster::{Cluster, answers};
use crate::images::Images;
use crate::kubectl::Kubectl;
use crate::machine::VirtualMachine;
use crate::places::Places;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests_support::wait_for;
use tokio::task::JoinHandle;

/// How long the upgrade may take before the measurement is given up.
const UPGRADE_LIMIT: Duration = Duration::from_secs(420);

/// Pause between two questions: what a gap is known to.
const PROBE_PERIOD: Duration = Duration::from_millis(100);

/// The longest time without an answer, of each of those that were asked all the while.
#[derive(Debug, Clone, Copy)]
pub struct Downtime {
    /// The machine API.
    pub machine: Duration,
    /// `/readyz` of the Kubernetes API.
    pub kubernetes: Duration,
    /// The demo's Service, which answers `greeting`.
    pub service: Duration,
    /// From the push to the new image being good.
    pub whole: Duration,
}

/// Builds another image, names it in a signed commit, and asks three services for an answer until the machine has settled on it.
///
/// # Errors
/// When the upgrade does not become good.
pub async fn of_an_upgrade(
    places: &Places,
    cluster: &Cluster,
    machine: &VirtualMachine,
    kubectl: &Kubectl,
    greeting: &str,
) -> Result<Downtime> {
    let images = Images::serve(places).await?;
    let image = images.build("0.2.0", None).await?;
    let over = Arc::new(AtomicBool::new(false));
    let asked = cluster.clone();
    let api = gaps(&over, move || blocking(asked.clone(), |cluster| cluster.cairnctl(&["status"]).is_ok()));
    let asked = kubectl.clone();
    let ready = ["get", "--raw", "/readyz", "--request-timeout", "2s"];
    let kubernetes = gaps(&over, move || blocking(asked.clone(), move |kubectl| kubectl.run(&ready, "").is_ok()));
    let (address, expected) = (SocketAddr::from(([127, 0, 0, 1], machine.ports().service)), greeting.to_owned());
    let service = gaps(&over, move || answers(address, expected.clone()));

    let begun = Instant::now();
    let (path, document) = images.document(cluster, machine.name(), &image, 1)?;
    cluster.push(&[(&path, &document)], "Run another image")?;
    let look = async || match cluster.cairnctl_json(&["upgrade", "status"]) {
        Ok(status) if status["phase"] == "idle" && status["running"]["version"] == "0.2.0" => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(format!("{error:#}")),
    };
    let settled = wait_for("the other image to be good", UPGRADE_LIMIT, look).await;
    let whole = begun.elapsed();
    if settled.is_ok() {
        cluster.answer(machine, greeting).await?;
    }
    over.store(true, Ordering::Relaxed);
    let (machine, kubernetes, service) = (api.await?, kubernetes.await?, service.await?);
    settled.context("the machine did not settle on the other image")?;
    Ok(Downtime { machine, kubernetes, service, whole })
}

/// Asks until it is over, in a task of its own; the longest time between two answers.
fn gaps<Asked>(over: &Arc<AtomicBool>, ask: impl Fn() -> Asked + Send + 'static) -> JoinHandle<Duration>
where
    Asked: Future<Output = bool> + Send,
{
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let (mut period, mut last, mut longest) = (tokio::time::interval(PROBE_PERIOD), Instant::now(), Duration::ZERO);
        while !over.load(Ordering::Relaxed) {
            period.tick().await;
            if ask().await {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
        longest
    })
}

/// Runs a program on a thread of its own; whether it succeeded.
async fn blocking<Program: Send + 'static>(
    program: Program,
    run: impl FnOnce(&Program) -> bool + Send + 'static,
) -> bool {
    tokio::task::spawn_blocking(move || run(&program)).await.unwrap_or(false)
}
