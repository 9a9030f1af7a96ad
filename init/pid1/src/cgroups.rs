//! The cgroup tree (v2): PID 1, machined, services, shims and what holds the walls apart, controllers handed down to each.
//!
//! Pods live beside it under /sys/fs/cgroup/pods; the agent makes that one.

use std::path::Path;

use init_boot::WORKLOAD_CGROUP;
use init_linux::{Kernel, SystemError};

use crate::log;

/// The group that machined starts in.
pub(crate) const MACHINED_GROUP: &str = "/sys/fs/cgroup/cairn/machined";

const INIT_GROUP: &str = "/sys/fs/cgroup/cairn/init";
const GROUPS: [&str; 6] = [
    "/sys/fs/cgroup/cairn",
    INIT_GROUP,
    MACHINED_GROUP,
    "/sys/fs/cgroup/cairn/services",
    "/sys/fs/cgroup/cairn/shims",
    WORKLOAD_CGROUP,
];
/// Groups whose children get controllers. PID 1 leaves the root first: a group with processes may not hand
/// controllers down.
const PARENTS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/cairn", "/sys/fs/cgroup/cairn/services"];
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// Makes the tree and moves PID 1 into its place.
pub(crate) fn make(kernel: &dyn Kernel) -> Result<(), SystemError> {
    for group in GROUPS {
        kernel.make_directory(Path::new(group), 0o755)?;
    }
    kernel.write_file(&Path::new(INIT_GROUP).join("cgroup.procs"), b"0")?;
    for parent in PARENTS {
        for controller in CONTROLLERS {
            let control = Path::new(parent).join("cgroup.subtree_control");
            // One write each: a kernel without one of them still gives the others.
            if let Err(error) = kernel.write_file(&control, format!("+{controller}").as_bytes()) {
                log::line(kernel, &format!("the {controller} controller is missing: {}", error.story()));
            }
        }
    }
    Ok(())
}
