//! The real kubectl, with the kubeconfig that cairnctl wrote.

use crate::machine::VirtualMachine;
use anyhow::{Context, Result, bail, ensure};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// kubectl for one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// kubectl that reads this kubeconfig.
    #[must_use]
    pub fn new(kubeconfig: &Path) -> Self {
        Kubectl { kubeconfig: kubeconfig.to_owned() }
    }

    /// Why this kubectl is not tried, if it is not: older ones check manifests by OpenAPI v2 and run commands over SPDY, which
    /// Kubernetes has replaced, and their own rule is to differ from the server by one version at most.
    ///
    /// # Errors
    /// When there is no kubectl, or it does not say its version.
    pub fn why_not(&self) -> Result<Option<String>> {
        let said = self.run(&["version", "--client", "--output", "json"], "")?;
        let version: serde_json::Value = serde_json::from_str(&said).context("reading kubectl's version")?;
        let part = |name: &str| {
            let digits = version["clientVersion"][name].as_str().unwrap_or_default();
            digits
                .trim_end_matches('+')
                .parse::<u32>()
                .with_context(|| format!("kubectl's {name} version is {digits:?}"))
        };
        let (major, minor) = (part("major")?, part("minor")?);
        Ok(((major, minor) < OLDEST)
            .then(|| format!("kubectl {major}.{minor} is older than 1.31, the oldest that is tried")))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command
    }

    /// Runs it with `input` and returns how it ended and what it said.
    ///
    /// # Errors
    /// When there is no kubectl, or its pipes break.
    pub fn output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let pipes =
            |command: &mut Command| command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = pipes(&mut self.command(arguments)).context("starting kubectl")?;
        // Small inputs fit into the pipe, so nobody waits for anybody; dropping it ends the input.
        child.stdin.take().context("kubectl has an input")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// What it printed as its error.
    pub fn run(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.output(arguments, input)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {} failed: {error}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same kubectl, at another of the cluster's machines.
    ///
    /// # Errors
    /// What kubectl printed as its error.
    pub fn at(&self, machine: &VirtualMachine, arguments: &[&str]) -> Result<String> {
        let server = format!("https://127.0.0.1:{}", machine.ports().kubernetes);
        self.run(&[&["--server", &server, "--request-timeout", "10s"], arguments].concat(), "")
    }

    /// Starts one that goes on, such as `get --watch`.
    ///
    /// # Errors
    /// When there is no kubectl.
    pub fn follow(&self, arguments: &[&str]) -> Result<Follower> {
        Follower::start(self.command(arguments))
    }
}

/// The oldest kubectl that is tried.
const OLDEST: (u32, u32) = (1, 31);

/// How long a line that something must cause may take.
const FOLLOW_LIMIT: Duration = Duration::from_secs(120);

/// A program that prints lines for as long as it is left alone. It is ended with this value.
#[derive(Debug)]
pub struct Follower {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut command = tokio::process::Command::from(command);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let output = child.stdout.take().context("the output is a pipe")?;
        Ok(Follower { _child: child, lines: BufReader::new(output).lines() })
    }

    /// Reads on until a line with `wanted` in it, and returns that line.
    ///
    /// # Errors
    /// When it does not come in time, or the output ends before.
    pub async fn line(&mut self, wanted: &str) -> Result<String> {
        let reading = async {
            while let Some(line) = self.lines.next_line().await? {
                if line.contains(wanted) {
                    return Ok(line);
                }
            }
            bail!("the output ended before a line with {wanted:?}")
        };
        let late = || format!("a line with {wanted:?} did not come within {FOLLOW_LIMIT:?}");
        tokio::time::timeout(FOLLOW_LIMIT, reading).await.with_context(late)?
    }
}
