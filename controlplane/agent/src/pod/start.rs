//! Starts sandboxes and containers: gathers what they need, writes their files, hands them to the runtime.
//! Called by the pod's worker only; each step may be repeated after a crash.

use super::env::{self, EnvError};
use super::fields::PodFacts;
use super::files;
use super::sources::{self, Sources, TokenKey};
use crate::images::{Credentials, ImageError, PullPolicy};
use crate::node::Node;
use crate::runtime::{ContainerId, Kind, NewContainer, PodKey, Root, Runtime, RuntimeError, Started};
use crate::spec::{self, ContainerSpec, Mount, SandboxSpec, UserError};
use crate::volumes::{self, Planned, VolumeError, WriteError};
use base64::Engine;
use controlplane_client::{ClientError, Optional};
use controlplane_network::PodNetworkError;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, Secret};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A sandbox or container could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The pod network.
    #[error(transparent)]
    Network(#[from] PodNetworkError),
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A volume cannot be planned.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A volume cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The user.
    #[error(transparent)]
    User(#[from] UserError),
    /// Something the pod draws on cannot be fetched.
    #[error("cannot fetch what the pod draws on")]
    Fetch(#[source] ClientError),
    /// A file of the pod.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A mount names a volume that the pod does not have.
    #[error("container {container:?} mounts the volume {volume:?}, which the pod does not have")]
    Mount {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
    },
    /// The container runs in no sandbox.
    #[error("the pod's sandbox is not running")]
    Sandbox,
}

impl StartError {
    /// The reason that a waiting container shows.
    #[must_use]
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Image(error) => error.reason(),
            Self::Network(_) | Self::Sandbox => "CreatePodSandboxError",
            Self::Env(_) | Self::User(_) | Self::Mount { .. } => "CreateContainerConfigError",
            Self::Volume(_) | Self::Write(_) | Self::Fetch(_) | Self::File { .. } => "ContainerCreating",
            Self::Runtime(_) => "CreateContainerError",
        }
    }
}

/// A pod with everything that stays the same over its containers.
pub(crate) struct Starter<'a> {
    node: &'a Node,
    pod: &'a Pod,
    spec: &'a PodSpec,
    key: &'a PodKey,
}

impl<'a> Starter<'a> {
    /// A starter for the pod.
    #[must_use]
    pub(crate) fn new(node: &'a Node, pod: &'a Pod, spec: &'a PodSpec, key: &'a PodKey) -> Self {
        Self { node, pod, spec, key }
    }

    fn on_host_network(&self) -> bool {
        self.spec.host_network == Some(true)
    }

    fn network_path(&self) -> Option<PathBuf> {
        (!self.on_host_network()).then(|| self.node.network.namespace(&self.key.uid))
    }

    fn hostname(&self) -> String {
        if self.on_host_network() { self.node.config.node_name.clone() } else { files::hostname(self.pod) }
    }

    fn folder(&self) -> PathBuf {
        pod_folder(self.node, &self.key.uid)
    }

    fn cgroup(&self, id: &ContainerId) -> String {
        format!("{}/{id}", pod_cgroup(self.node, spec::qos(self.pod), &self.key.uid))
    }

    /// Makes network, files and the sandbox.
    ///
    /// # Errors
    /// When a part fails; a second call continues.
    pub(crate) async fn sandbox(&self, attempt: u32) -> Result<(), StartError> {
        let address = match self.on_host_network() {
            true => self.node.host_ips().into_iter().next(),
            false => Some(self.node.network.attach(&self.key.uid).await?.address.to_string()),
        };
        let addresses: Vec<String> = address.iter().cloned().collect();
        let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let dns = &self.node.config.dns;
        self.file("hosts", &files::hosts(self.pod, &addresses, dns.domain.as_deref()))?;
        self.file("resolv.conf", &files::resolv_conf(self.pod, dns, &host))?;
        self.file("hostname", &format!("{}\n", self.hostname()))?;
        let memory = Planned::Empty { memory: true, limit: Some(SHARED_MEMORY) };
        volumes::write(&self.folder().join("shm"), &memory, None, &self.node.config.host)?;
        let root = self.sandbox_root()?;
        let id = ContainerId::of(&self.key.uid, Kind::Sandbox, "", attempt);
        let network = self.network_path();
        let spec = spec::sandbox(&SandboxSpec {
            pod: self.spec,
            hostname: &self.hostname(),
            root: &root,
            pause: &self.node.config.pause_program(),
            network: network.as_deref(),
            cgroup: self.cgroup(&id),
            oom_score: spec::OOM_SCORE.max(self.node.machine.least_oom_score),
        });
        let new = NewContainer {
            pod: self.key.clone(),
            kind: Kind::Sandbox,
            name: String::new(),
            attempt,
            short_runs: 0,
            image: String::new(),
            root: Root::Folder,
            address,
            spec,
            log: None,
            terminal: false,
            stdin: false,
        };
        self.node.containerd.start(new).await?;
        Ok(())
    }

