//! Kernel settings that every machine has.

use super::{FileError, FilesHost};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Settings below /proc/sys, each with its reason.
const SETTINGS: [(&str, &str); 11] = [
    // Containers reach other machines through this one.
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    // Answers may come back by another link than the question where several networks meet.
    ("net/ipv4/conf/all/rp_filter", "0"),
    // A kernel in doubt restarts instead of standing still, and the other slot gets its chance.
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    // Containers that watch many files: the default of 128 instances is one per user, and all of ours are root.
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "524288"),
    // Kernel messages are for root and the machine API, addresses too: eBPF tools of privileged pods read symbols, so it is not 2.
    ("kernel/kptr_restrict", "1"),
    ("kernel/dmesg_restrict", "1"),
    // The cgroup limits decide who gets memory, not a guess at allocation time.
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

/// Memory that the kernel keeps free for itself, in KiB.
const RESERVE: &str = "vm/min_free_kbytes";
/// Longest /proc/meminfo that is read.
const MEMINFO_BYTES_MAX: usize = 64 * 1024;

/// The reserve that the kernel computes for itself: four times the square root of its memory, in KiB.
///
/// With huge pages the kernel raises it so that there is always one left, to 45 MiB of 2 GiB, and more than 100 MiB are
/// then not available to programs. Here huge pages are for those who ask, and may wait for one.
fn reserve(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((kibibytes.checked_mul(16)?).isqrt().clamp(128, 262_144))
}

/// Acts on /proc/sys.
pub struct SettingsController<H> {
    host: Arc<H>,
}

impl<H: FilesHost> SettingsController<H> {
    /// Needs nothing from the store.
    pub fn new(_ports: &mut Ports, host: Arc<H>) -> Self {
        SettingsController { host }
    }
}

impl<H: FilesHost> Controller for SettingsController<H> {
    type Error = FileError;

    /// Some settings appear with a module that is loaded later, so they are written again by period.
    const PERIOD: Duration = Duration::from_secs(300);

    async fn reconcile(&mut self) -> Result<Outcome, FileError> {
        for (name, value) in SETTINGS {
            if !self.host.set(&Path::new("/proc/sys").join(name), value).await? {
                tracing::debug!(name, "the kernel has no such setting");
            }
        }
        let meminfo = self.host.read(Path::new("/proc/meminfo"), MEMINFO_BYTES_MAX).await?.unwrap_or_default();
        if let Some(reserve) = reserve(&String::from_utf8_lossy(&meminfo)) {
            self.host.set(&Path::new("/proc/sys").join(RESERVE), &reserve.to_string()).await?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::{SETTINGS, reserve};

    #[test]
    fn kernel_messages_and_addresses_are_for_root_only_and_a_kernel_in_doubt_restarts() {
        for wanted in [("kernel/dmesg_restrict", "1"), ("kernel/kptr_restrict", "1"), ("kernel/panic_on_oops", "1")] {
            assert!(SETTINGS.contains(&wanted), "{wanted:?}");
        }
        let names: std::collections::BTreeSet<_> = SETTINGS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), SETTINGS.len(), "no setting is set twice");
    }

    #[test]
    fn the_reserve_grows_with_the_root_of_memory() {
        // The kernel's own table: 512 MiB keep 2896 KiB, 4 GiB 8192, 16 GiB 16384.
        for (mebibytes, expected) in [(512, 2896), (4096, 8192), (16_384, 16_384)] {
            assert_eq!(reserve(&format!("MemTotal: {} kB\nMemFree: 1 kB\n", mebibytes * 1024)), Some(expected));
        }
        assert_eq!(reserve("MemTotal: 1 kB\n"), Some(128));
        assert_eq!(reserve("MemFree: 1 kB\n"), None);
    }
}
