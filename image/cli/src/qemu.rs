//! QEMU: what a virtual machine looks like on its command line, and where firmware and accelerator come from.
//!
//! `plan` turns a [`Machine`] into arguments and is pure; `run` starts them. Must never use KVM unasked when nobody has seen it work
//! on this host: see `accelerator`.

pub(crate) mod accelerator;
pub(crate) mod firmware;
pub(crate) mod monitor;

use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

use accelerator::Accelerator;
use firmware::Firmware;

/// The emulator.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// Files of a machine, in its folder, which is QEMU's working folder: socket paths may be long otherwise.
pub(crate) const DISK: &str = "disk.qcow2";
/// UEFI variables of this machine.
pub(crate) const VARIABLES: &str = "vars.fd";
/// What the serial console said.
pub(crate) const SERIAL_LOG: &str = "serial.log";
/// Where a person or a test sits down at the console of a detached machine; one at a time.
pub(crate) const CONSOLE: &str = "console.sock";
/// Process id of a detached QEMU.
pub(crate) const PID_FILE: &str = "qemu.pid";
/// State folder and control socket of the TPM made of software.
pub(crate) const TPM_STATE: &str = "tpm";
pub(crate) const TPM_SOCKET: &str = "tpm.sock";
/// QEMU's control socket.
pub(crate) const MONITOR: &str = "qmp.sock";

/// One port of the host that leads into the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    /// TCP port on the host's loopback address.
    pub(crate) host: u16,
    /// TCP port in the machine.
    pub(crate) guest: u16,
}

impl std::str::FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Forward, String> {
        let parsed = text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
        let (host, guest) = parsed.ok_or_else(|| "expected HOSTPORT:GUESTPORT, such as 50000:50000".to_owned())?;
        Ok(Forward { host, guest })
    }
}

/// A second network card, on a network that virtual machines of this host share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lan {
    /// UDP port of the network on the host's loopback address; machines with the same one are on one network.
    pub(crate) port: u16,
    /// The card's hardware address: unlike those of the others on this network.
    pub(crate) hardware: [u8; 6],
}

impl Lan {
    /// Group address by which QEMU finds the others (RFC 2365, for one organisation); it never leaves the loopback interface.
    const GROUP: &str = "239.192.0.1";

    /// A card in the machine with this folder; no two machines have one folder.
    pub(crate) fn new(port: u16, folder: &std::path::Path) -> Self {
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        // QEMU's own range of locally administered addresses.
        Lan { port, hardware: [0x52, 0x54, 0x00, digest[0], digest[1], digest[2]] }
    }
}

/// Where the serial console goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serial {
    /// This terminal, with QEMU's monitor behind Ctrl-a c, and the log.
    Terminal,
    /// The log, and [`CONSOLE`] for who wants to type.
    Log,
}

/// An installer's medium, and how the machine gets at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Medium {
    /// The ISO file, or the program for the network; absolute.
    pub(crate) file: PathBuf,
    /// Where it is.
    pub(crate) way: Way,
}

/// How a machine gets at an installer's medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In a CD drive.
    Cd,
    /// On a USB stick.
    Usb,
    /// By DHCP and TFTP, which QEMU's own network answers.
    Network,
}

/// Serial number of the disk, by which an installer is told to use it.
pub(crate) const DISK_SERIAL: &str = "cairn";

/// A virtual machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// What runs the guest's instructions.
    pub(crate) accelerator: Accelerator,
    /// Its firmware.
    pub(crate) firmware: Firmware,
    /// Its disk: absolute, or relative to the folder of the machine.
    pub(crate) disk: PathBuf,
    /// `qcow2` or `raw`.
    pub(crate) format: &'static str,
    /// What it starts from while nothing on its disk can be started.
    pub(crate) medium: Option<Medium>,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Virtual processors.
    pub(crate) processors: u32,
    /// Ports that lead in.
    pub(crate) forwards: Vec<Forward>,
    /// A card on a network with other machines.
    pub(crate) lan: Option<Lan>,
    /// Where the console goes.
    pub(crate) serial: Serial,
    /// Whether it has a TPM 2.0, made of software, on [`TPM_SOCKET`].
    pub(crate) tpm: bool,
    /// Whether QEMU goes to the background once the machine is set up.
    pub(crate) detached: bool,
    /// Whether QEMU ends when the machine restarts.
    pub(crate) no_reboot: bool,
}

