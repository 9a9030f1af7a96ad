//! A cluster as a person runs it: an SSH key, a configuration repository that a git server serves, cairnctl, and HTTP.

use crate::kubectl::Follower;
use crate::machine::VirtualMachine;
use crate::places::{Places, text};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use tests_support::git::git;
use tests_support::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Name of the container image that the demo runs; it lies in the image cache of the operating system image.
pub const DEMO_IMAGE: &str = "cairn.dev/hello:1";

/// The demo Service's NodePort.
pub const DEMO_PORT: u16 = 30_080;

/// The address by which QEMU's guests reach this computer.
pub(crate) const HOST_IN_GUEST: &str = "10.0.2.2";

/// How long the whole way from a push to an answer may take before a test gives up; far above what is measured.
const ANSWER_LIMIT: Duration = Duration::from_secs(240);

/// A cluster in the folder of one demo or test.
#[derive(Debug, Clone)]
pub struct Cluster {
    places: Places,
    git_port: u16,
}

impl Cluster {
    /// A cluster whose repository is served on this port of this computer.
    #[must_use]
    pub fn new(places: &Places, git_port: u16) -> Self {
        Cluster { places: places.clone(), git_port }
    }

    /// The port of this computer on which the repository is served.
    pub(crate) fn git_port(&self) -> u16 {
        self.git_port
    }

    /// The person's checkout.
    #[must_use]
    pub fn checkout(&self) -> PathBuf {
        self.places.home("repository")
    }

    /// The folder that the git server serves.
    #[must_use]
    pub fn served(&self) -> PathBuf {
        self.places.home("served")
    }

    fn ssh_key(&self) -> PathBuf {
        self.places.home("ssh_key")
    }

    /// Makes key, repository and the bare copy that is served, for one machine on QEMU's network for guests.
    ///
    /// # Errors
    /// When ssh-keygen, git or cairnctl fail.
    pub fn create(&self) -> Result<()> {
        self.create_at(&["10.0.2.15"])
    }

    /// The same for a cluster that is found at these addresses.
    ///
    /// # Errors
    /// When ssh-keygen, git or cairnctl fail.
    pub fn create_at(&self, endpoints: &[&str]) -> Result<()> {
        let key = self.ssh_key();
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f"])
            .arg(&key)
            .status()
            .context("starting ssh-keygen")?;
        ensure!(made.success(), "ssh-keygen could not make a key");
        let checkout = text(&self.checkout())?;
        let key = text(&key)?;
        let mut arguments = vec!["init", &checkout, "--cluster", "demo", "--name", "ada", "--ssh-key", &key];
        for endpoint in endpoints {
            arguments.extend(["--endpoint", endpoint]);
        }
        self.cairnctl(&arguments)?;
        let bare = self.served().join("demo.git");
        git(self.places.root(), &["init", "--quiet", "--bare", "--initial-branch", "main", &text(&bare)?])?;
        git(&self.checkout(), &["remote", "add", "origin", &text(&bare)?])?;
        git(&self.checkout(), &["push", "--quiet", "--set-upstream", "origin", "main"])?;
        Ok(())
    }

