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
    // Kernel addresses and messages are for the machine API only.
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    // The cgroup limits decide who gets memory, not a guess at allocation time.
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

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
        Ok(Outcome::Done)
    }
}
