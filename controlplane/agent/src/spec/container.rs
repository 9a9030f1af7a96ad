//! The specification of one container of a pod. Pure.

use super::user::User;
use super::{MASKED, READ_ONLY, VERSION, namespace, paths, resources, security, standard_mounts};
use crate::images::ImageConfig;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Where programs are looked for when neither pod nor image say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container is made from.
#[derive(Debug)]
pub(crate) struct ContainerSpec<'a> {
    /// The pod.
    pub(crate) pod: &'a PodSpec,
    /// The container.
    pub(crate) container: &'a Container,
    /// The image's wishes.
    pub(crate) image: &'a ImageConfig,
    /// User and groups.
    pub(crate) user: User,
    /// The whole environment of the pod's side, expanded.
    pub(crate) env: Vec<(String, String)>,
    /// Command and arguments of the pod's side, expanded; `None` takes the image's.
    pub(crate) command: Option<Vec<String>>,
    /// See `command`.
    pub(crate) args: Option<Vec<String>>,
    /// Files and volumes.
    pub(crate) mounts: Vec<Mount>,
    /// Process id of the sandbox, whose namespaces are shared.
    pub(crate) sandbox_pid: u32,
    /// The pod's pinned network namespace; none for a pod on the host's network.
    pub(crate) network: Option<&'a Path>,
    /// The machine's name as the pod sees it.
    pub(crate) hostname: &'a str,
    /// The cgroup.
    pub(crate) cgroup: String,
    /// How readily the kernel kills it.
    pub(crate) oom_score: i64,
}

/// A file or folder of the host inside of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Path in the container.
    pub(crate) destination: String,
    /// Path on the host.
    pub(crate) source: PathBuf,
    /// Whether it may not be written.
    pub(crate) read_only: bool,
    /// How mounts below it travel: "rprivate", "rslave" or "rshared".
    pub(crate) propagation: &'static str,
}

/// Writes the specification.
#[must_use]
pub(crate) fn container(from: &ContainerSpec<'_>) -> Value {
    let privileged = security::is_privileged(from.container);
    let mut resources = resources::limits(from.container);
    resources["devices"] = security::devices(from.container);
    json!({
        "ociVersion": VERSION,
        "process": process(from),
        "root": { "path": "rootfs", "readonly": security::is_read_only(from.container) },
        "mounts": mounts(from, privileged),
        "linux": {
            "namespaces": namespaces(from),
            "cgroupsPath": from.cgroup,
            "resources": resources,
            "maskedPaths": paths(&MASKED, privileged),
            "readonlyPaths": paths(&READ_ONLY, privileged),
        },
    })
}

fn process(from: &ContainerSpec<'_>) -> Value {
    let folder = from.container.working_dir.as_deref().filter(|folder| !folder.is_empty());
    let folder = folder.unwrap_or(if from.image.working_dir.is_empty() { "/" } else { &from.image.working_dir });
    json!({
        "terminal": from.container.tty.unwrap_or(false),
        "args": command_line(from),
        "env": environment(from),
        "cwd": folder,
        "user": {
            "uid": from.user.uid,
            "gid": from.user.gid,
            "umask": 0o022,
            "additionalGids": from.user.groups,
        },
        "capabilities": security::capabilities(from.container, from.user.uid == 0),
        "noNewPrivileges": security::no_new_privileges(from.container),
        "oomScoreAdj": from.oom_score,
    })
}

/// A command of the pod replaces entrypoint and arguments of the image; arguments alone replace the arguments.
fn command_line(from: &ContainerSpec<'_>) -> Vec<String> {
    match (&from.command, &from.args) {
        (Some(command), args) => command.iter().chain(args.iter().flatten()).cloned().collect(),
        (None, Some(args)) => from.image.entrypoint.iter().chain(args).cloned().collect(),
        (None, None) => from.image.entrypoint.iter().chain(&from.image.command).cloned().collect(),
    }
}

