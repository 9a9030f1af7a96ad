//! Carries the output of running containers from their pipes into their log files.
//!
//! One task a container, spawned here and owned by the supervisor; it ends when [`LogPumps::finish`] says that the
//! process is gone and the pipes are empty. A task that the process's stop interrupts leaves the rest in the pipes,
//! where the next agent finds it.

use super::writer::{LogWriter, OutputStream};
use crate::containerd::OutputReader;
use crate::containerd::Pipes;
use crate::runtime::RuntimeError;
use jiff::Timestamp;
use machined_reconcile::{Restart, Supervisor};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use tokio::sync::watch;

/// Bytes read from a pipe at once; a pipe holds 64 KiB.
const CHUNK: usize = 32 << 10;

/// The pumps of this node.
pub(crate) struct LogPumps {
    supervisor: Supervisor,
    running: Mutex<BTreeMap<String, Pump>>,
}

struct Pump {
    gone: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl LogPumps {
    /// No pumps yet.
    #[must_use]
    pub(crate) fn new(supervisor: Supervisor) -> Self {
        Self { supervisor, running: Mutex::new(BTreeMap::new()) }
    }

    /// Starts to carry the container's output; a pump that runs already is kept.
    pub(crate) fn start(&self, id: &str, pipes: &Pipes, log: &Path, terminal: bool) -> Result<(), RuntimeError> {
        let mut running = self.running.lock().expect("because no holder of this lock panics");
        if running.contains_key(id) {
            return Ok(());
        }
        pipes.make()?;
        let gone = watch::Sender::new(false);
        let stdout = OutputReader::open(&pipes.stdout(), gone.subscribe())?;
        let stderr = if terminal { None } else { Some(OutputReader::open(&pipes.stderr(), gone.subscribe())?) };
        let writer = LogWriter::open(log).map_err(|source| RuntimeError::File {
            doing: "write",
            path: log.to_owned(),
            source,
        })?;
        let (tell, ended) = watch::channel(false);
        let mut parts = Some((stdout, stderr, writer, tell));
        self.supervisor.spawn(format!("log of container {id}"), Restart::Never, move |mut stop| {
            let parts = parts.take();
            async move {
                let Some((stdout, stderr, writer, tell)) = parts else { return Ok(()) };
                let result = tokio::select! {
                    result = carry(stdout, stderr, writer) => result,
                    () = stop.requested() => Ok(()),
                };
                tell.send_replace(true);
                result
            }
        });
        running.insert(id.to_owned(), Pump { gone, ended });
        Ok(())
    }

    /// Says that the container's processes are gone and waits until their last output is in the file.
    pub(crate) async fn finish(&self, id: &str) {
        let pump = self.running.lock().expect("because no holder of this lock panics").remove(id);
        if let Some(mut pump) = pump {
            pump.gone.send_replace(true);
            // An error means that the task is gone, which is what is waited for.
            let _ended = pump.ended.wait_for(|ended| *ended).await;
        }
    }
}

async fn carry(mut stdout: OutputReader, mut stderr: Option<OutputReader>, mut writer: LogWriter) -> io::Result<()> {
    let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut stdout_open = true;
    while stdout_open || stderr.is_some() {
        let from_stderr = async {
            match &mut stderr {
                Some(reader) => reader.read(&mut err).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = stdout.read(&mut out), if stdout_open => match read? {
                0 => stdout_open = false,
                length => keep(&mut writer, OutputStream::Stdout, &out[..length]),
            },
            read = from_stderr => match read? {
                0 => stderr = None,
                length => keep(&mut writer, OutputStream::Stderr, &err[..length]),
            },
        }
    }
    writer.finish(Timestamp::now())
}

/// A full disk must not stop the container, so output that cannot be written is dropped, with a word in our own log.
fn keep(writer: &mut LogWriter, stream: OutputStream, bytes: &[u8]) {
    if let Err(error) = writer.write(stream, bytes, Timestamp::now()) {
        tracing::warn!(error = %error, bytes = bytes.len(), "container output is lost");
    }
}
