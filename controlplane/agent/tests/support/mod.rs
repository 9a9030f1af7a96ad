//! A node for tests: a private containerd, an API server in this process, an archive with a little program.
#![allow(dead_code, unreachable_pub)] // each test program uses its part

use controlplane_agent::{AgentConfig, ContainerdConfig, Folders, ImagesConfig};
use controlplane_apiserver::{ApiServer, Caller, Options};
use controlplane_client::{Body, Transport, TransportError};
use controlplane_network::{Cidr, NetworkConfig, PodNetwork};
use controlplane_store::{LocalStore, Store};
use k8s_openapi::api::core::v1::Pod;
use machined_reconcile::Supervisor;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Longest that anything is waited for: containers start within a second, a busy machine needs more.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The API server, called in this process as one caller.
#[derive(Clone)]
pub struct InProcess {
    server: ApiServer,
    caller: Caller,
}

impl Transport for InProcess {
    fn call(
        &self,
        mut request: http::Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Body>, TransportError>> + Send + '_>> {
        request.extensions_mut().insert(self.caller.clone());
        let server = self.server.clone();
        // A task of its own: the compiler cannot see through the server's future here that it is Send.
        let answer = tokio::spawn(async move { server.handle(request).await });
        Box::pin(async move {
            answer.await.map_err(|panic| TransportError { server: "this process".to_owned(), source: panic.into() })
        })
    }
}

/// A containerd of our own, ended with the test.
pub struct PrivateContainerd {
    child: Child,
    pub socket: PathBuf,
    folder: PathBuf,
}

impl PrivateContainerd {
    pub fn start(folder: &Path) -> Self {
        let socket = folder.join("containerd.sock");
        let config = folder.join("containerd.toml");
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
            folder.join("root"),
            folder.join("state"),
        );
        std::fs::write(&config, text).expect("because the folder is writable");
        Self { child: Self::spawn(folder), socket, folder: folder.to_owned() }
    }

    fn spawn(folder: &Path) -> Child {
        let log = std::fs::File::options().append(true).create(true).open(folder.join("containerd.log"));
        Command::new("containerd")
            .arg("--config")
            .arg(folder.join("containerd.toml"))
            .stdout(Stdio::null())
            .stderr(log.expect("because the folder is writable"))
            .spawn()
            .expect("because containerd is installed")
    }

    /// Kills it as a crash would, and starts it again.
    pub fn restart(&mut self) {
        self.child.kill().expect("because it runs");
        self.child.wait().expect("because it is our child");
        self.child = Self::spawn(&self.folder);
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        // A test that failed leaves containers: their shims name our socket, and shims take their children along.
        let socket = self.socket.display().to_string();
        for (pid, command) in processes() {
            if command.contains(&socket) && command.contains("containerd-shim") {
                for child in children(pid) {
                    kill(child);
                }
            }
        }
        let _killed = self.child.kill();
        let _status = self.child.wait();
        for (pid, _) in processes().into_iter().filter(|(_, command)| command.contains(&socket)) {
            kill(pid);
        }
    }
}

fn kill(pid: i32) {
    // It may be gone already.
    let _sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

/// All processes with their command lines.
fn processes() -> Vec<(i32, String)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
    };
    entries.filter_map(read).collect()
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Whether this machine can run containers at all; says why not.
pub fn can_run_containers() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    let found = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let able = root && found("containerd") && found("runc");
    if !able {
        eprintln!("not run: needs root, containerd and runc on this machine");
    }
    able
}

/// Runs `work` in a network namespace of its own, with the loop-back up, on a runtime of one thread.
pub fn on_a_machine(work: impl Future<Output = ()> + Send) {
    if !can_run_containers() {
        return;
    }
    // Set by the first test of the process; shown for those that fail.
    let _set = tracing_subscriber::fmt().with_env_filter("info,controlplane_agent=debug").with_test_writer().try_init();
    let folder = tempfile::tempdir().expect("because /tmp is writable");
    let machine = folder.path().join("machine");
    controlplane_network::namespace::create(&machine).expect("because root may make network namespaces");
    let entered = controlplane_network::namespace::enter(&machine, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            loopback_up().await;
            work.await;
        });
        Ok(())
    });
    controlplane_network::namespace::remove(&machine).expect("because nothing holds it");
    entered.expect("because the machine's namespace exists");
}