impl Machine {
    /// QEMU's arguments.
    pub(crate) fn plan(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: String| arguments.extend([format!("-{name}"), value]);
        // With Secure Boot, only code in system management mode may write the variables.
        add("machine", if self.firmware.secure { "q35,smm=on" } else { "q35" }.to_owned());
        add("accel", self.accelerator.argument().to_owned());
        add("cpu", self.accelerator.processor().to_owned());
        add("smp", self.processors.to_string());
        add("m", format!("{}M", self.memory_mib));
        add("display", "none".to_owned());
        let code = comma_escaped(&self.firmware.code);
        if self.firmware.secure {
            add("global", "driver=cfi.pflash01,property=secure,value=on".to_owned());
        }
        add("drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
        add("drive", format!("if=pflash,unit=1,format=raw,file={VARIABLES}"));
        let disk = comma_escaped(&self.disk);
        add("drive", format!("if=none,id=disk,format={},discard=unmap,file={disk}", self.format));
        add("device", format!("virtio-blk-pci,drive=disk,serial={DISK_SERIAL},bootindex=1"));
        let mut network_boot = (String::new(), "");
        if let Some(Medium { file, way }) = &self.medium {
            let drive =
                |kind| format!("if=none,id=medium,format=raw,readonly=on,media={kind},file={}", comma_escaped(file));
            match way {
                Way::Cd => {
                    add("drive", drive("cdrom"));
                    add("device", "ide-cd,drive=medium,bootindex=2".to_owned());
                }
                Way::Usb => {
                    add("drive", drive("disk"));
                    add("device", "qemu-xhci".to_owned());
                    add("device", "usb-storage,drive=medium,removable=on,bootindex=2".to_owned());
                }
                Way::Network => network_boot = (served(file), ",bootindex=2"),
            }
        }
        let forwards: String = self
            .forwards
            .iter()
            .map(|forward| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host, forward.guest))
            .collect();
        let (served, order) = network_boot;
        add("netdev", format!("user,id=net{forwards}{served}"));
        // Without its ROM and a place in the order, the firmware does not try to boot from the network.
        add("device", format!("virtio-net-pci,netdev=net,romfile={order}"));
        if let Some(Lan { port, hardware }) = self.lan {
            add("netdev", format!("socket,id=lan,mcast={}:{port},localaddr=127.0.0.1", Lan::GROUP));
            let hardware = hardware.map(|byte| format!("{byte:02x}")).join(":");
            add("device", format!("virtio-net-pci,netdev=lan,mac={hardware},romfile="));
        }
        add("device", "virtio-rng-pci".to_owned());
        // A machine that hangs is restarted, as servers' own watchdogs do it.
        add("device", "i6300esb".to_owned());
        add("watchdog-action", "reset".to_owned());
        if self.tpm {
            add("chardev", format!("socket,id=tpm,path={TPM_SOCKET}"));
            add("tpmdev", "emulator,id=tpm,chardev=tpm".to_owned());
            add("device", "tpm-crb,tpmdev=tpm".to_owned());
        }
        add(
            "chardev",
            match self.serial {
                Serial::Terminal => format!("stdio,id=serial,mux=on,signal=off,logfile={SERIAL_LOG}"),
                Serial::Log => format!("socket,id=serial,path={CONSOLE},server=on,wait=off,logfile={SERIAL_LOG}"),
            },
        );
        add("serial", "chardev:serial".to_owned());
        if self.serial == Serial::Terminal {
            add("mon", "chardev=serial,mode=readline".to_owned());
        }
        add("qmp", format!("unix:{MONITOR},server=on,wait=off"));
        add("pidfile", PID_FILE.to_owned());
        arguments.extend(["-nodefaults".to_owned(), "-no-user-config".to_owned()]);
        if self.detached {
            arguments.push("-daemonize".to_owned());
        }
        if self.no_reboot {
            arguments.push("-no-reboot".to_owned());
        }
        arguments
    }
}

/// What QEMU's network answers a machine that asks for a program to start.
fn served(program: &std::path::Path) -> String {
    let folder = comma_escaped(program.parent().unwrap_or(std::path::Path::new("/")));
    let name = comma_escaped(program.file_name().map(std::path::Path::new).unwrap_or(std::path::Path::new("")));
    format!(",tftp={folder},bootfile={name}")
}

