//! Commands in running containers: to their end for probes and hooks, or as a session with streams for people.

use super::streams::{OutputReader, Pipes};
use super::{Containerd, unless_gone};
use crate::runtime::{ContainerId, EXEC_OUTPUT_LIMIT, Exec, ExecResult, RuntimeError};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, KillRequest, ResizePtyRequest,
    StartRequest, WaitRequest,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// containerd finds Go types by this address; it is JSON inside.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// How long output may still come after the process is gone; a child that holds the pipe open is not waited for.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

/// Tells sessions of one agent apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A running command with its streams.
pub(crate) struct ExecSession {
    containerd: Containerd,
    container: String,
    exec: String,
    pipes: Pipes,
    gone: watch::Sender<bool>,
}

/// What a command writes, until it is gone. Standard error stays empty with a terminal.
pub(crate) struct ExecOutput {
    pub(crate) stdout: OutputReader,
    pub(crate) stderr: OutputReader,
}

impl Containerd {
    /// Starts a command in a container.
    ///
    /// # Errors
    /// When the container does not run or the program cannot be started.
    pub(crate) async fn open_exec(
        &self,
        id: &ContainerId,
        exec: &Exec,
    ) -> Result<(ExecSession, ExecOutput), RuntimeError> {
        let doing = || format!("run {} in container {id}", exec.command.join(" "));
        let process = self.process(id, exec).await?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let session = ExecSession {
            containerd: self.clone(),
            container: id.to_string(),
            exec: format!("exec-{}-{number}", std::process::id()),
            pipes: self.pipes(&format!("{id}-{}-{number}", std::process::id())),
            gone: watch::Sender::new(false),
        };
        session.pipes.make()?;
        let path = |wanted: bool, path: std::path::PathBuf| {
            if wanted { path.to_string_lossy().into_owned() } else { String::new() }
        };
        let request = ExecProcessRequest {
            container_id: session.container.clone(),
            stdin: path(exec.stdin, session.pipes.stdin()),
            stdout: path(true, session.pipes.stdout()),
            stderr: path(!exec.terminal, session.pipes.stderr()),
            terminal: exec.terminal,
            spec: Some(prost_types::Any { type_url: PROCESS_TYPE.to_owned(), value: process.to_string().into_bytes() }),
            exec_id: session.exec.clone(),
        };
        // Opened before the shim opens its ends, which would otherwise wait, and kept: a program that ends at once
        // makes the shim close them again, and a pipe that nobody has open forgets what is in it.
        let open = |path| OutputReader::open(path, session.gone.subscribe());
        let output = ExecOutput { stdout: open(&session.pipes.stdout())?, stderr: open(&session.pipes.stderr())? };
        self.tasks().exec(self.request(request)).await.map_err(self.failed(doing()))?;
        let start = StartRequest { container_id: session.container.clone(), exec_id: session.exec.clone() };
        if let Err(status) = self.tasks().start(self.request(start)).await {
            session.clean_up().await?;
            return Err(self.failed(doing())(status));
        }
        Ok((session, output))
    }

    /// Opens the standard input of a running container that has one.
    ///
    /// # Errors
    /// When the container has none.
    pub(crate) fn container_input(&self, id: &ContainerId) -> Result<ExecInput, RuntimeError> {
        ExecInput::open(self.pipes(id.as_str()).stdin())
    }

    /// The container's own process with another command: same user, environment, capabilities and folder.
    async fn process(&self, id: &ContainerId, exec: &Exec) -> Result<serde_json::Value, RuntimeError> {
        let doing = || format!("read the specification of container {id}");
        let request = self.request(GetContainerRequest { id: id.to_string() });
        let answer = ContainersClient::new(self.channel.clone()).get(request).await.map_err(self.failed(doing()))?;
        let spec = answer.into_inner().container.and_then(|record| record.spec).unwrap_or_default();
        let spec: serde_json::Value = serde_json::from_slice(&spec.value)
            .map_err(|error| RuntimeError::Refused { doing: doing(), message: error.to_string() })?;
        let mut process = spec.get("process").cloned().unwrap_or_default();
        process["args"] = exec.command.clone().into();
        process["terminal"] = exec.terminal.into();
        Ok(process)
    }

