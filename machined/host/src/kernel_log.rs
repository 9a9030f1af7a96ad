//! The kernel's ring buffer as a stream of records.

use init_linux::kmsg::Record;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::net::unix::pipe;

/// Longest record that the kernel gives (CONSOLE_EXT_LOG_MAX), in bytes.
const RECORD_BYTES_MAX: usize = 8192;
/// The device.
const KMSG: &str = "/dev/kmsg";

/// Reads the kernel's log from its oldest record on.
#[derive(Debug)]
pub struct KernelLog(pipe::Receiver);

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelLine {
    /// A record.
    Record(Record),
    /// The reader was too slow, and some records are gone.
    Lost,
}

impl KernelLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the device is not there or may not be read.
    pub fn open() -> std::io::Result<Self> {
        let file = std::fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(Path::new(KMSG))?;
        // Not a pipe, but read and waited for in the same way; one read is one record.
        pipe::Receiver::from_file_unchecked(file).map(KernelLog)
    }

    fn try_next(&self) -> std::io::Result<Option<KernelLine>> {
        let mut buffer = [0; RECORD_BYTES_MAX];
        loop {
            match self.0.try_read(&mut buffer) {
                Ok(length) => {
                    if let Some(record) = Record::parse(&buffer[..length]) {
                        return Ok(Some(KernelLine::Record(record)));
                    }
                }
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Some(KernelLine::Lost)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next record that is there already, if any.
    ///
    /// # Errors
    /// When the device fails.
    pub fn ready(&self) -> std::io::Result<Option<KernelLine>> {
        self.try_next()
    }

    /// Waits for the next record. Cancel-safe.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn next(&self) -> std::io::Result<KernelLine> {
        loop {
            if let Some(line) = self.try_next()? {
                return Ok(line);
            }
            self.0.readable().await?;
        }
    }
}