/// A path as a value inside of one of QEMU's comma-separated options.
fn comma_escaped(path: &std::path::Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            accelerator: Accelerator::Tcg,
            firmware: Firmware {
                code: PathBuf::from("/fw/code.fd"),
                variables: PathBuf::from("/fw/vars.fd"),
                secure: false,
            },
            disk: PathBuf::from("/images/a,b.raw"),
            format: "raw",
            medium: None,
            memory_mib: 1024,
            processors: 2,
            forwards: vec![Forward { host: 8080, guest: 30080 }],
            lan: None,
            serial: Serial::Log,
            tpm: false,
            detached: true,
            no_reboot: false,
        }
    }

    #[test]
    fn ports_are_open_on_loopback_only() {
        let arguments = machine().plan().join(" ");
        assert!(arguments.contains("user,id=net,hostfwd=tcp:127.0.0.1:8080-:30080"), "{arguments}");
    }

    #[test]
    fn machines_on_one_network_stay_on_loopback_and_differ() {
        let one = Lan::new(7000, std::path::Path::new("/machines/one"));
        let arguments = Machine { lan: Some(one), ..machine() }.plan().join(" ");
        assert!(arguments.contains("mcast=239.192.0.1:7000,localaddr=127.0.0.1"), "{arguments}");
        assert!(arguments.contains("netdev=lan,mac=52:54:00:"), "{arguments}");
        assert_ne!(one, Lan::new(7000, std::path::Path::new("/machines/two")));
    }

    #[test]
    fn with_secure_boot_only_the_firmware_writes_its_variables() {
        let mut machine = machine();
        assert!(!machine.plan().join(" ").contains("smm"));
        machine.firmware.secure = true;
        let arguments = machine.plan().join(" ");
        assert!(arguments.contains("-machine q35,smm=on "), "{arguments}");
        assert!(arguments.contains("driver=cfi.pflash01,property=secure,value=on"), "{arguments}");
    }

    #[test]
    fn a_medium_is_started_only_when_the_disk_cannot_be() {
        for (way, device) in [(Way::Cd, "ide-cd,drive=medium,bootindex=2"), (Way::Usb, "usb-storage,drive=medium,")] {
            let medium = Some(Medium { file: PathBuf::from("/images/install.iso"), way });
            let arguments = Machine { medium, ..machine() }.plan().join(" ");
            assert!(arguments.contains(device) && arguments.contains("readonly=on,media="), "{arguments}");
            assert!(arguments.contains("serial=cairn,bootindex=1"), "{arguments}");
        }
    }

    #[test]
    fn the_network_answers_only_a_machine_that_is_to_start_from_it() {
        let arguments = machine().plan().join(" ");
        assert!(
            !arguments.contains("tftp") && arguments.contains("virtio-net-pci,netdev=net,romfile= "),
            "{arguments}"
        );
        let medium = Some(Medium { file: PathBuf::from("/images/netboot.efi"), way: Way::Network });
        let arguments = Machine { medium, ..machine() }.plan().join(" ");
        assert!(arguments.contains(",tftp=/images,bootfile=netboot.efi "), "{arguments}");
        assert!(arguments.contains("netdev=net,romfile=,bootindex=2"), "after the disk: {arguments}");
    }

    #[test]
    fn a_tpm_is_there_only_when_asked_for() {
        let mut machine = machine();
        assert!(!machine.plan().join(" ").contains("tpm"));
        machine.tpm = true;
        assert!(machine.plan().join(" ").contains("-device tpm-crb,tpmdev=tpm"));
    }

    #[test]
    fn a_machine_that_hangs_is_restarted() {
        assert!(machine().plan().join(" ").contains("-device i6300esb -watchdog-action reset"));
    }

    #[test]
    fn a_comma_in_a_path_does_not_start_an_option() {
        let arguments = machine().plan().join(" ");
        assert!(arguments.contains("file=/images/a,,b.raw"), "{arguments}");
    }

    #[test]
    fn a_detached_machine_has_a_log_and_no_terminal() {
        let arguments = machine().plan();
        assert!(arguments.contains(&"-daemonize".to_owned()));
        assert!(
            arguments.contains(&format!("socket,id=serial,path={CONSOLE},server=on,wait=off,logfile={SERIAL_LOG}"))
        );
        assert!(!arguments.iter().any(|argument| argument.contains("stdio")));
    }

    #[test]
    fn a_forward_is_two_ports() {
        assert_eq!("1:2".parse(), Ok(Forward { host: 1, guest: 2 }));
        assert!("70000:1".parse::<Forward>().is_err());
        assert!("80".parse::<Forward>().is_err());
    }
}