    /// The folder that every sandbox has as its root: runc makes its mount points in it, so it cannot lie on the
    /// read-only root; the pause program is mounted into it.
    fn sandbox_root(&self) -> Result<PathBuf, StartError> {
        let root = self.node.config.folders.run.join("sandbox");
        let pause = root.join("pause");
        let made = std::fs::create_dir_all(&root)
            .and_then(|()| if pause.exists() { Ok(()) } else { std::fs::write(&pause, "") });
        made.map_err(|source| StartError::File { path: pause, source })?;
        Ok(root)
    }

    fn file(&self, name: &str, text: &str) -> Result<(), StartError> {
        let path = self.folder().join(name);
        let written = std::fs::create_dir_all(self.folder()).and_then(|()| std::fs::write(&path, text));
        written.map_err(|source| StartError::File { path, source })
    }

    /// Gets the image and starts one container.
    ///
    /// # Errors
    /// When a part fails; a second call continues.
    pub(crate) async fn container(
        &self,
        kind: Kind,
        container: &Container,
        (attempt, short_runs): (u32, u32),
        sandbox: (u32, Option<String>),
    ) -> Result<Started, StartError> {
        let (sandbox_pid, address) = sandbox;
        let sources = self.fetch().await?;
        let facts = self.facts(address);
        let volumes = self.volumes(&sources, &facts)?;
        let image_name = container.image.as_deref().unwrap_or("");
        let image = self.node.images.ensure(image_name, pull_policy(container), &credentials(&sources)).await?;
        let (passwd, group) = self.node.containerd.accounts(&image.chain).await?;
        let user = spec::resolve_user(self.spec, container, &image.config.user, &passwd, &group)?;
        let env = env::environment(self.pod, container, &sources, &facts)?;
        let expand = |list: &Option<Vec<String>>| {
            list.as_ref().filter(|list| !list.is_empty()).map(|list| env::expand_all(list, &env))
        };
        let id = ContainerId::of(&self.key.uid, kind, &container.name, attempt);
        let network = self.network_path();
        let spec = spec::container(&ContainerSpec {
            pod: self.spec,
            container,
            image: &image.config,
            user,
            command: expand(&container.command),
            args: expand(&container.args),
            mounts: self.mounts(container, &volumes, &env)?,
            env,
            sandbox_pid,
            network: network.as_deref(),
            hostname: &self.hostname(),
            cgroup: self.cgroup(&id),
            oom_score: spec::oom_score(container, spec::qos(self.pod), self.node.machine.memory_bytes)
                .max(self.node.machine.least_oom_score),
        });
        let new = NewContainer {
            pod: self.key.clone(),
            kind,
            name: container.name.clone(),
            attempt,
            short_runs,
            image: image_name.to_owned(),
            root: Root::Image(image),
            address: None,
            spec,
            log: Some(log_path(self.node, self.key, &container.name, attempt)),
            terminal: container.tty == Some(true),
            stdin: container.stdin == Some(true),
        };
        Ok(self.node.containerd.start(new).await?)
    }

    /// Writes the files of volumes again, for ConfigMaps and Secrets that changed.
    ///
    /// # Errors
    /// When something cannot be fetched or written.
    pub(crate) async fn refresh(&self, address: Option<String>) -> Result<(), StartError> {
        let sources = self.fetch().await?;
        self.volumes(&sources, &self.facts(address)).map(drop)
    }

