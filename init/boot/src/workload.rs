//! What PID 1's program, machined and the agent must agree on about the walls around containers.

/// The argument by which PID 1's program, and then the holder, know what they are for.
pub const WORKLOAD: &str = "workload";
/// The program that holds the namespaces: the one that holds pods'.
pub const WORKLOAD_HOLDER: &str = "/usr/libexec/cairn/pause";
/// The line that says that the walls stand.
pub const WORKLOAD_READY: &str = "ready";
/// The cgroup in which the holder is, and nobody else: who looks for it finds it here.
pub const WORKLOAD_CGROUP: &str = "/sys/fs/cgroup/cairn/workload";
/// Where the image puts PID 1's program.
pub const PID1_PROGRAM: &str = "/usr/bin/pid1";
