//! One machine in QEMU: started by `cairn-image run`, reached through forwarded ports, and cut off like by a power failure.

use crate::artefacts::logged;
use crate::places::{Places, text};
use anyhow::{Context, Result};
use machined_ids::Fingerprint;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests_support::wait_for;

/// How long a machine may take from power to the line with its identity; TCG on two busy cores needs a quarter of it.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How long one may take that starts from the network.
const NETWORK_BOOT_LIMIT: Duration = Duration::from_secs(400);

/// How long QEMU may take to go once it was killed.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Ports of this computer that lead into the machine.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ports {
    /// The machine API.
    pub machine: u16,
    /// The Kubernetes API.
    pub kubernetes: u16,
    /// The demo's NodePort.
    pub service: u16,
}

impl Ports {
    /// Three free ports. Somebody else may take one before QEMU does; then starting it fails and says so.
    ///
    /// # Errors
    /// When no port is free.
    pub fn free() -> Result<Self> {
        let listeners: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind(("127.0.0.1", 0)))
            .collect::<Result<_, _>>()
            .context("finding free ports")?;
        let port = |index: usize| anyhow::Ok(listeners[index].local_addr()?.port());
        Ok(Ports { machine: port(0)?, kubernetes: port(1)?, service: port(2)? })
    }
}

/// A person at a console. It types; what is said is read in [`VirtualMachine::serial`].
#[derive(Debug)]
pub struct Seat(UnixStream);

impl Seat {
    /// Types a line and presses Enter.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.0.write_all(format!("{line}\r").as_bytes()).context("typing at the console")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Ends the listening too; a machine that was switched off has ended it already.
        let _ended = self.0.shutdown(Shutdown::Both);
    }
}

/// How a machine gets at an installer's medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// In a CD drive.
    Cd,
    /// On a USB stick.
    Stick,
    /// As a program from the network.
    Network,
}

/// A virtual machine with its own disk; it outlives this value.
#[derive(Debug, Clone)]
pub struct VirtualMachine {
    name: String,
    ports: Ports,
    folder: PathBuf,
    image: PathBuf,
    secure_boot: bool,
    tpm: bool,
    lan: Option<u16>,
    disk: Option<&'static str>,
    /// An installer's medium, and the options by which the machine gets at it.
    medium: Option<(PathBuf, Medium)>,
}

impl VirtualMachine {
    /// A machine called `name` in the folder of this demo or test; nothing runs yet.
    #[must_use]
    pub fn new(places: &Places, name: &str, ports: Ports) -> Self {
        VirtualMachine {
            name: name.to_owned(),
            ports,
            folder: places.home(name),
            image: places.image(""),
            secure_boot: false,
            tpm: false,
            lan: None,
            disk: None,
            medium: None,
        }
    }

    /// The same machine with another image.
    #[must_use]
    pub fn with_image(self, image: PathBuf) -> Self {
        VirtualMachine { image, ..self }
    }

    /// The same machine with firmware that knows Secure Boot and has no keys yet.
    #[must_use]
    pub fn with_secure_boot(self) -> Self {
        VirtualMachine { secure_boot: true, ..self }
    }

    /// The same machine with a TPM made of software.
    #[must_use]
    pub fn with_tpm(self) -> Self {
        VirtualMachine { tpm: true, ..self }
    }

    /// The same machine with a disk that somebody serves: the URL as QEMU in the folder of the machine takes it.
    #[must_use]
    pub(crate) fn with_served_disk(self, url: &'static str) -> Self {
        VirtualMachine { disk: Some(url), ..self }
    }

    /// The folder with everything that it is made of.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the firmware's variables.
    pub(crate) fn variables(&self) -> PathBuf {
        self.folder.join("vars.fd")
    }

    /// Copies its disk while it is off.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn disk(&self) -> Result<Vec<u8>> {
        let path = self.folder.join("disk.qcow2");
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// The same machine with a second card on the network of this port.
    #[must_use]
    pub fn with_lan(self, port: u16) -> Self {
        VirtualMachine { lan: Some(port), ..self }
    }

    /// The same machine with an empty disk and an installer's medium.
    #[must_use]
    pub fn with_medium(self, file: PathBuf, medium: Medium) -> Self {
        VirtualMachine { medium: Some((file, medium)), ..self }
    }

