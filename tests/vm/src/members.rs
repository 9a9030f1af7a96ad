//! Three machines, one cluster: each member of the store, any one of which may be lost.

use crate::cluster::{Cluster, demo_manifests};
use crate::images::{Image, Images};
use crate::kubectl::Kubectl;
use crate::machine::{Ports, VirtualMachine};
use crate::places::Places;
use crate::scenarios::DEMO_FILE;
use crate::steps::Steps;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use tests_support::wait_for;

/// The machines and their addresses on the network that they share.
const MACHINES: [(&str, &str); 3] = [("cp1", "10.9.0.11"), ("cp2", "10.9.0.12"), ("cp3", "10.9.0.13")];

/// How long the others may take to answer after one is lost: an election of two seconds, on emulated processors.
const LOSS_LIMIT: Duration = Duration::from_secs(60);

/// How long a machine may take to boot, become a member and have all that the others have.
const JOIN_LIMIT: Duration = Duration::from_secs(300);

/// How long three machines may take to be upgraded, one after the other, on emulated processors that they share.
const UPGRADES_LIMIT: Duration = Duration::from_secs(1200);

/// How much of it is run.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Machines that are lost, one after the other.
    pub losses: usize,
    /// Whether they are also upgraded, all at once, while somebody asks them to restart all the time, and one leaves for good.
    pub upgrades_and_leaving: bool,
}

/// A cluster of three booted machines.
#[derive(Debug)]
pub struct Trio {
    places: Places,
    cluster: Cluster,
    machines: Vec<VirtualMachine>,
}

