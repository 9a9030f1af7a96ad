//! kubectl, as it is installed, against `controlplane dev`: login, TLS, discovery, tables, apply, watch, delete.
//!
//! `make test` installs kubectl; a machine without it fails here with a message that says so.

use jiff::{SignedDuration, Timestamp};
use machined_access::{
    Access, AccessTable, LOGIN_NAMESPACE, LeafKey, LoginStatement, Person, RoleEntry, SignedLogin, ssh_fingerprint,
};
use machined_ids::{ClusterId, PrincipalName, Seq, StepId};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// Longest wait for something that a test expects; reached only when it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A development control plane and a kubeconfig for its admin.
struct Dev {
    folder: tempfile::TempDir,
    process: Child,
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Dev {
    fn start() -> Dev {
        let folder = tempfile::tempdir().expect("because the system has a temporary folder");
        let ssh = PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[3; 32])), "")
            .expect("because the key has no comment to be wrong");
        let table = serde_json::to_vec(&table(&ssh)).expect("because the table is plain data");
        fs::write(folder.path().join("access.json"), table).expect("because the folder is writable");
        let mut process = Command::new(env!("CARGO_BIN_EXE_controlplane"))
            .args(["dev", "--server-only", "--listen", "127.0.0.1:0", "--access"])
            .arg(folder.path())
            .arg("--data")
            .arg(folder.path().join("data"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("because cargo built the program");
        let stdout = process.stdout.take().expect("because it was piped");
        let dev = Dev { folder, process };
        let line = first_line(stdout);
        let server = line.strip_prefix("Kubernetes API at ").expect("because it says where it serves").to_owned();
        dev.write_kubeconfig(&server, &ssh);
        dev
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write_kubeconfig(&self, server: &str, ssh: &PrivateKey) {
        let client = LeafKey::generate().expect("because the system has randomness");
        let leaf = client.self_signed(Timestamp::now()).expect("because the key can sign");
        let (key, certificate) = (self.path("client.key"), self.path("client.crt"));
        fs::write(&key, client.to_pem()).expect("because the folder is writable");
        fs::write(&certificate, pem(&leaf.chain[0])).expect("because the folder is writable");
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "dev",
            "clusters": [{"name": "dev", "cluster": {
                "server": server, "certificate-authority": self.path("data/pki/ca.crt"),
            }}],
            "users": [{"name": "dev", "user": {
                "client-certificate": certificate, "client-key": key, "token": token(&client, ssh),
            }}],
            "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "dev"}}],
        });
        fs::write(self.path("kubeconfig"), config.to_string()).expect("because the folder is writable");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.path("kubeconfig")).args(arguments).env("HOME", self.folder.path());
        command
    }

    /// Runs kubectl, with `input` as its standard input.
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("because kubectl is installed (apt install kubectl, or see docs/TESTING)");
        let mut stdin = child.stdin.take().expect("because it was piped");
        stdin.write_all(input.as_bytes()).expect("because kubectl reads its input");
        drop(stdin);
        child.wait_with_output().expect("because kubectl ends")
    }

    /// Runs kubectl, which must succeed, and returns what it printed.
    fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }
}

fn first_line(stdout: impl std::io::Read + Send + 'static) -> String {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver.recv_timeout(PATIENCE).expect("because the program says where it serves")
}

fn table(ssh: &PrivateKey) -> AccessTable {
    let name = |text: &str| PrincipalName::parse(text).expect("because the tests use good names");
    let ada = Person {
        keys: BTreeSet::from([ssh_fingerprint(ssh.public_key().key_data())]),
        roles: BTreeSet::from([name("admins")]),
    };
    AccessTable {
        cluster: CLUSTER,
        seq: Seq(1),
        step: StepId::from_bytes([1; 32]),
        people: BTreeMap::from([(name("ada"), ada)]),
        roles: BTreeMap::from([(name("admins"), RoleEntry { access: Access::Admin })]),
        machines: BTreeMap::new(),
        images: Default::default(),
    }
}

fn token(client: &LeafKey, ssh: &PrivateKey) -> String {
    let now = Timestamp::from_second(Timestamp::now().as_second()).expect("because now is a time");
    let statement = LoginStatement {
        cluster: CLUSTER,
        client_key: client.fingerprint(),
        issued: now,
        expires: now + SignedDuration::from_hours(1),
    };
    let signature = ssh
        .sign(LOGIN_NAMESPACE, HashAlg::Sha512, statement.to_string().as_bytes())
        .and_then(|signature| signature.to_pem(LineEnding::LF))
        .expect("because an ed25519 key can sign");
    SignedLogin::new(statement, &signature).expect("because the signature is armoured").to_token()
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: example.com/web:1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
";

fn config_map(name: &str, namespace: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{a: b}}")
}