    /// Where the machines fetch the repository.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("http://{HOST_IN_GUEST}:{}/demo.git", self.git_port)
    }

    /// Brings a machine in.
    ///
    /// # Errors
    /// When its identity does not appear or it refuses.
    pub async fn enroll(&self, machine: &VirtualMachine) -> Result<()> {
        self.enroll_with(machine, &["--repository", &self.repository()]).await
    }

    /// Brings a machine in whose image carries a seed: names its identity in the repository, no more.
    ///
    /// # Errors
    /// When its identity does not appear.
    pub async fn enroll_seeded(&self, machine: &VirtualMachine) -> Result<()> {
        self.enroll_with(machine, &["--seeded"]).await
    }

    /// Brings a machine in, with a commit in the checkout that is not pushed yet.
    ///
    /// # Errors
    /// When its identity does not appear or it refuses.
    pub async fn enroll_unpushed(&self, machine: &VirtualMachine) -> Result<()> {
        self.enroll_with(machine, &["--repository", &self.repository(), "--no-push"]).await
    }

    async fn enroll_with(&self, machine: &VirtualMachine, more: &[&str]) -> Result<()> {
        let identity = machine.identity().await?;
        let address = format!("127.0.0.1:{}", machine.ports().machine);
        let kubernetes = format!("https://127.0.0.1:{}", machine.ports().kubernetes);
        let checkout = text(&self.checkout())?;
        let (name, fingerprint) = (machine.name(), identity.as_str());
        let mut arguments = vec!["enroll", name, "--address", &address, "--fingerprint", fingerprint];
        arguments.extend(["--checkout", &checkout, "--kubernetes", &kubernetes]);
        arguments.extend(more);
        // The console shows the identity a moment before the API answers.
        let enrolled = async || self.cairnctl(&arguments).map_err(|error| format!("{error:#}"));
        wait_for("the enrolment", Duration::from_secs(60), enrolled).await?;
        Ok(())
    }

    /// Logs the demo's person in, as soon as the machine knows them.
    ///
    /// # Errors
    /// When the machine does not take the login in time.
    pub async fn log_in(&self) -> Result<()> {
        let login = async || self.cairnctl(&["login"]).map_err(|error| format!("{error:#}"));
        wait_for("a login", ANSWER_LIMIT, login).await?;
        Ok(())
    }

    /// Writes the kubeconfig, as soon as the Kubernetes API answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn write_kubeconfig(&self) -> Result<PathBuf> {
        let file = self.places.home("kubeconfig");
        let arguments = ["kubeconfig", "--file", &text(&file)?];
        let write = async || self.cairnctl(&arguments).map_err(|error| format!("{error:#}"));
        wait_for("the Kubernetes API", ANSWER_LIMIT, write).await?;
        Ok(file)
    }

    /// Commits files and pushes them, signed.
    ///
    /// # Errors
    /// When git fails.
    pub fn push(&self, files: &[(&str, &str)], message: &str) -> Result<String> {
        self.commit(files, message, &[])?;
        git(&self.checkout(), &["push", "--quiet", "origin", "HEAD:main"])?;
        git(&self.checkout(), &["rev-parse", "HEAD"])
    }

    /// Removes a file and pushes that, signed.
    ///
    /// # Errors
    /// When git fails.
    pub fn push_removal(&self, path: &str, message: &str) -> Result<()> {
        git(&self.checkout(), &["rm", "--quiet", "--", path])?;
        self.push(&[], message).map(drop)
    }

    /// Commits files with further arguments for `git commit`, such as `--no-gpg-sign`; nothing is pushed.
    ///
    /// # Errors
    /// When git fails.
    pub fn commit(&self, files: &[(&str, &str)], message: &str, arguments: &[&str]) -> Result<()> {
        for (path, content) in files {
            let file = self.checkout().join(path);
            std::fs::create_dir_all(file.parent().context("a file has a folder")?)?;
            std::fs::write(&file, content).with_context(|| format!("writing {}", file.display()))?;
            git(&self.checkout(), &["add", "--", path])?;
        }
        git(&self.checkout(), &[&["commit", "--quiet", "--allow-empty", "--message", message], arguments].concat())?;
        Ok(())
    }

    /// Pushes an unsigned commit and waits until the machine has refused it; its record.
    ///
    /// # Errors
    /// When git fails, or the machine does not refuse it in time.
    pub async fn push_unsigned(&self, files: &[(&str, &str)]) -> Result<Value> {
        self.commit(files, "Who am I?", &["--no-gpg-sign"])?;
        git(&self.checkout(), &["push", "--quiet", "origin", "HEAD:main"])?;
        let commit = git(&self.checkout(), &["rev-parse", "HEAD"])?;
        self.judged(&commit, &["refused"]).await
    }

    /// Puts the branch right after a refused commit, without force.
    ///
    /// # Errors
    /// What cairnctl said.
    pub fn repair(&self) -> Result<()> {
        self.cairnctl(&["repair", "--checkout", &text(&self.checkout())?]).map(drop)
    }

    /// Runs cairnctl with this cluster's folder of contexts and returns what it printed.
    ///
    /// # Errors
    /// What it printed as its error.
    pub fn cairnctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stdin(Stdio::null()).output().context("starting cairnctl")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same, started in the person's checkout.
    ///
    /// # Errors
    /// What it printed as its error.
    pub fn cairnctl_in_checkout(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).current_dir(self.checkout()).stdin(Stdio::null()).output();
        let output = output.context("starting cairnctl")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.places.programs().join("cairnctl"));
        command.args(arguments).env("CAIRN_CONFIG", self.places.home("cairnctl"));
        command
    }

    /// Starts a cairnctl that goes on, such as `logs --follow`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn follow(&self, arguments: &[&str]) -> Result<Follower> {
        Follower::start(self.command(arguments))
    }

    /// Runs cairnctl and reads its JSON.
    ///
    /// # Errors
    /// What it printed as its error.
    pub fn cairnctl_json(&self, arguments: &[&str]) -> Result<Value> {
        let answer = self.cairnctl(&[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&answer).with_context(|| format!("reading {answer:?}"))
    }

    /// Waits until the demo's Service answers over HTTP with `expected` in it; the whole answer.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn answer(&self, machine: &VirtualMachine, expected: &str) -> Result<String> {
        self.answer_at(SocketAddr::from(([127, 0, 0, 1], machine.ports().service)), expected).await
    }

    /// Waits until the demo's Service answers at this address.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn answer_at(&self, address: SocketAddr, expected: &str) -> Result<String> {
        let look = async || match http_get(address).await {
            Ok(answer) if answer.contains(expected) => Ok(answer),
            Ok(answer) => Err(format!("an answer without {expected:?}: {answer:?}")),
            Err(error) => Err(format!("{error:#}")),
        };
        Ok(wait_for(format!("an answer with {expected:?} at {address}"), ANSWER_LIMIT, look).await?)
    }

    /// Waits for the newest commit to be judged as `state`, and returns its record.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn judged(&self, commit: &str, state: &[&str]) -> Result<Value> {
        let look = async || {
            let commits = self.cairnctl_json(&["commits"]).map_err(|error| format!("{error:#}"))?;
            let found = commits.as_array().and_then(|list| list.iter().find(|record| record["commit"] == commit));
            match found {
                Some(record) if state.iter().any(|state| record["state"] == *state) => Ok(record.clone()),
                Some(record) => Err(format!("it is {record}")),
                None => Err(format!("commit {commit} is not listed")),
            }
        };
        Ok(wait_for(format!("commit {commit} as {state:?}"), ANSWER_LIMIT, look).await?)
    }
}