    /// Runs a command to its end; a command that takes too long is killed and is an error.
    pub(super) async fn exec_to_end(
        &self,
        id: &ContainerId,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecResult, RuntimeError> {
        let exec = Exec { command: command.to_vec(), terminal: false, stdin: false };
        let (session, streams) = self.open_exec(id, &exec).await?;
        let ExecOutput { mut stdout, mut stderr } = streams;
        let mut output = Vec::new();
        let ended = tokio::time::timeout(limit, async {
            let collect = async {
                let mut other = Vec::new();
                let both = tokio::join!(read_some(&mut stdout, &mut output), read_some(&mut stderr, &mut other));
                output.extend(other);
                both
            };
            let (code, _both_read) = tokio::join!(session.ended(), collect);
            code
        })
        .await;
        if ended.is_err() {
            session.kill().await?;
            session.ended().await?;
        }
        let what = || format!("the command {}", command.join(" "));
        let code = ended.map_err(|_| RuntimeError::Late { what: what(), limit })??;
        output.truncate(EXEC_OUTPUT_LIMIT);
        Ok(ExecResult { code, output })
    }
}

async fn read_some(reader: &mut OutputReader, kept: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(()),
            // What is beyond the limit is read and forgotten, or the process would block on a full pipe.
            length if kept.len() < EXEC_OUTPUT_LIMIT => kept.extend_from_slice(&buffer[..length]),
            _beyond => {}
        }
    }
}

impl ExecSession {
    /// Opens the standard input.
    ///
    /// # Errors
    /// When the pipe cannot be opened.
    pub(crate) fn stdin(&self) -> Result<ExecInput, RuntimeError> {
        ExecInput::open(self.pipes.stdin())
    }

    /// Ends the process's standard input.
    ///
    /// # Errors
    /// When the runtime refuses; a process that has ended is no error.
    pub(crate) async fn close_stdin(&self) -> Result<(), RuntimeError> {
        let request = CloseIoRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), stdin: true };
        let closed = unless_gone(self.containerd.tasks().close_io(self.containerd.request(request)).await);
        closed.map(drop).map_err(self.containerd.failed("close a command's input"))
    }

    /// Sets the size of the terminal in characters.
    ///
    /// # Errors
    /// When the runtime refuses; a process that has ended is no error.
    pub(crate) async fn resize(&self, width: u32, height: u32) -> Result<(), RuntimeError> {
        let request =
            ResizePtyRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), width, height };
        let resized = unless_gone(self.containerd.tasks().resize_pty(self.containerd.request(request)).await);
        resized.map(drop).map_err(self.containerd.failed("resize a terminal"))
    }

    /// Waits for the process's end and returns its exit code. All output has been written to the pipes then.
    ///
    /// # Errors
    /// When the runtime cannot be asked.
    pub(crate) async fn ended(&self) -> Result<i32, RuntimeError> {
        let request = WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let answer = self.containerd.tasks().wait(self.containerd.waiting_request(request)).await;
        self.clean_up().await?;
        let answer = answer.map_err(self.containerd.failed("wait for a command"))?.into_inner();
        Ok(i32::try_from(answer.exit_status).unwrap_or(i32::MAX))
    }

    /// Kills the process; one that has ended is no error.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub(crate) async fn kill(&self) -> Result<(), RuntimeError> {
        let request = KillRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal: SIGKILL,
            all: false,
        };
        let killed = unless_gone(self.containerd.tasks().kill(self.containerd.request(request)).await);
        killed.map(drop).map_err(self.containerd.failed("kill a command"))
    }

    /// Deletes the ended process, which waits for its output, then lets readers end and removes the pipes' names.
    async fn clean_up(&self) -> Result<(), RuntimeError> {
        let request = DeleteProcessRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let mut tasks = self.containerd.tasks();
        let delete = tasks.delete_process(self.containerd.request(request));
        // An error or a child that holds the pipe open: either way nobody will read more than is there.
        let _deleted_or_late = tokio::time::timeout(DRAIN_LIMIT, delete).await;
        self.gone.send_replace(true);
        self.pipes.remove()
    }
}

/// The standard input of a command.
pub(crate) struct ExecInput {
    pipe: pipe::Sender,
}

impl ExecInput {
    fn open(path: std::path::PathBuf) -> Result<Self, RuntimeError> {
        let pipe = pipe::OpenOptions::new().read_write(true).open_sender(&path);
        let pipe = pipe.map_err(|source| RuntimeError::File { doing: "open", path, source })?;
        Ok(Self { pipe })
    }

    /// Writes all of it, waiting while the process is slow.
    ///
    /// # Errors
    /// When the pipe is broken.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.pipe.write_all(bytes).await
    }
}
