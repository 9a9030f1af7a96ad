//! Named pipes between the agent and a container's shim.
//!
//! Both ends are kept open by the agent too (read-write), so nothing breaks while the agent is away: the shim blocks
//! when a pipe is full and goes on when a new agent reads. The price is that a pipe never ends by itself: readers end
//! when they are told that the process is gone and the pipe is empty.

use crate::runtime::RuntimeError;
use nix::sys::stat::Mode;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// The pipes of one process.
#[derive(Clone, Debug)]
pub(crate) struct Pipes {
    folder: PathBuf,
}

impl Pipes {
    /// The pipes in a folder, which need not exist yet.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn stdin(&self) -> PathBuf {
        self.folder.join("stdin")
    }

    pub(crate) fn stdout(&self) -> PathBuf {
        self.folder.join("stdout")
    }

    pub(crate) fn stderr(&self) -> PathBuf {
        self.folder.join("stderr")
    }

    /// Makes the pipes, keeping those that are there.
    pub(crate) fn make(&self) -> Result<(), RuntimeError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RuntimeError::File { doing: "make", path, source }
        };
        std::fs::create_dir_all(&self.folder).map_err(failed(&self.folder))?;
        for path in [self.stdin(), self.stdout(), self.stderr()] {
            match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(errno) => return Err(failed(&path)(errno.into())),
            }
        }
        Ok(())
    }

    /// Removes the pipes; missing ones are no error.
    pub(crate) fn remove(&self) -> Result<(), RuntimeError> {
        match std::fs::remove_dir_all(&self.folder) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(RuntimeError::File { doing: "remove", path: self.folder.clone(), source }),
        }
    }
}

/// Reads what a process writes, until it is gone and the pipe is empty.
pub(crate) struct OutputReader {
    pipe: pipe::Receiver,
    gone: watch::Receiver<bool>,
}

impl OutputReader {
    /// Opens the pipe; `gone` becomes true when nothing will be written any more.
    ///
    /// # Errors
    /// When there is no pipe at `path`.
    pub(crate) fn open(path: &Path, gone: watch::Receiver<bool>) -> Result<Self, RuntimeError> {
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(path);
        let pipe = pipe.map_err(|source| RuntimeError::File { doing: "open", path: path.to_owned(), source })?;
        Ok(Self { pipe, gone })
    }

    /// Reads some bytes; 0 is the end. Cancel-safe.
    ///
    /// # Errors
    /// When the pipe cannot be read.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if *self.gone.borrow_and_update() {
                // Past the runtime's idea of readiness, which may not have heard of the last bytes yet.
                return match nix::unistd::read(&self.pipe, buffer) {
                    Err(nix::errno::Errno::EAGAIN) => Ok(0),
                    other => Ok(other?),
                };
            }
            match self.pipe.try_read(buffer) {
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            tokio::select! {
                ready = self.pipe.readable() => ready?,
                changed = self.gone.changed() => if changed.is_err() { return Ok(0) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn a_reader_ends_after_the_last_byte_of_a_process_that_is_gone() {
        let folder = tempfile::tempdir().expect("because tests may write temporary files");
        let pipes = Pipes::new(folder.path().join("pipes"));
        pipes.make().expect("because the folder is writable");
        pipes.make().expect("because pipes that are there are kept");
        let (tell, gone) = watch::channel(false);
        let mut reader = OutputReader::open(&pipes.stdout(), gone).expect("because the pipe is there");
        let mut writer = std::fs::OpenOptions::new().write(true).open(pipes.stdout()).expect("because it has a reader");
        writer.write_all(b"last words").expect("because the pipe is empty");
        tell.send_replace(true);
        let mut buffer = [0; 64];
        let length = reader.read(&mut buffer).await.expect("because the pipe is open");
        assert_eq!(&buffer[..length], b"last words");
        assert_eq!(reader.read(&mut buffer).await.expect("because the pipe is open"), 0);
        pipes.remove().expect("because the folder is writable");
    }
}