/// Whether the demo's Service answers now with `expected` in it.
pub(crate) async fn answers(address: SocketAddr, expected: String) -> bool {
    http_get(address).await.is_ok_and(|answer| answer.contains(&expected))
}

/// The body of one HTTP answer of the demo's Service.
async fn http_get(address: SocketAddr) -> Result<String> {
    /// The demo answers within milliseconds; a forwarded port without a listener inside hangs.
    const LIMIT: Duration = Duration::from_secs(3);
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no whole answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{}", head.lines().next().unwrap_or_default());
        Ok(body.to_owned())
    };
    tokio::time::timeout(LIMIT, exchange).await.context("no answer in time")?
}

/// The demo's application: two replicas and a NodePort Service.
#[must_use]
pub fn demo_manifests(replicas: u32, greeting: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Namespace
metadata:
  name: hello
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: hello
  namespace: hello
spec:
  replicas: {replicas}
  selector:
    matchLabels:
      app: hello
  template:
    metadata:
      labels:
        app: hello
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: hello
          image: {DEMO_IMAGE}
          env:
            - name: GREETING
              value: {greeting:?}
          ports:
            - containerPort: 8080
          readinessProbe:
            httpGet:
              path: /
              port: 8080
            periodSeconds: 2
          resources:
            requests:
              cpu: 10m
              memory: 8Mi
            limits:
              memory: 32Mi
---
apiVersion: v1
kind: Service
metadata:
  name: hello
  namespace: hello
spec:
  type: NodePort
  selector:
    app: hello
  ports:
    - port: 80
      targetPort: 8080
      nodePort: {DEMO_PORT}
"
    )
}