/// A new namespace's loop-back is down.
async fn loopback_up() {
    let (driver, handle, _events) = rtnetlink::new_connection().expect("because netlink is always there");
    let up = handle.link().set(rtnetlink::LinkUnspec::new_with_name("lo").up().build()).execute();
    tokio::select! {
        done = up => done.expect("because every namespace has a loop-back"),
        () = driver => panic!("the netlink socket closed"),
    }
}

/// Everything of one test's node.
pub struct TestNode {
    pub folder: tempfile::TempDir,
    pub containerd: PrivateContainerd,
    pub server: ApiServer,
    pub supervisor: Supervisor,
    pub network: Arc<PodNetwork>,
    pub config: AgentConfig,
}

impl TestNode {
    pub async fn start(program: &Path, pause: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("cairn-agent-").tempdir().expect("because /tmp is writable");
        let containerd = PrivateContainerd::start(folder.path());
        let images = folder.path().join("images");
        std::fs::create_dir(&images).expect("because the folder is writable");
        write_archive(&images.join("web.tar"), "demo/web:1", program);
        let store: Arc<dyn Store> = Arc::new(LocalStore::new());
        let supervisor = Supervisor::new();
        let server = ApiServer::new(store, Options { supervisor: supervisor.clone(), ..Options::default() });
        server.bootstrap().await.expect("because the store is empty and in memory");
        let network = NetworkConfig {
            state: folder.path().join("network"),
            namespaces: folder.path().join("netns"),
            ..NetworkConfig::default()
        };
        let range: Cidr = "10.244.0.0/24".parse().expect("because it is a valid range");
        let network = PodNetwork::open(network, range).await.expect("because the namespace is ours");
        let mut config = AgentConfig::new("n1", vec!["10.0.2.15".parse().expect("because it is an address")]);
        config.containerd = ContainerdConfig {
            socket: containerd.socket.clone(),
            pipes: folder.path().join("pipes"),
            ..ContainerdConfig::default()
        };
        config.images = ImagesConfig { caches: vec![images], mirrors: Vec::new(), spool: folder.path().join("pulls") };
        config.folders = Folders {
            pods: folder.path().join("pods"),
            logs: folder.path().join("logs"),
            run: folder.path().join("run"),
        };
        config.pause = pause.to_owned();
        config.cgroup = format!("/cairn-test-{}", std::process::id());
        Self { folder, containerd, server, supervisor, network: Arc::new(network), config }
    }

    pub fn transport(&self, caller: Caller) -> Arc<dyn Transport> {
        Arc::new(InProcess { server: self.server.clone(), caller })
    }

    /// A client that may do everything.
    pub fn admin(&self) -> controlplane_client::Client {
        controlplane_client::Client::new(self.transport(Caller::authenticated(
            "admin",
            ["system:masters".to_owned()],
            "",
        )))
    }

    /// Process id of a container of this node whose command is `program`.
    pub fn pid_of(&self, program: &str) -> Option<i32> {
        let socket = self.containerd.socket.display().to_string();
        let shims = processes().into_iter().filter(|(_, command)| command.contains(&socket));
        let children: Vec<i32> = shims.flat_map(|(pid, _)| children(pid)).collect();
        processes()
            .into_iter()
            .find(|(pid, command)| children.contains(pid) && command.trim() == program)
            .map(|(pid, _)| pid)
    }

    /// Shims of this node's containers.
    pub fn shims(&self) -> usize {
        let socket = self.containerd.socket.display().to_string();
        let shim = |command: &str| command.contains(&socket) && command.contains("containerd-shim");
        processes().iter().filter(|(_, command)| shim(command)).count()
    }

    /// cgroups that are left of a pod.
    pub fn cgroups_of(&self, uid: &str) -> Vec<PathBuf> {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
        let classes = roots.map(|root| root.join(self.config.cgroup.trim_start_matches('/')));
        let pods = classes.flat_map(|root| ["guaranteed", "burstable", "besteffort"].map(|class| root.join(class)));
        pods.map(|class| class.join(format!("pod{uid}"))).filter(|path| path.exists()).collect()
    }