    fn facts(&self, address: Option<String>) -> PodFacts {
        PodFacts {
            pod_ips: address.into_iter().collect(),
            host_ips: self.node.host_ips(),
            cpu_milli: self.node.machine.cpus * 1000,
            memory_bytes: self.node.machine.memory_bytes,
        }
    }

    /// Puts all volumes in place; their host paths by name.
    fn volumes(&self, sources: &Sources, facts: &PodFacts) -> Result<BTreeMap<String, PathBuf>, StartError> {
        let group = self.spec.security_context.as_ref().and_then(|security| security.fs_group);
        let group = group.and_then(|group| u32::try_from(group).ok());
        let mut places = BTreeMap::new();
        for (name, planned) in volumes::plan(self.pod, sources, facts)? {
            let place =
                volumes::write(&self.folder().join("volumes").join(&name), &planned, group, &self.node.config.host)?;
            places.insert(name, place);
        }
        Ok(places)
    }

    fn mounts(
        &self,
        container: &Container,
        volumes: &BTreeMap<String, PathBuf>,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, StartError> {
        let mut mounts: Vec<Mount> = Vec::new();
        for wanted in container.volume_mounts.iter().flatten() {
            let missing = || StartError::Mount { container: container.name.clone(), volume: wanted.name.clone() };
            let volume = volumes.get(&wanted.name).ok_or_else(missing)?;
            let below =
                wanted.sub_path_expr.as_ref().map(|path| env::expand_all(std::slice::from_ref(path), env).concat());
            let below = below.or_else(|| wanted.sub_path.clone()).filter(|path| !path.is_empty());
            let source = match below {
                Some(below) => sub_path(volume, &below)?,
                None => volume.clone(),
            };
            let propagation = match wanted.mount_propagation.as_deref() {
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                Some(_) | None => "rprivate",
            };
            let read_only = wanted.read_only == Some(true);
            mounts.push(Mount { destination: wanted.mount_path.clone(), source, read_only, propagation });
        }
        for (name, destination) in OWN_FILES {
            if !mounts.iter().any(|mount| mount.destination == destination) {
                let source = self.folder().join(name);
                let mount =
                    Mount { destination: destination.into(), source, read_only: false, propagation: "rprivate" };
                mounts.push(mount);
            }
        }
        Ok(mounts)
    }

    /// Fetches what the pod draws on. What does not exist is left out: whether that is bad, its user knows.
    async fn fetch(&self) -> Result<Sources, StartError> {
        let wanted = sources::references(self.pod);
        let client = &self.node.client;
        let mut found = Sources::default();
        for name in wanted.config_maps {
            let map = client.namespaced::<ConfigMap>(&self.key.namespace).get(&name).await;
            found.config_maps.extend(map.optional().map_err(StartError::Fetch)?.map(|map| (name, map)));
        }
        for name in wanted.secrets {
            let secret = client.namespaced::<Secret>(&self.key.namespace).get(&name).await;
            found.secrets.extend(secret.optional().map_err(StartError::Fetch)?.map(|secret| (name, secret)));
        }
        for key in wanted.tokens {
            let token = self.token(&key).await.map_err(StartError::Fetch)?;
            found.tokens.insert(key, token);
        }
        found.services = self.node.services.cache().list().iter().map(|service| (**service).clone()).collect();
        Ok(found)
    }

    /// A token of the pod's service account that dies with the pod.
    async fn token(&self, key: &TokenKey) -> Result<String, ClientError> {
        let account = self.spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        let audiences: Vec<&str> =
            Some(key.audience.as_str()).into_iter().filter(|audience| !audience.is_empty()).collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "audiences": audiences, "expirationSeconds": key.seconds, "boundObjectRef":
                { "apiVersion": "v1", "kind": "Pod", "name": self.key.name, "uid": self.key.uid } },
        });
        let accounts = self.node.client.namespaced::<k8s_openapi::api::core::v1::ServiceAccount>(&self.key.namespace);
        let answer: serde_json::Value = accounts.create_subresource(account, "token", &request).await?;
        Ok(answer["status"]["token"].as_str().unwrap_or_default().to_owned())
    }
}

