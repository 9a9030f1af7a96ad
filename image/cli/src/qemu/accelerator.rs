//! KVM or not: only where a guest was seen to get past its kernel.
//!
//! Some hosts have a /dev/kvm that opens and then hangs every stock kernel, so nothing short of booting one tells. The probe boots the
//! image's own kernel without a root file system: it must panic and end within seconds. The answer holds until the host restarts.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use super::QEMU;

/// Overrides the choice: `kvm`, `tcg`, or any value of QEMU's -accel.
pub(crate) const OVERRIDE: &str = "CAIRN_QEMU_ACCEL";
/// Longest time the probe may take. With working KVM the kernel panics within two seconds.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// What the kernel says when it got through and found no root file system.
const PROOF: &str = "Kernel panic - not syncing";

/// What runs the guest's instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator, one thread for each virtual processor.
    Tcg,
    /// What the user asked for.
    Other(String),
}

impl Accelerator {
    /// The value of -accel.
    pub(crate) fn argument(&self) -> &str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
            Accelerator::Other(value) => value,
        }
    }

    /// The value of -cpu.
    pub(crate) fn processor(&self) -> &str {
        match self {
            Accelerator::Kvm => "host",
            Accelerator::Tcg => "max",
            Accelerator::Other(value) if value.starts_with("kvm") => "host",
            Accelerator::Other(_) => "max",
        }
    }

    fn parse(value: &str) -> Accelerator {
        match value {
            "kvm" => Accelerator::Kvm,
            "tcg" => Accelerator::Tcg,
            other => Accelerator::Other(other.to_owned()),
        }
    }
}

/// Chooses: the override, else what was found out since the host started, else the answer of a probe.
///
/// `memory` is the file that keeps the answer; `kernel` gives the bytes of a bzImage when a probe is needed.
pub(crate) fn choose(memory: &Path, kernel: impl FnOnce() -> anyhow::Result<Vec<u8>>) -> anyhow::Result<Accelerator> {
    if let Some(value) = std::env::var(OVERRIDE).ok().filter(|value| !value.is_empty()) {
        return Ok(Accelerator::parse(&value));
    }
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if !virtualizes(&processors) || device.is_err() {
        return Ok(Accelerator::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if let Some(known) = remembered(&fs::read_to_string(memory).unwrap_or_default(), boot.trim()) {
        return Ok(known);
    }
    eprintln!("Trying KVM with a probe guest (at most {} s)", PROBE_DEADLINE.as_secs());
    let found = if probe(&kernel()?)? { Accelerator::Kvm } else { Accelerator::Tcg };
    if found == Accelerator::Tcg {
        eprintln!("note: this host's /dev/kvm does not run a kernel; using TCG, which is slower");
    }
    let line = format!("{} {}\n", boot.trim(), found.argument());
    fs::write(memory, line).with_context(|| format!("cannot write {}", memory.display()))?;
    Ok(found)
}

/// Whether the processor has Intel's or AMD's virtualization. Without it /dev/kvm cannot mean the real thing.
fn virtualizes(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| matches!(flag, "vmx" | "svm"))
}

/// The answer of an earlier probe during this boot of the host.
fn remembered(memory: &str, boot: &str) -> Option<Accelerator> {
    let (then, answer) = memory.trim().split_once(' ')?;
    let known = [Accelerator::Kvm, Accelerator::Tcg].into_iter().find(|known| known.argument() == answer)?;
    (then == boot && !boot.is_empty()).then_some(known)
}

/// Boots a kernel under KVM; whether it came to its end in time.
fn probe(kernel: &[u8]) -> anyhow::Result<bool> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let path = folder.path().join("vmlinuz");
    fs::write(&path, kernel).with_context(|| format!("cannot write {}", path.display()))?;
    let mut child = Command::new(QEMU)
        .args(["-machine", "q35", "-accel", "kvm", "-cpu", "host", "-smp", "2", "-m", "256M", "-display", "none"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio"])
        .args(["-append", "console=ttyS0 panic=-1", "-kernel"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {QEMU}; install it with: apt-get install qemu-system-x86"))?;
    let mut console = child.stdout.take().expect("because it was piped");
    let (told, answer) = mpsc::sync_channel(1);
    // Ends when the console closes, which kill() below brings about at the latest.
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        let _ = console.read_to_end(&mut said);
        let _ = told.send(String::from_utf8_lossy(&said).contains(PROOF));
    });
    let proven = answer.recv_timeout(PROBE_DEADLINE).unwrap_or(false);
    let _ = child.kill();
    child.wait().context("cannot wait for the probe guest")?;
    reader.join().expect("because reading a console does not panic");
    Ok(proven)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_vmx_or_svm_count_as_virtualization() {
        assert!(virtualizes("flags\t\t: fpu vme svm sse\n"));
        assert!(virtualizes("processor : 0\nflags : fpu vmx\n"));
        assert!(!virtualizes("flags : fpu vme\nmodel name : vmx-like\n"));
    }

    #[test]
    fn an_answer_holds_until_the_host_restarts() {
        assert_eq!(remembered("boot-1 kvm\n", "boot-1"), Some(Accelerator::Kvm));
        assert_eq!(remembered("boot-1 tcg,thread=multi\n", "boot-1"), Some(Accelerator::Tcg));
        assert_eq!(remembered("boot-1 kvm\n", "boot-2"), None);
        assert_eq!(remembered("", ""), None);
    }

    #[test]
    fn an_override_may_be_any_accelerator() {
        assert_eq!(Accelerator::parse("tcg").argument(), "tcg,thread=multi");
        assert_eq!(Accelerator::parse("tcg,thread=single").argument(), "tcg,thread=single");
        assert_eq!(Accelerator::parse("kvm").processor(), "host");
    }
}