    /// Deletes all pods, waits until the agent has ended them, and stops the agent.
    pub async fn remove_all_pods(&self) {
        let pods = self.admin().namespaced::<Pod>("default");
        let all = pods.list(&Default::default()).await.expect("because the API answers");
        for pod in &all.items {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            pods.delete(name, &Default::default()).await.expect("because it is there");
        }
        let gone = async {
            while pods.list(&Default::default()).await.is_ok_and(|list| !list.items.is_empty()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("because the agent ends and removes them");
        self.supervisor.stop(PATIENCE).await;
    }

    pub async fn run_agent(&self, supervisor: &Supervisor) {
        let transport = self.transport(Caller::node("n1", ""));
        controlplane_agent::run(self.config.clone(), Arc::clone(&self.network), transport, supervisor)
            .await
            .expect("because the agent's endpoint is left out");
    }
}

/// Writes an OCI archive whose one layer holds one static program.
pub fn write_archive(path: &Path, name: &str, program: &Path) {
    let program = std::fs::read(program).expect("because the program was built with the test");
    let mut layer = tar::Builder::new(Vec::new());
    let passwd = b"root:x:0:0::/root:/sh\nweb:x:33:33::/srv:/sh\n".to_vec();
    for (name, bytes, mode) in [("web", &program, 0o755), ("etc/passwd", &passwd, 0o644)] {
        append(&mut layer, name, bytes, mode);
    }
    let layer = layer.into_inner().expect("because it is in memory");
    let diff_id = digest(&layer);
    let config = serde_json::json!({ "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/web"], "Env": ["GREETING=hello"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] } });
    let config = config.to_string().into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len() });
    let manifest = serde_json::json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config), "layers": [descriptor("layer.v1.tar", &layer)] });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("manifest.v1+json", &manifest);
    entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
    let mut archive = tar::Builder::new(std::fs::File::create(path).expect("because the folder is writable"));
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
    append(&mut archive, "index.json", &index, 0o644);
    for blob in [&manifest, &config, &layer] {
        append(&mut archive, &format!("blobs/{}", digest(blob).replace(':', "/")), blob, 0o644);
    }
    archive.finish().expect("because the file is open");
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, name, bytes).expect("because the archive is open");
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub fn programs() -> (PathBuf, PathBuf) {
    let (web, pause) = (env!("CARGO_BIN_EXE_pod-test-program"), env!("CARGO_BIN_EXE_pause"));
    (web.into(), pause.into())
}

/// Waits until the pod satisfies `holds`, and returns it.
pub async fn pod_when(node: &TestNode, name: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
    let pods = node.admin().namespaced::<Pod>("default");
    let mut last = None;
    let wait = async {
        loop {
            if let Ok(pod) = pods.get(name).await {
                if holds(&pod) {
                    return pod;
                }
                last = Some(pod);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("pod {name} did not get there: {:#?}", last.and_then(|pod| pod.status)))
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

pub async fn create(node: &TestNode, name: &str, spec: serde_json::Value) {
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" }, "spec": spec });
    pod["spec"]["nodeName"] = "n1".into();
    pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    pod["spec"]["automountServiceAccountToken"] = false.into();
    let pod: Pod = serde_json::from_value(pod).expect("because the test's pod is well formed");
    node.admin().namespaced::<Pod>("default").create(&pod).await.expect("because the API accepts the pod");
}

pub fn log_of(node: &TestNode, pod: &Pod, container: &str, attempt: u32) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let path = node.config.folders.logs.join(format!("default_{name}_{uid}/{container}/{attempt}.log"));
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Waits until a container's log ends so: a pod without a readiness probe is ready before its program has said anything.
pub async fn log_when(node: &TestNode, pod: &Pod, container: &str, attempt: u32, end: &str) {
    let written = async {
        while !log_of(node, pod, container, attempt).ends_with(end) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let late = || panic!("the log is {:?}", log_of(node, pod, container, attempt));
    tokio::time::timeout(PATIENCE, written).await.unwrap_or_else(|_| late());
}