/// Bytes of shared memory that the containers of a pod have together; Docker's and kubelet's default.
const SHARED_MEMORY: i64 = 64 << 20;

/// Files of the pod that every container sees, unless a volume lies there.
const OWN_FILES: [(&str, &str); 4] =
    [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("shm", "/dev/shm")];

/// The folder of a pod's volumes and files.
#[must_use]
pub(crate) fn pod_folder(node: &Node, uid: &str) -> PathBuf {
    node.config.folders.pods.join(uid)
}

/// The cgroup of a pod of that class.
pub(crate) fn pod_cgroup(node: &Node, class: spec::Qos, uid: &str) -> String {
    format!("{}/{}/pod{uid}", node.config.cgroup, class.cgroup())
}

/// The log of one run of a container.
#[must_use]
pub(crate) fn log_path(node: &Node, key: &PodKey, container: &str, attempt: u32) -> PathBuf {
    log_folder(node, key).join(container).join(format!("{attempt}.log"))
}

/// The folder of a pod's logs.
#[must_use]
pub(crate) fn log_folder(node: &Node, key: &PodKey) -> PathBuf {
    node.config.folders.logs.join(format!("{}_{}_{}", key.namespace, key.name, key.uid))
}

/// A path below a volume, made when it is missing, that symbolic links cannot lead out of the volume.
fn sub_path(volume: &Path, below: &str) -> Result<PathBuf, StartError> {
    let path = volume.join(below.trim_start_matches('/'));
    let failed = |source| StartError::File { path: path.clone(), source };
    if !path.exists() {
        std::fs::create_dir_all(&path).map_err(failed)?;
    }
    let real = path.canonicalize().map_err(failed)?;
    if real.starts_with(volume.canonicalize().map_err(failed)?) {
        return Ok(real);
    }
    Err(failed(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "the path leaves its volume")))
}

/// The pull policy; images with the tag `latest` or none are fetched anew when the pod does not say.
fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some(_) | None => PullPolicy::IfNotPresent,
    }
}

/// User and password of every registry in the pod's pull secrets.
fn credentials(sources: &Sources) -> Vec<Credentials> {
    let configs = sources.secrets.values().filter_map(|secret| secret.data.as_ref()?.get(".dockerconfigjson"));
    let configs = configs.filter_map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes.0).ok());
    configs.flat_map(|config| registries(&config)).collect()
}

fn registries(config: &serde_json::Value) -> Vec<Credentials> {
    let auths = config["auths"].as_object().into_iter().flatten();
    let read = |(registry, entry): (&String, &serde_json::Value)| {
        let joined =
            entry["auth"].as_str().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        let joined = joined.and_then(|bytes| String::from_utf8(bytes).ok());
        let split = joined.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = split.or_else(|| Some((entry["username"].as_str()?, entry["password"].as_str()?)))?;
        Some(Credentials { registry: registry.clone(), user: user.to_owned(), password: password.to_owned() })
    };
    auths.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_secrets_give_user_and_password_in_both_spellings() {
        let config =
            json!({ "auths": { "quay.io": { "auth": "dTpw" }, "ghcr.io": { "username": "a", "password": "b" } } });
        let found = registries(&config);
        let pairs: Vec<(&str, &str)> = found.iter().map(|c| (c.user.as_str(), c.password.as_str())).collect();
        assert_eq!(pairs, [("a", "b"), ("u", "p")]);
    }

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let folder = tempfile::tempdir().expect("because tests may write temporary files");
        let volume = folder.path().join("v");
        std::fs::create_dir(&volume).expect("because the folder is writable");
        std::os::unix::fs::symlink("/etc", volume.join("out")).expect("because the folder is writable");
        assert!(sub_path(&volume, "out").is_err());
        assert!(sub_path(&volume, "../..").is_err());
        assert!(sub_path(&volume, "a/b").is_ok_and(|path| path.is_dir()));
    }
}