#[test]
fn kubectl_works_unmodified() {
    let dev = Dev::start();
    // kubectl's typed clients send protobuf.
    assert!(dev.ok(&["auth", "whoami"], "").contains("ada"));
    assert!(dev.ok(&["auth", "can-i", "delete", "pods"], "").contains("yes"));
    dev.ok(&["create", "configmap", "typed", "--from-literal=a=b"], "");
    assert_eq!(dev.ok(&["get", "configmap", "typed", "-o", "jsonpath={.data.a}"], ""), "b");
    assert!(dev.ok(&["get", "namespaces"], "").contains("kube-system"));
    assert!(dev.ok(&["api-resources"], "").contains("deployments"));
    assert!(dev.ok(&["version"], "").contains("v1.36"));

    let applied = dev.ok(&["apply", "-f", "-"], MANIFEST);
    assert!(applied.contains("deployment.apps/web created") && applied.contains("service/web created"), "{applied}");
    let again = dev.ok(&["apply", "-f", "-"], MANIFEST);
    assert!(again.contains("deployment.apps/web unchanged") && again.contains("service/web unchanged"), "{again}");
    let server_side = dev.ok(&["apply", "--server-side", "--force-conflicts", "-f", "-"], MANIFEST);
    assert!(server_side.contains("serverside-applied"), "{server_side}");
    dev.ok(&["wait", "--for=jsonpath={.status.replicas}=2", "deployment/web", "--timeout=30s"], "");
    assert!(dev.ok(&["get", "deployment,service"], "").contains("NodePort"));
    assert!(dev.ok(&["describe", "deployment", "web"], "").contains("ScalingReplicaSet"));
    dev.ok(&["scale", "deployment/web", "--replicas=3"], "");
    dev.ok(&["wait", "--for=jsonpath={.status.replicas}=3", "deployment/web", "--timeout=30s"], "");

    let mut watch =
        dev.command(&["get", "configmaps", "-w"]).stdout(Stdio::piped()).spawn().expect("because it ran before");
    dev.ok(&["apply", "-f", "-"], &config_map("seen", "default"));
    let lines = BufReader::new(watch.stdout.take().expect("because it was piped")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("seen")));
    watch.kill().and_then(|()| watch.wait()).expect("because it runs until it is killed");

    dev.ok(&["label", "configmap", "seen", "x=y"], "");
    assert!(dev.ok(&["get", "configmap", "-l", "x=y", "-o", "name"], "").contains("configmap/seen"));
    dev.ok(&["delete", "-f", "-"], MANIFEST);
    dev.ok(&["apply", "-f", "-"], "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}");
    dev.ok(&["apply", "-f", "-"], &config_map("inside", "team"));
    dev.ok(&["delete", "namespace", "team", "--timeout=30s"], "");
    assert!(!dev.ok(&["get", "namespaces"], "").contains("team"));
}

const PINNED: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {nodeName: n1, terminationGracePeriodSeconds: 0, containers: [{name: main, image: example.com/web:1}]}
";

#[test]
fn kubectl_drain_works_unmodified_and_waits_for_the_budget() {
    let dev = Dev::start();
    dev.ok(&["apply", "-f", "-"], PINNED);
    dev.ok(&["wait", "--for=jsonpath={.status.replicas}=2", "deployment/web", "--timeout=30s"], "");
    // There is no agent: the test says that the pods are ready.
    let pods = dev.ok(&["get", "pods", "-o", "name"], "");
    let ready = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    for pod in pods.lines() {
        dev.ok(&["patch", pod, "--subresource=status", "--type=merge", "-p", ready], "");
    }
    dev.ok(&["create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=2"], "");
    dev.ok(&["wait", "--for=jsonpath={.status.currentHealthy}=2", "pdb/web", "--timeout=30s"], "");

    let output = dev.run(&["drain", "n1", "--timeout=2s"], "");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(text.contains("Cannot evict pod as it would violate the pod's disruption budget"), "{text}");
    assert_eq!(dev.ok(&["get", "pods", "-o", "name"], ""), pods, "both are still there");

    dev.ok(&["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":0}}"#], "");
    let drained = dev.ok(&["drain", "n1", "--timeout=60s"], "");
    assert_eq!(drained.matches(" evicted").count(), 2, "{drained}");
    assert!(dev.ok(&["get", "node", "n1"], "").contains("SchedulingDisabled"));
    let left = dev.ok(&["get", "pods", "-o", "name"], "");
    assert!(pods.lines().all(|pod| !left.contains(pod)), "{left}");
    dev.ok(&["uncordon", "n1"], "");
    assert!(!dev.ok(&["get", "node", "n1"], "").contains("SchedulingDisabled"));
}

#[test]
fn nobody_gets_in_without_a_login() {
    let dev = Dev::start();
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(dev.path("kubeconfig")).expect("because it was written"))
            .expect("because it is JSON");
    config["users"][0]["user"]["token"] = serde_json::Value::Null;
    write(&dev.path("kubeconfig"), &config);
    let output = dev.run(&["get", "pods"], "");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("cairnctl login") || text.contains("Unauthorized") || text.contains("logged in"), "{text}");
}

fn write(path: &Path, value: &serde_json::Value) {
    fs::write(path, value.to_string()).expect("because the folder is writable");
}
