//! Three machines, one cluster: each member of the store, any one of which may be lost.

use crate::cluster::{Cluster, demo_manifests};
use crate::kubectl::Kubectl;
use crate::machine::{Ports, VirtualMachine};
use crate::places::Places;
use crate::scenarios::DEMO_FILE;
use crate::steps::Steps;
use anyhow::{Context, Result, ensure};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use tests_support::wait_for;

/// The machines and their addresses on the network that they share.
const MACHINES: [(&str, &str); 3] = [("cp1", "10.9.0.11"), ("cp2", "10.9.0.12"), ("cp3", "10.9.0.13")];

/// How long the others may take to answer after one is lost: an election of two seconds, on emulated processors.
const LOSS_LIMIT: Duration = Duration::from_secs(60);

/// How long a machine may take to boot, become a member and have all that the others have.
const JOIN_LIMIT: Duration = Duration::from_secs(300);

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

    /// Three machines become one cluster, and any of `losses` of them, one after the other, is lost without the others noticing more
    /// than an election.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn any_machine_may_be_lost(&self, steps: &mut Steps, losses: usize) -> Result<()> {
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
        for lost in self.machines.iter().take(losses) {
            steps.take(&format!("{} is lost, the others go on", lost.name()), self.lose(&kubectl, lost)).await?;
            steps.take(&format!("{} comes back with all of it", lost.name()), self.come_back(&kubectl, lost)).await?;
        }
        Ok(())
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
pub async fn members(places: &Places, steps: &mut Steps, losses: usize) -> Result<()> {
    std::fs::create_dir_all(places.home("served"))?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = tests_support::git::serve(&places.home("served"), listen).await?;
    let trio = Trio::new(places, server.address().port())?;
    let held = trio.any_machine_may_be_lost(steps, losses).await;
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
