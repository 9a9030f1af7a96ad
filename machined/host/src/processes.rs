//! Processes and memory, as /proc has them. The machine API shows them; nothing is changed here.

use crate::services::cgroup_of;
use std::fs;
use std::io;

/// Processes that are listed at most; a machine full of pods has some thousands.
const PROCESSES_MAX: usize = 20_000;

/// Memory of the whole machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    /// What the kernel manages, in bytes.
    pub total_bytes: u64,
    /// What new processes could still get, in bytes.
    pub available_bytes: u64,
}

/// One process that has memory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Its id.
    pub pid: u32,
    /// The kernel's short name of it.
    pub name: String,
    /// Its cgroup; empty when it ended meanwhile.
    pub cgroup: String,
    /// Its pages in memory, shared ones included, in bytes.
    pub resident_bytes: u64,
}

/// How much memory there is and how much is left.
///
/// # Errors
/// When /proc/meminfo cannot be read, or lacks a line that every kernel writes.
pub fn machine_memory() -> io::Result<MachineMemory> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = |name: &str| {
        kibibytes(&text, name).ok_or_else(|| io::Error::other(format!("/proc/meminfo has no line {name}")))
    };
    Ok(MachineMemory { total_bytes: line("MemTotal")?, available_bytes: line("MemAvailable")? })
}

/// Every process but the kernel's own threads, by id.
///
/// # Errors
/// When /proc cannot be listed.
pub fn processes() -> io::Result<Vec<ProcessMemory>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<ProcessMemory> = pids.filter_map(process).take(PROCESSES_MAX).collect();
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// A process that ended meanwhile and a thread of the kernel are both `None`.
fn process(pid: u32) -> Option<ProcessMemory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident_bytes = kibibytes(&status, "VmRSS")?;
    let name = status.lines().find_map(|line| line.strip_prefix("Name:"))?.trim().to_owned();
    Some(ProcessMemory { pid, name, cgroup: cgroup_of(pid).unwrap_or_default(), resident_bytes })
}

/// The value of a line `name: 123 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let text = "MemTotalX:  9 kB\nMemTotal:       2028412 kB\nMemFree: many kB\nHugePages_Total:       0\n";
        assert_eq!(kibibytes(text, "MemTotal"), Some(2_028_412 * 1024));
        assert_eq!(kibibytes(text, "MemFree"), None);
        assert_eq!(kibibytes(text, "HugePages_Total"), None);
    }

    #[test]
    fn this_process_is_among_the_processes_and_smaller_than_the_machine() {
        let memory = machine_memory().expect("because every Linux has /proc/meminfo");
        assert!(memory.available_bytes < memory.total_bytes);
        let all = processes().expect("because /proc can be listed");
        let own = all.iter().find(|process| process.pid == std::process::id()).expect("because it runs");
        assert!(own.resident_bytes > 0 && own.resident_bytes < memory.total_bytes, "{own:?}");
    }
}