/// Image first, then what the machine says, then the pod; of a name the last one counts and has the first one's place.
fn environment(from: &ContainerSpec<'_>) -> Vec<String> {
    let mut all: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let mut set = |name: &str, value: &str| match all.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => value.clone_into(known),
        None => all.push((name.to_owned(), value.to_owned())),
    };
    set("HOSTNAME", from.hostname);
    set("HOME", from.user.home.as_deref().unwrap_or("/"));
    for (name, value) in from.image.env.iter().filter_map(|line| line.split_once('=')) {
        set(name, value);
    }
    if from.container.tty == Some(true) {
        set("TERM", "xterm");
    }
    for (name, value) in &from.env {
        set(name, value);
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn mounts(from: &ContainerSpec<'_>, privileged: bool) -> Vec<Value> {
    let mut mounts = standard_mounts(privileged);
    // Parents before children: a volume may be mounted inside of another one.
    let mut own: Vec<&Mount> = from.mounts.iter().collect();
    own.sort_by_key(|mount| mount.destination.matches('/').count());
    mounts.extend(own.into_iter().map(|mount| {
        let access = if mount.read_only { "ro" } else { "rw" };
        json!({
            "destination": mount.destination,
            "type": "bind",
            "source": mount.source,
            "options": ["rbind", mount.propagation, access],
        })
    }));
    mounts
}

fn namespaces(from: &ContainerSpec<'_>) -> Vec<Value> {
    let of_sandbox = |kind: &str| Some(format!("/proc/{}/ns/{kind}", from.sandbox_pid));
    let mut all = vec![namespace("mount", None)];
    if let Some(path) = from.network {
        all.push(namespace("network", Some(path.to_string_lossy().into_owned())));
        all.push(namespace("uts", of_sandbox("uts")));
    }
    if from.pod.host_ipc != Some(true) {
        all.push(namespace("ipc", of_sandbox("ipc")));
    }
    if from.pod.host_pid != Some(true) {
        let shared = from.pod.share_process_namespace == Some(true);
        all.push(namespace("pid", if shared { of_sandbox("pid") } else { None }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            command: vec!["default".into()],
            env: vec!["A=image".into(), "PATH=/image".into()],
            working_dir: "/work".into(),
            ..ImageConfig::default()
        }
    }

    fn build(command: Option<&[&str]>, args: Option<&[&str]>, mounts: Vec<Mount>) -> Value {
        let pod = PodSpec::default();
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        container(&ContainerSpec {
            pod: &pod,
            container: &Container::default(),
            image: &image(),
            user: User::default(),
            env: vec![("A".into(), "pod".into()), ("B".into(), "2".into())],
            command: command.map(owned),
            args: args.map(owned),
            mounts,
            sandbox_pid: 7,
            network: Some(Path::new("/run/cairn/netns/u")),
            hostname: "web-1",
            cgroup: "/pods/x".into(),
            oom_score: 5,
        })
    }

    #[test]
    fn command_and_args_replace_those_of_the_image_as_kubernetes_says() {
        let args = |spec: Value| spec["process"]["args"].clone();
        assert_eq!(args(build(None, None, vec![])), json!(["/entry", "default"]));
        assert_eq!(args(build(None, Some(&["x"]), vec![])), json!(["/entry", "x"]));
        assert_eq!(args(build(Some(&["/c"]), None, vec![])), json!(["/c"]));
        assert_eq!(args(build(Some(&["/c"]), Some(&["x"]), vec![])), json!(["/c", "x"]));
    }

    #[test]
    fn the_pods_environment_wins_over_the_images() {
        let env = build(None, None, vec![])["process"]["env"].clone();
        assert_eq!(env, json!(["PATH=/image", "HOSTNAME=web-1", "HOME=/", "A=pod", "B=2"]));
    }

    #[test]
    fn network_ipc_and_name_are_the_sandboxes_and_processes_are_not() {
        let namespaces = build(None, None, vec![])["linux"]["namespaces"].clone();
        assert_eq!(
            namespaces,
            json!([{ "type": "mount" }, { "type": "network", "path": "/run/cairn/netns/u" },
                { "type": "uts", "path": "/proc/7/ns/uts" }, { "type": "ipc", "path": "/proc/7/ns/ipc" }, { "type": "pid" }])
        );
    }

    #[test]
    fn a_mount_inside_of_another_comes_after_it() {
        let mount = |destination: &str| Mount {
            destination: destination.into(),
            source: "/src".into(),
            read_only: false,
            propagation: "rprivate",
        };
        let mounts = build(None, None, vec![mount("/data/inner"), mount("/data")])["mounts"].clone();
        let own: Vec<&str> = mounts.as_array().expect("because it is a list")[6..]
            .iter()
            .filter_map(|m| m["destination"].as_str())
            .collect();
        assert_eq!(own, ["/data", "/data/inner"]);
    }
}
