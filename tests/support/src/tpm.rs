//! A TPM 2.0 made of software: Debian's `swtpm`, with its state in a temporary folder and its commands on a socket.
//!
//! It has no resource manager in front of it, as the kernel puts before a real one: whoever loads a key takes it out again.

use crate::wait_for;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// How long it may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running TPM; it ends with this value.
#[derive(Debug)]
pub struct SoftwareTpm {
    folder: TempDir,
    socket: PathBuf,
    process: Child,
}

fn spawn(folder: &Path, socket: &Path) -> Result<Child> {
    let state = format!("dir={}", folder.display());
    let server = format!("type=unixio,path={}", socket.display());
    let control = format!("type=unixio,path={}", folder.join("control").display());
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--tpmstate", &state, "--server", &server, "--ctrl", &control]);
    // As firmware does before an operating system: powered on and started.
    command.args(["--flags", "not-need-init,startup-clear"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("starting swtpm; install it with: apt-get install swtpm")
}

impl SoftwareTpm {
    /// Starts an empty TPM.
    ///
    /// # Errors
    /// When there is no swtpm, or it does not answer.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for the TPM")?;
        let socket = folder.path().join("tpm");
        let process = spawn(folder.path(), &socket)?;
        let tpm = SoftwareTpm { folder, socket, process };
        tpm.ready().await?;
        Ok(tpm)
    }

    async fn ready(&self) -> Result<()> {
        let connected = async || UnixStream::connect(&self.socket).await.map(drop);
        Ok(wait_for("the TPM's socket", START_LIMIT, connected).await?)
    }

    /// Where its commands go.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// As the machine's restart: what is in its permanent memory stays, registers begin at zero.
    ///
    /// # Errors
    /// When it does not come up again.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop();
        std::fs::remove_file(&self.socket).context("removing the old socket")?;
        self.process = spawn(self.folder.path(), &self.socket)?;
        self.ready().await
    }

    fn stop(&mut self) {
        // It is our own child: killing fails only when it has ended already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        self.stop();
    }
}