impl Trio {
    /// Three machines in the folder of `places`; nothing runs yet. The repository is served on `git_port`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new(places: &Places, git_port: u16) -> Result<Self> {
        let lan = UdpSocket::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).context("finding a port")?;
        let machine = |(name, _): &(&str, &str)| {
            anyhow::Ok(VirtualMachine::new(places, name, Ports::free()?).with_lan(lan.port()))
        };
        let machines = MACHINES.iter().map(machine).collect::<Result<_>>()?;
        Ok(Trio { places: places.clone(), cluster: Cluster::new(places, git_port), machines })
    }

    /// The machines.
    #[must_use]
    pub fn machines(&self) -> &[VirtualMachine] {
        &self.machines
    }

    /// Three machines become one cluster, and as many of them as `extent` says, one after the other, are lost without the others noticing
    /// more than an election.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn any_machine_may_be_lost(&self, steps: &mut Steps, extent: Extent) -> Result<()> {
        let endpoints = MACHINES.map(|(_, address)| address);
        steps.take("a repository for three machines", async { self.cluster.create_at(&endpoints) }).await?;
        for (machine, (_, address)) in self.machines.iter().zip(MACHINES) {
            steps.take(&format!("{} is enrolled", machine.name()), self.enroll(machine, address)).await?;
        }
        steps.take("a login", self.cluster.log_in()).await?;
        let kubectl = Kubectl::new(&steps.take("a kubeconfig", self.cluster.write_kubeconfig()).await?);
        if let Some(reason) = kubectl.why_not()? {
            println!("  any machine may be lost: NOT RUN, {reason}");
            return Ok(());
        }
        steps.take("all three are nodes and answer", self.all_answer(&kubectl)).await?;
        let first = "Hello from three";
        self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, first))], "Run hello on three machines")?;
        for machine in &self.machines {
            let step = format!("the Service answers at {}", machine.name());
            steps.take(&step, self.cluster.answer(machine, first)).await?;
        }
        for lost in self.machines.iter().take(extent.losses) {
            steps.take(&format!("{} is lost, the others go on", lost.name()), self.lose(&kubectl, lost)).await?;
            steps.take(&format!("{} comes back with all of it", lost.name()), self.come_back(&kubectl, lost)).await?;
        }
        if extent.upgrades_and_leaving {
            let images = Images::serve(&self.places).await?;
            let image = steps.take("an image 0.2.0", images.build("0.2.0", None)).await?;
            let upgraded = self.upgrade_all_under_attack(&kubectl, &images, &image);
            steps.take("all three are upgraded, under attack, one at a time", upgraded).await?;
            steps.take("the third leaves, what it knew is replaced", self.leave(&kubectl)).await?;
        }
        Ok(())
    }

    /// One commit names another image for all three, and somebody asks all three to restart, over and over, whatever they answer. They go
    /// one at a time, drained, and the cluster takes writes all the while.
    async fn upgrade_all_under_attack(&self, kubectl: &Kubectl, images: &Images, image: &Image) -> Result<()> {
        let before = self.boots(kubectl)?;
        let mut named = Vec::new();
        for machine in &self.machines {
            named.push(images.document(&self.cluster, machine.name(), image, 1)?);
        }
        let named: Vec<(&str, &str)> = named.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        self.cluster.push(&named, "Run another image everywhere")?;
        let (began, mut writes) = (Instant::now(), 0);
        let mut upgraded = BTreeSet::new();
        while upgraded.len() < self.machines.len() {
            self.demand_restarts();
            writes += 1;
            self.write_somewhere(kubectl, &format!("under-attack-{writes}")).await?;
            let nodes = self.read_somewhere(kubectl, &["get", "nodes"])?;
            let away = nodes.lines().filter(|line| line.contains("SchedulingDisabled")).count();
            ensure!(away <= 1, "{away} machines were taken away at once:\n{nodes}");
            upgraded
                .extend(self.machines.iter().map(VirtualMachine::name).filter(|name| self.has_settled(name, image)));
            let late = began.elapsed() > UPGRADES_LIMIT;
            ensure!(!late, "only {upgraded:?} run {}:\n{nodes}", image.version);
        }
        self.all_answer(kubectl).await?;
        let after = self.boots(kubectl)?;
        let stayed: Vec<&String> =
            before.iter().filter(|(name, boot)| after.get(*name) == Some(boot)).map(|it| it.0).collect();
        ensure!(stayed.is_empty(), "{stayed:?} did not restart");
        let list = self.read_somewhere(kubectl, &["get", "configmaps", "--output", "name"])?;
        let kept = list.lines().filter(|line| line.contains("under-attack-")).count();
        ensure!(kept == writes, "{kept} of {writes} writes are there");
        Ok(())
    }

    /// Asks each machine, whatever it answers: most of the time that it restarts already, that it has to wait, or nothing at all.
    fn demand_restarts(&self) {
        for machine in &self.machines {
            let _answer = self.cluster.cairnctl(&["--machine", machine.name(), "reboot"]);
        }
    }

    /// Whether a machine has settled on this image; one that does not answer has not.
    fn has_settled(&self, machine: &str, image: &Image) -> bool {
        let status = self.cluster.cairnctl_json(&["--machine", machine, "upgrade", "status"]).unwrap_or_default();
        status["phase"] == "idle" && status["running"]["digest"] == image.digest.as_str()
    }

    /// Writes at whichever machine takes it; two of three always can, but for an election.
    async fn write_somewhere(&self, kubectl: &Kubectl, name: &str) -> Result<()> {
        let write = async || match self.read_somewhere(kubectl, &["create", "configmap", name]) {
            // An answer that was lost is no second write.
            Err(error) if !format!("{error:#}").contains("already exists") => Err(format!("{error:#}")),
            Ok(_) | Err(_) => Ok(()),
        };
        wait_for(format!("a write of {name}"), LOSS_LIMIT, write).await?;
        Ok(())
    }

    /// Runs kubectl at one machine after the other, until one answers.
    fn read_somewhere(&self, kubectl: &Kubectl, arguments: &[&str]) -> Result<String> {
        let mut errors = Vec::new();
        for machine in &self.machines {
            match kubectl.at(machine, arguments) {
                Ok(said) => return Ok(said),
                Err(error) => errors.push(format!("{}: {error:#}", machine.name())),
            }
        }
        bail!("{}", errors.join("; "))
    }

    /// The boot of each node.
    fn boots(&self, kubectl: &Kubectl) -> Result<BTreeMap<String, String>> {
        let nodes: Value = serde_json::from_str(&self.read_somewhere(kubectl, &["get", "nodes", "--output", "json"])?)?;
        let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(nodes.iter().map(|it| (text(&it["metadata"]["name"]), text(&it["status"]["nodeInfo"]["bootID"]))).collect())
    }

    /// Takes the third machine out of the repository. Its keys are replaced, and a client that was there before goes on.
    async fn leave(&self, kubectl: &Kubectl) -> Result<()> {
        let (asked, leaver) = (&self.machines[0], &self.machines[2]);
        self.cluster.push_removal(&format!("machines/{}.kdl", leaver.name()), "Take a machine out")?;
        let replaced = async || {
            let status = self.cluster.cairnctl_json(&["--machine", asked.name(), "status"]);
            let status = status.map_err(|error| format!("{error:#}"))?;
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let exposed = conditions.into_iter().find(|condition| condition["type"] == "KeysExposed");
            let moved = exposed.as_ref().is_some_and(|one| {
                let names = one["message"].as_str().is_some_and(|message| message.contains(leaver.name()));
                one["status"] == true && one["reason"] == "OldKeysBelieved" && names
            });
            if moved { Ok(()) } else { Err(format!("{exposed:?}")) }
        };
        wait_for("new keys to sign", JOIN_LIMIT, replaced).await?;
        let read = kubectl.at(asked, &["create", "configmap", "after-leaving", "--output", "name"])?;
        ensure!(read.trim() == "configmap/after-leaving", "the client from before is answered {read:?}");
        leaver.cut_power().await
    }

    /// Brings a machine in with its address on the shared network, in one push.
    async fn enroll(&self, machine: &VirtualMachine, address: &str) -> Result<()> {
        machine.power_on(&self.places).await?;
        self.cluster.enroll_unpushed(machine).await?;
        let path = format!("machines/{}.kdl", machine.name());
        let document = std::fs::read_to_string(self.cluster.checkout().join(&path))?;
        let (begin, _) = document.trim_end().rsplit_once('}').context("a machine's document ends with a brace")?;
        let network = format!(
            "    network {{\n        link \"eth0\" {{ dhcp #true; }}\n        link \"eth1\" {{ address \"{address}/24\"; }}\n    }}\n"
        );
        self.cluster.push(&[(&path, &format!("{begin}{network}}}\n"))], "Say where the machine is").map(drop)
    }

    async fn all_answer(&self, kubectl: &Kubectl) -> Result<()> {
        for machine in &self.machines {
            let ready = async || {
                let nodes = kubectl.at(machine, &["get", "nodes"]).map_err(|error| format!("{error:#}"))?;
                let ready = nodes.lines().filter(|line| line.contains(" Ready ")).count();
                if ready == MACHINES.len() { Ok(()) } else { Err(nodes) }
            };
            wait_for(format!("three nodes at {}", machine.name()), JOIN_LIMIT, ready).await?;
        }
        Ok(())
    }

    /// Cuts a machine's power; what is written at one of the others is read at the next.
    async fn lose(&self, kubectl: &Kubectl, lost: &VirtualMachine) -> Result<()> {
        lost.cut_power().await?;
        let left: Vec<&VirtualMachine> = self.machines.iter().filter(|machine| machine.name() != lost.name()).collect();
        for (writer, reader) in [(left[0], left[1]), (left[1], left[0])] {
            let name = format!("without-{}-at-{}", lost.name(), writer.name());
            let write = async || {
                let made = kubectl.at(writer, &["create", "configmap", &name]);
                // An answer that was lost is no second write.
                match made.map_err(|error| format!("{error:#}")) {
                    Err(error) if !error.contains("already exists") => Err(error),
                    Ok(_) | Err(_) => Ok(()),
                }
            };
            wait_for(format!("a write at {} without {}", writer.name(), lost.name()), LOSS_LIMIT, write).await?;
            let read = kubectl.at(reader, &["get", "configmap", &name, "--output", "name"])?;
            ensure!(read.trim() == format!("configmap/{name}"), "{} reads {read:?}", reader.name());
        }
        Ok(())
    }

    /// Switches the machine on again; it has what was written without it.
    async fn come_back(&self, kubectl: &Kubectl, lost: &VirtualMachine) -> Result<()> {
        lost.power_on(&self.places).await?;
        let look = async || {
            let list = ["get", "configmaps", "--output", "name"];
            let read = kubectl.at(lost, &list).map_err(|error| format!("{error:#}"))?;
            let written = read.lines().filter(|line| line.contains(&format!("without-{}", lost.name()))).count();
            if written == 2 { Ok(()) } else { Err(read) }
        };
        Ok(wait_for(format!("what {} missed", lost.name()), JOIN_LIMIT, look).await?)
    }
}

/// Runs it in the folder of `places`, with the programs and images that lie there.
///
/// # Errors
/// What did not hold.
pub async fn members(places: &Places, steps: &mut Steps, extent: Extent) -> Result<()> {
    std::fs::create_dir_all(places.home("served"))?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = tests_support::git::serve(&places.home("served"), listen).await?;
    let trio = Trio::new(places, server.address().port())?;
    let held = trio.any_machine_may_be_lost(steps, extent).await;
    for machine in trio.machines() {
        if held.is_err() {
            let serial = machine.serial();
            let lines: Vec<&str> = serial.lines().collect();
            println!(
                "\nthe console of {} ends:\n{}",
                machine.name(),
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
        machine.cut_power().await?;
    }
    held
}
