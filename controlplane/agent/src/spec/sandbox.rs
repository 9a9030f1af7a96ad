//! The specification of a pod's sandbox: the pause process that holds the pod's namespaces. Pure.

use super::{MASKED, READ_ONLY, VERSION, namespace, paths, security, standard_mounts};
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};
use std::path::Path;

/// How readily the kernel kills a sandbox: hardly ever, since it takes the pod with it; kubelet's figure.
pub(crate) const OOM_SCORE: i64 = -998;
/// A user that owns nothing; pause needs no rights at all.
const NOBODY: u32 = 65534;

/// What a sandbox is made from.
#[derive(Debug)]
pub(crate) struct SandboxSpec<'a> {
    /// The pod.
    pub(crate) pod: &'a PodSpec,
    /// Name of the pod's machine, as its processes see it.
    pub(crate) hostname: &'a str,
    /// An empty folder with an empty file `pause`, which becomes the root.
    pub(crate) root: &'a Path,
    /// The pause program.
    pub(crate) pause: &'a Path,
    /// The pinned network namespace; none for a pod on the host's network.
    pub(crate) network: Option<&'a Path>,
    /// The cgroup.
    pub(crate) cgroup: String,
    /// How readily the kernel kills it, [`OOM_SCORE`] where that is allowed.
    pub(crate) oom_score: i64,
}

/// Writes the specification.
#[must_use]
pub(crate) fn sandbox(from: &SandboxSpec<'_>) -> Value {
    let host_network = from.network.is_none();
    let mut namespaces = vec![namespace("mount", None)];
    if let Some(path) = from.network {
        namespaces.push(namespace("network", Some(path.to_string_lossy().into_owned())));
        namespaces.push(namespace("uts", None));
    }
    if from.pod.host_ipc != Some(true) {
        namespaces.push(namespace("ipc", None));
    }
    if from.pod.host_pid != Some(true) {
        namespaces.push(namespace("pid", None));
    }
    let mut mounts = standard_mounts(false);
    mounts.push(json!({ "destination": "/pause", "type": "bind", "source": from.pause, "options": ["bind", "ro"] }));
    let mut spec = json!({
        "ociVersion": VERSION,
        "process": {
            "args": ["/pause"],
            "cwd": "/",
            "user": { "uid": NOBODY, "gid": NOBODY },
            "noNewPrivileges": true,
            "oomScoreAdj": from.oom_score,
        },
        "root": { "path": from.root, "readonly": true },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": from.cgroup,
            "sysctl": security::sysctls(from.pod),
            "maskedPaths": paths(&MASKED, false),
            "readonlyPaths": paths(&READ_ONLY, false),
            "resources": { "cpu": { "shares": 2 }, "devices": [{ "allow": false, "access": "rwm" }] },
        },
    });
    if !host_network {
        spec["hostname"] = from.hostname.into();
    }
    spec
}
