//! The kernel's ring buffer as a stream of records.

use init_linux::kmsg::Record;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use tokio::net::unix::pipe;

/// Longest record that the kernel gives (CONSOLE_EXT_LOG_MAX), in bytes.
const RECORD_BYTES_MAX: usize = 8192;
/// The device.
const KMSG: &str = "/dev/kmsg";

/// Reads the kernel's log from its oldest record on.
#[derive(Debug)]
pub struct KernelLog {
    /// For what is there already: the runtime does not know yet that it is.
    now: File,
    /// The same open file, for what comes. Not a pipe, but read and waited for in the same way; one read is one record.
    later: pipe::Receiver,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelLine {
    /// A record.
    Record(Record),
    /// The reader was too slow, and some records are gone.
    Lost,
}

/// What one read gave; `None` for something that is no record.
fn line_of(read: std::io::Result<usize>, buffer: &[u8]) -> std::io::Result<Option<KernelLine>> {
    match read {
        Ok(length) => Ok(Record::parse(&buffer[..length]).map(KernelLine::Record)),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Some(KernelLine::Lost)),
        Err(error) => Err(error),
    }
}

impl KernelLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the device is not there or may not be read.
    pub fn open() -> std::io::Result<Self> {
        let now = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(KMSG)?;
        let later = pipe::Receiver::from_file_unchecked(now.try_clone()?)?;
        Ok(KernelLog { now, later })
    }

    /// The next record that is there already, if any.
    ///
    /// # Errors
    /// When the device fails.
    pub fn ready(&mut self) -> std::io::Result<Option<KernelLine>> {
        let mut buffer = [0; RECORD_BYTES_MAX];
        loop {
            match line_of(self.now.read(&mut buffer), &buffer) {
                Ok(None) => {}
                Ok(line) => return Ok(line),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the next record. Cancel-safe.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn next(&mut self) -> std::io::Result<KernelLine> {
        let mut buffer = [0; RECORD_BYTES_MAX];
        loop {
            match line_of(self.later.try_read(&mut buffer), &buffer) {
                Ok(None) => {}
                Ok(Some(line)) => return Ok(line),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.later.readable().await?,
                Err(error) => return Err(error),
            }
        }
    }
}
