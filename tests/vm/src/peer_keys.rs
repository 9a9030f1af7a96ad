//! A machine without a TPM whose disk key is kept by its cluster: it opens by itself while it belongs there, and not any more once it was removed.

use crate::artefacts;
use crate::cluster::Cluster;
use crate::machine::{Ports, VirtualMachine};
use crate::places::{Places, text};
use crate::steps::Steps;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::UdpSocket;
use std::time::Duration;
use tests_support::wait_for;

/// Where the control-plane machine and the other one are on the network that they share; nothing but their documents says so.
const ADDRESSES: [&str; 2] = ["10.9.0.11", "10.9.0.12"];

/// How long a machine may take to boot and to say how its disks are.
const SAID_LIMIT: Duration = Duration::from_secs(240);

/// A worker encrypts at its first boot, hands its key to the control plane, opens by it after a power cut, waits while it is off, and is refused
/// once its fingerprint has left the repository.
///
/// # Errors
/// What did not hold.
pub async fn peers_release_disk_keys(places: &Places, cluster: &Cluster, steps: &mut Steps) -> Result<()> {
    let (seed, image) = (places.home("seed.kdl"), places.home("insisting"));
    std::fs::write(&seed, "seed {\n    encryption \"required\"\n}\n").context("writing the seed")?;
    let seed = text(&seed)?;
    let more = ["--seed", seed.as_str()];
    let build = artefacts::image(places, &image, &more);
    steps.take("an image whose seed insists on encryption", build).await?;
    let lan = UdpSocket::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).context("finding a port")?;
    let peer = VirtualMachine::new(places, "cp1", Ports::free()?).with_lan(lan.port());
    let worker = VirtualMachine::new(places, "w1", Ports::free()?).with_lan(lan.port()).with_image(image);
    let held = life(places, cluster, steps, &peer, &worker).await;
    for machine in [&peer, &worker] {
        if held.is_err() {
            println!("the console of {} ends:\n{}", machine.name(), machine.serial());
        }
        machine.cut_power().await?;
    }
    held
}

async fn life(
    places: &Places,
    cluster: &Cluster,
    steps: &mut Steps,
    peer: &VirtualMachine,
    worker: &VirtualMachine,
) -> Result<()> {
    let together = async {
        cluster.create_at(&ADDRESSES[..1])?;
        for (machine, address, role) in [(peer, ADDRESSES[0], "control-plane"), (worker, ADDRESSES[1], "worker")] {
            enroll(places, cluster, machine, address, role).await?;
        }
        cluster.log_in().await?;
        disks(cluster, worker, "its key is with 1 peer").await
    };
    steps.take("the control plane keeps a worker's disk key", together).await?;

    let again = async {
        worker.cut_power().await?;
        worker.power_on(places).await?;
        disks(cluster, worker, "opened by a peer").await?;
        let audit = cluster.cairnctl(&["--machine", peer.name(), "logs", "audit"])?;
        ensure!(audit.contains("DiskKeyRelease") && audit.contains("machined on w1"), "the release is not in {audit}");
        anyhow::Ok(())
    };
    steps.take("a power cut later it gets its key back", again).await?;

    let cold = async {
        worker.cut_power().await?;
        peer.cut_power().await?;
        worker.power_on(places).await?;
        worker.console("waiting for a peer to release the disk key").await?;
        peer.power_on(places).await?;
        disks(cluster, worker, "opened by a peer").await
    };
    steps.take("while the control plane is off it waits and says so", cold).await?;

    let removed = async {
        cluster.push_removal("machines/w1.kdl", "Take w1 out")?;
        let gone = async || {
            let commits =
                cluster.cairnctl(&["--machine", peer.name(), "commits"]).map_err(|error| format!("{error:#}"))?;
            if commits.contains("Take w1 out") { Ok(()) } else { Err(commits) }
        };
        wait_for("the removal at the peer", SAID_LIMIT, gone).await?;
        worker.cut_power().await?;
        worker.power_on(places).await?;
        worker.console("no machine of the accepted step has identity").await
    };
    steps.take("once it is removed nobody releases its key", removed).await
}

/// Brings a machine in with its role and its address, in one push.
async fn enroll(places: &Places, cluster: &Cluster, machine: &VirtualMachine, address: &str, role: &str) -> Result<()> {
    machine.power_on(places).await?;
    cluster.enroll_unpushed(machine).await?;
    let path = format!("machines/{}.kdl", machine.name());
    let document = std::fs::read_to_string(cluster.checkout().join(&path))?.replace("control-plane", role);
    let (begin, _) = document.trim_end().rsplit_once('}').context("a machine's document ends with a brace")?;
    let network = format!(
        "    network {{\n        link \"eth0\" {{ dhcp #true; }}\n        link \"eth1\" {{ address \"{address}/24\"; }}\n    }}\n"
    );
    cluster.push(&[(&path, &format!("{begin}{network}}}\n"))], "Say where the machine is").map(drop)
}

/// Waits until a machine's disks are protected and it says this of them.
async fn disks(cluster: &Cluster, machine: &VirtualMachine, words: &str) -> Result<()> {
    let look = async || {
        let status = cluster.cairnctl_json(&["--machine", machine.name(), "status"]);
        let status = status.map_err(|error| format!("{error:#}"))?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == "DisksEncrypted");
        let says = |one: &Value| one["message"].as_str().is_some_and(|message| message.contains(words));
        if found.as_ref().is_some_and(|one| one["status"] == true && says(one)) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    };
    Ok(wait_for(format!("{words:?} at {}", machine.name()), SAID_LIMIT, look).await?)
}
