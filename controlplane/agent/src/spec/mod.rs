//! OCI runtime specifications for sandboxes and containers, as JSON values. Pure.
//!
//! Written as data and not with oci-spec's builders: those return errors for fields that cannot be wrong here, and the
//! document is easier to hold against <https://github.com/opencontainers/runtime-spec>.

mod container;
mod resources;
mod sandbox;
mod security;
mod user;

pub(crate) use container::{ContainerSpec, Mount, container};
pub(crate) use resources::{Qos, limit, oom_score, qos, request};
pub(crate) use sandbox::{OOM_SCORE, SandboxSpec, sandbox};
pub(crate) use user::{UserError, resolve_user};

use serde_json::{Value, json};

/// Version of the runtime specification that runc 1.1 knows.
const VERSION: &str = "1.0.2";

/// Parts of the kernel's view that no ordinary container needs to see; the list that containerd and Docker use.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Parts that may be read and not written.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Pseudo file systems that every container has; a privileged one may write to those of the kernel.
fn standard_mounts(privileged: bool) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let access = if privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}

fn paths(list: &[&str], privileged: bool) -> Value {
    if privileged { json!([]) } else { json!(list) }
}

fn namespace(kind: &str, path: Option<String>) -> Value {
    match path {
        Some(path) => json!({ "type": kind, "path": path }),
        None => json!({ "type": kind }),
    }
}
