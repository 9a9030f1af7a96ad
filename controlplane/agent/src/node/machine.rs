//! What the machine is: CPUs, memory, kernel. Read once at the agent's start.

use std::path::Path;

/// Facts of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// CPUs that the agent may use.
    pub(crate) cpus: i64,
    /// Memory in bytes.
    pub(crate) memory_bytes: i64,
    /// Space for images, logs and volumes in bytes.
    pub(crate) storage_bytes: i64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Name of the operating system, for people.
    pub(crate) os_image: String,
    /// Identity of this installation.
    pub(crate) machine_id: String,
    /// Identity of this boot.
    pub(crate) boot_id: String,
    /// Lowest OOM score that processes may be given: only a privileged agent may go below its own.
    pub(crate) least_oom_score: i64,
}

/// Bit of CAP_SYS_RESOURCE in the capability sets of /proc/self/status.
const CAP_SYS_RESOURCE: u32 = 24;

impl Machine {
    /// Reads the facts; what cannot be read is empty or zero, since none of it is worth not starting for.
    #[must_use]
    pub(crate) fn read(storage: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| i64::try_from(cpus.get()).unwrap_or(i64::MAX));
        Self {
            cpus,
            memory_bytes: memory_total(&text("/proc/meminfo")).unwrap_or(0),
            storage_bytes: storage_size(storage),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            os_image: pretty_name(&text("/etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
            machine_id: text("/etc/machine-id").trim().to_owned(),
            boot_id: text("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            least_oom_score: least_oom_score(&text("/proc/self/status"), &text("/proc/self/oom_score_adj")),
        }
    }
}

fn least_oom_score(status: &str, own: &str) -> i64 {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    if effective >> CAP_SYS_RESOURCE & 1 == 1 { -1000 } else { own.trim().parse().unwrap_or(0) }
}

fn memory_total(meminfo: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

fn storage_size(path: &Path) -> i64 {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(existing)
        .map_or(0, |found| i64::try_from(found.blocks().saturating_mul(found.fragment_size())).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_privileged_agent_may_go_below_its_own_oom_score() {
        assert_eq!(least_oom_score("CapEff:\t000001ffffffffff\n", "0\n"), -1000);
        assert_eq!(least_oom_score("CapEff:\t0000000000000000\n", "100\n"), 100);
    }

    #[test]
    fn memory_and_name_are_read_from_their_files() {
        assert_eq!(memory_total("MemTotal:        1024 kB\nMemFree: 1 kB\n"), Some(1 << 20));
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Cairn 0.1\"\n"), Some("Cairn 0.1".to_owned()));
    }
}