    /// Puts other content onto its disk while it is off.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn replace_disk(&self, qcow2: &[u8]) -> Result<()> {
        let path = self.folder.join("disk.qcow2");
        std::fs::write(&path, qcow2).with_context(|| format!("writing {}", path.display()))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ports of this computer that lead into it.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// What its serial console said since it was switched on.
    #[must_use]
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("serial.log")).unwrap_or_default()).into_owned()
    }

    /// The end of it, for who wants to know why something did not happen.
    pub(crate) fn end_of_serial(&self) -> String {
        let serial = self.serial();
        let lines: Vec<&str> = serial.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Whether QEMU runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    fn pid(&self) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(self.folder.join("qemu.pid")).ok()?.trim().parse().ok()?;
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        // A pid that was given to somebody else meanwhile is not ours to touch.
        command.starts_with("qemu-system").then_some(pid)
    }

    /// Switches it on. The first time its disk is a copy of the image's; afterwards it is what the machine left.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub async fn power_on(&self, places: &Places) -> Result<()> {
        let (image, folder) = (text(&self.image)?, text(&self.folder)?);
        let forwards = [
            format!("{}:50000", self.ports.machine),
            format!("{}:6443", self.ports.kubernetes),
            format!("{}:{}", self.ports.service, crate::DEMO_PORT),
        ];
        let mut arguments = vec!["run", &image, "--detach", "--machine", &folder];
        for forward in &forwards {
            arguments.extend(["--forward", forward]);
        }
        if self.secure_boot {
            arguments.push("--secure-boot");
        }
        if self.tpm {
            arguments.push("--tpm");
        }
        if let Some(disk) = self.disk {
            arguments.extend(["--disk", disk]);
        }
        let medium = self.medium.as_ref().map(|(file, medium)| anyhow::Ok((text(file)?, *medium))).transpose()?;
        if let Some((file, medium)) = &medium {
            let option = if *medium == Medium::Network { "--network" } else { "--iso" };
            arguments.extend([option, file]);
            arguments.extend((*medium == Medium::Stick).then_some("--usb"));
        }
        let lan = self.lan.map(|port| port.to_string());
        if let Some(port) = &lan {
            arguments.extend(["--lan", port]);
        }
        logged(places, &places.program("cairn-image")?, &arguments).await
    }

    /// Cuts its power: QEMU is killed, nothing is flushed or told.
    ///
    /// # Errors
    /// When QEMU does not go.
    pub async fn cut_power(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let process = Pid::from_raw(i32::try_from(pid).context("a process id is small")?);
        kill(process, Signal::SIGKILL).with_context(|| format!("cannot kill QEMU, process {pid}"))?;
        let gone = async || if self.is_running() { Err("it still runs") } else { Ok(()) };
        Ok(wait_for("the end of QEMU", KILL_LIMIT, gone).await?)
    }

    /// Sits down at its console, where nobody else sits.
    ///
    /// # Errors
    /// When QEMU does not run.
    pub fn sit_down(&self) -> Result<Seat> {
        // Socket addresses are short, and the folder's name may not be: by its descriptor it always is.
        let folder = File::open(&self.folder).with_context(|| format!("opening {}", self.folder.display()))?;
        let socket = format!("/proc/self/fd/{}/console.sock", folder.as_raw_fd());
        let line = UnixStream::connect(&socket).with_context(|| format!("no console of {}", self.name))?;
        let mut heard = line.try_clone().context("listening to the console")?;
        // QEMU waits for whoever sits there and does not listen, and the machine's console with it.
        std::thread::spawn(move || std::io::copy(&mut heard, &mut std::io::sink()));
        Ok(Seat(line))
    }

    /// Waits until its console has said something since it was switched on.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn console(&self, words: &str) -> Result<()> {
        // A firmware fetches the medium in pieces of a packet each.
        let from_network = self.medium.as_ref().is_some_and(|(_, medium)| *medium == Medium::Network);
        let limit = if from_network { NETWORK_BOOT_LIMIT } else { BOOT_LIMIT };
        let look = async || if self.serial().contains(words) { Ok(()) } else { Err("not yet") };
        Ok(wait_for(format!("{words:?} on the console of {}", self.name), limit, look).await?)
    }

    /// Waits for the identity that its console shows.
    ///
    /// # Errors
    /// When it does not come up in time; the console's last lines are part of the error.
    pub async fn identity(&self) -> Result<Fingerprint> {
        let look = async || {
            let serial = self.serial();
            let shown = serial.split("SHA256:").nth(1).and_then(|rest| rest.get(..43));
            let identity = shown.and_then(|text| Fingerprint::parse(&format!("SHA256:{text}")).ok());
            let last = serial.lines().rev().take(5).collect::<Vec<_>>();
            identity.ok_or_else(|| last.into_iter().rev().collect::<Vec<_>>().join(" | "))
        };
        Ok(wait_for(format!("the identity on the console of {}", self.name), BOOT_LIMIT, look).await?)
    }
}
