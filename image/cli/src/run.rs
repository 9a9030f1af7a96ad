//! `cairn-image run` and `stop`: one virtual machine from an image, in a folder of its own.
//!
//! The folder keeps disk, UEFI variables, console log, control socket and process id. The disk is a copy of the image's (some 70 MB), so
//! that building a new image never pulls the ground from under a machine.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;
use image_build::disk::Disk;
use image_build::{qcow2, uki};

use crate::build::DEFAULT_IMAGE;
use crate::qemu::accelerator::{self, OVERRIDE};
use crate::qemu::{
    DISK, Forward, Lan, MONITOR, Machine, Medium, PID_FILE, QEMU, SERIAL_LOG, Serial, TPM_SOCKET, TPM_STATE, VARIABLES,
    Way, firmware, monitor,
};

/// The size of a disk that is installed on, in bytes: what the profiles' own disks have.
const EMPTY_DISK_BYTES: u64 = 6 << 30;
/// Folder of the machine unless told otherwise.
const DEFAULT_MACHINE: &str = ".cairn/machine";
/// Beginning of a disk that is no file.
const SERVED_DISK: &[u8] = b"nbd+unix:";
/// File beside the machines that remembers what the host can do.
const ACCELERATOR_MEMORY: &str = "accelerator";

/// Boot an image in QEMU with UEFI firmware.
///
/// The first run copies the image's disk into the folder of the machine; later runs boot that disk again, with all that the
/// machine has written. The serial console is this terminal (Ctrl-a x ends the machine). With --detach it goes to serial.log, and
/// console.sock takes what is typed.
/// KVM is used where a probe guest shows that it works, else QEMU's translator; CAIRN_QEMU_ACCEL=kvm or tcg overrides.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder of the image.
    #[arg(value_name = "DIR", default_value = DEFAULT_IMAGE)]
    image: PathBuf,
    /// Folder of the machine: disk, UEFI variables, serial.log, console.sock, qmp.sock, qemu.pid.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_MACHINE)]
    machine: PathBuf,
    /// Boot this disk instead of a copy of the image's: raw or qcow2, by its ending, or what an NBD server has, as
    /// nbd+unix:///?socket=PATH with a path in the folder of the machine.
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// Start this installer's medium in a CD drive, with an empty disk of the image's size (serial "cairn") to install on; once the
    /// disk can be started, it is.
    #[arg(long, value_name = "FILE", conflicts_with = "disk")]
    iso: Option<PathBuf>,
    /// Show the medium as a USB stick instead.
    #[arg(long, requires = "iso")]
    usb: bool,
    /// Start this program (netboot.efi) from the network, with an empty disk as with --iso.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["disk", "iso"])]
    network: Option<PathBuf>,
    /// Begin again: new copy of the image's disk, empty UEFI variables.
    #[arg(long, conflicts_with = "disk")]
    fresh: bool,
    /// Lead a TCP port of this host's loopback address into the machine; may be given more than once.
    #[arg(long, value_name = "HOSTPORT:GUESTPORT")]
    forward: Vec<Forward>,
    /// A second network card, on the network of all machines of this host that name the same UDP port. Machines have no address on it
    /// but what their documents say.
    #[arg(long, value_name = "PORT")]
    lan: Option<u16>,
    /// Firmware with Secure Boot, in setup mode at first: it enrols the keys that the image brings, restarts, and from then on
    /// refuses what they did not sign. Holds for a machine's first run and all later ones.
    #[arg(long)]
    secure_boot: bool,
    /// Give the machine a TPM 2.0 made of software (swtpm), whose memory lies in the folder of the machine.
    #[arg(long)]
    tpm: bool,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// Virtual processors.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    cpus: u32,
    /// Return once the machine is set up; the console goes to serial.log, and is typed at through console.sock.
    #[arg(long)]
    detach: bool,
    /// End QEMU instead of restarting when the machine restarts.
    #[arg(long)]
    no_reboot: bool,
}

/// End a machine that was started with run --detach.
///
/// Ends QEMU at once, after it has written what the machine's disk had accepted; the machine notices nothing, as in a power cut.
#[derive(Args)]
pub(crate) struct StopArguments {
    /// Folder of the machine.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_MACHINE)]
    machine: PathBuf,
}

/// Boots.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = &arguments.machine;
    fs::create_dir_all(folder).with_context(|| format!("cannot create folder {}", folder.display()))?;
    let folder = fs::canonicalize(folder).with_context(|| format!("cannot resolve {}", folder.display()))?;
    if let Some(process) = running(&folder) {
        bail!(
            "the machine in {} is running already (process {process}); end it with: cairn-image stop --machine {}",
            folder.display(),
            arguments.machine.display()
        );
    }
    let firmware = firmware::find(arguments.secure_boot)?;
    let disk = prepare(arguments, &folder, &firmware)?;
    let memory = folder.parent().unwrap_or(&folder).join(ACCELERATOR_MEMORY);
    let accelerator = accelerator::choose(&memory, || kernel_of(&arguments.image))?;
    eprintln!("Machine {}, accelerator {} ({OVERRIDE} overrides)", folder.display(), accelerator.argument());
    if arguments.tpm {
        start_tpm(&folder)?;
    }
    let machine = Machine {
        accelerator,
        firmware,
        format: if disk.extension().is_some_and(|extension| extension == "qcow2") { "qcow2" } else { "raw" },
        disk,
        medium: medium(arguments)?,
        memory_mib: arguments.memory,
        processors: arguments.cpus,
        forwards: arguments.forward.clone(),
        lan: arguments.lan.map(|port| Lan::new(port, &folder)),
        serial: if arguments.detach { Serial::Log } else { Serial::Terminal },
        tpm: arguments.tpm,
        detached: arguments.detach,
        no_reboot: arguments.no_reboot,
    };
    let mut command = Command::new(QEMU);
    command.args(machine.plan()).current_dir(&folder);
    let missing = || format!("cannot run {QEMU}; install it with: apt-get install qemu-system-x86");
    if !arguments.detach {
        // QEMU takes this process over, and with it the terminal.
        return Err(command.exec()).with_context(missing);
    }
    let status = command.status().with_context(missing)?;
    if !status.success() {
        bail!("QEMU could not start the machine ({status}); it said why above");
    }
    eprintln!("Console: {}", folder.join(SERIAL_LOG).display());
    Ok(())
}

/// Starts the TPM; it ends when QEMU does.
fn start_tpm(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join(TPM_STATE)).context("cannot create the folder of the TPM")?;
    // In the background it stands in another folder; its socket is made before, and socket addresses are short.
    let state = format!("dir={}", folder.join(TPM_STATE).display());
    let control = format!("type=unixio,path={TPM_SOCKET}");
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--daemon", "--terminate", "--tpmstate", &state, "--ctrl", &control]);
    let status = command.current_dir(folder).status();
    let status = status.context("cannot run swtpm; install it with: apt-get install swtpm")?;
    if status.success() { Ok(()) } else { bail!("swtpm could not start ({status}); it said why above") }
}

/// Ends a machine.
pub(crate) fn stop(arguments: &StopArguments) -> anyhow::Result<()> {
    let folder = &arguments.machine;
    let Some(process) = running(folder) else {
        eprintln!("No machine runs in {}", folder.display());
        return Ok(());
    };
    // Socket addresses are short; the folder's name may not be.
    std::env::set_current_dir(folder).with_context(|| format!("cannot enter {}", folder.display()))?;
    monitor::command(Path::new(MONITOR), "quit")
        .with_context(|| format!("cannot end the machine; its process is {process}"))
}

/// The disk to boot; makes the machine's own files where they are missing.
fn prepare(arguments: &Arguments, folder: &Path, firmware: &firmware::Firmware) -> anyhow::Result<PathBuf> {
    let copy = |from: &Path, name: &str| {
        let to = folder.join(name);
        if arguments.fresh || !to.exists() {
            fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        }
        anyhow::Ok(())
    };
    copy(&firmware.variables, VARIABLES)?;
    if let Some(disk) = &arguments.disk {
        if disk.as_os_str().as_encoded_bytes().starts_with(SERVED_DISK) {
            return Ok(disk.clone());
        }
        return fs::canonicalize(disk).with_context(|| format!("there is no disk {}", disk.display()));
    }
    if arguments.iso.is_some() || arguments.network.is_some() {
        let path = folder.join(DISK);
        if arguments.fresh || !path.exists() {
            qcow2::write(&Disk { size: EMPTY_DISK_BYTES, extents: Vec::new() }, &path)?;
        }
        return Ok(PathBuf::from(DISK));
    }
    let source = arguments.image.join("disk.qcow2");
    if !source.exists() {
        bail!("there is no image in {}; build it with: cairn-image build", arguments.image.display());
    }
    copy(&source, DISK)?;
    Ok(PathBuf::from(DISK))
}

/// The installer's medium, as QEMU is told of it.
fn medium(arguments: &Arguments) -> anyhow::Result<Option<Medium>> {
    let (file, way) = match (&arguments.iso, &arguments.network) {
        (Some(iso), _) => (iso, if arguments.usb { Way::Usb } else { Way::Cd }),
        (None, Some(program)) => (program, Way::Network),
        (None, None) => return Ok(None),
    };
    let file = fs::canonicalize(file).with_context(|| format!("there is no medium {}", file.display()))?;
    Ok(Some(Medium { file, way }))
}

/// The process of a machine that runs in this folder.
fn running(folder: &Path) -> Option<u32> {
    let process: u32 = fs::read_to_string(folder.join(PID_FILE)).ok()?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    // The kernel keeps 15 bytes of a name; a recycled id belongs to something else.
    name.starts_with("qemu-system").then_some(process)
}

/// The kernel inside of the image's UKI.
fn kernel_of(image: &Path) -> anyhow::Result<Vec<u8>> {
    let path = image.join("cairn.efi");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let kernel = uki::section(&bytes, ".linux").with_context(|| format!("{} has no kernel", path.display()))?;
    Ok(kernel.to_vec())
}
