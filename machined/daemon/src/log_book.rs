//! Log lines of services: the last ones in memory, more in a file, new ones to whoever follows.
//!
//! One task for each service reads its pipe and calls [`LogBook::add`]; the machine API reads. Every ring, line and file has a limit.

use crate::audit_log::AUDIT_LOG;
use jiff::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::broadcast;

/// Lines kept in memory for each service: a few screens of the past.
const RING_LINES: usize = 2000;
/// Bytes kept in memory for each service, whatever the length of lines.
const RING_BYTES: usize = 512 * 1024;
/// Longest line; what is longer comes as several.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;
/// Lines that a follower may fall behind before it loses some.
const FOLLOW_LINES: usize = 1024;
/// Size of a log file; one older file of this size is kept beside it.
const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Size of the audit log's file: months of what people do, days of what machines do.
const AUDIT_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Where the files are, once the volume is mounted.
const LOG_FOLDER: &str = "/var/log/services";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) bytes: Vec<u8>,
}

/// The past and the future of one service's log.
pub(crate) struct Tail {
    /// Lines that are kept, oldest first.
    pub(crate) past: Vec<Arc<Line>>,
    /// Lines from now on.
    pub(crate) future: broadcast::Receiver<Arc<Line>>,
}

struct ServiceLog {
    ring: VecDeque<Arc<Line>>,
    bytes: usize,
    followers: broadcast::Sender<Arc<Line>>,
    file: Option<LogFile>,
}

impl Default for ServiceLog {
    fn default() -> Self {
        let followers = broadcast::Sender::new(FOLLOW_LINES);
        ServiceLog { ring: VecDeque::new(), bytes: 0, followers, file: None }
    }
}

/// A file that is replaced when it is full.
struct LogFile {
    path: PathBuf,
    writer: BufWriter<File>,
    bytes: u64,
    /// Whether lines begin with their time; those of the audit log hold it.
    stamped: bool,
}

impl LogFile {
    fn open(folder: &Path, service: &str) -> std::io::Result<Self> {
        let path = folder.join(format!("{service}.log"));
        let file = File::options().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path, writer: BufWriter::new(file), bytes, stamped: service != AUDIT_LOG })
    }

    fn write(&mut self, line: &Line) -> std::io::Result<()> {
        if self.bytes >= if self.stamped { FILE_BYTES } else { AUDIT_FILE_BYTES } {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.writer = BufWriter::new(File::options().create(true).append(true).open(&self.path)?);
            self.bytes = 0;
        }
        let at = if self.stamped { format!("{} ", line.at) } else { String::new() };
        self.writer.write_all(at.as_bytes())?;
        self.writer.write_all(&line.bytes)?;
        self.writer.write_all(b"\n")?;
        self.bytes += (at.len() + line.bytes.len() + 1) as u64;
        self.writer.flush()
    }
}

/// The logs of all services. Clones are the same book.
#[derive(Clone, Default)]
pub(crate) struct LogBook(Arc<Mutex<BTreeMap<String, ServiceLog>>>);

impl LogBook {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ServiceLog>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the log of a service known, though nothing was written yet.
    pub(crate) fn open(&self, service: &str) {
        self.lock().entry(service.to_owned()).or_default();
    }

    /// Adds a line, which is cut at [`LINE_BYTES_MAX`].
    pub(crate) fn add(&self, service: &str, at: Timestamp, mut bytes: Vec<u8>) {
        bytes.truncate(LINE_BYTES_MAX);
        let line = Arc::new(Line { at, bytes });
        let mut logs = self.lock();
        let log = logs.entry(service.to_owned()).or_default();
        log.bytes += line.bytes.len();
        log.ring.push_back(Arc::clone(&line));
        while log.ring.len() > RING_LINES || log.bytes > RING_BYTES {
            let Some(old) = log.ring.pop_front() else { break };
            log.bytes -= old.bytes.len();
        }
        // A disk that is full or gone must not stop a service; memory still has the lines.
        if log.file.as_mut().is_some_and(|file| file.write(&line).is_err()) {
            log.file = None;
        }
        // Nobody following is fine.
        let _followers = log.followers.send(line);
    }

    /// Begins to write files, the kept lines first. Services that get a log later write from their first line on.
    pub(crate) fn write_files(&self, folder: &Path) -> std::io::Result<()> {
        for (service, log) in self.lock().iter_mut().filter(|(_, log)| log.file.is_none()) {
            let mut file = LogFile::open(folder, service)?;
            for line in &log.ring {
                file.write(line)?;
            }
            log.file = Some(file);
        }
        Ok(())
    }

    /// The log of a service, if there is such a service.
    pub(crate) fn tail(&self, service: &str) -> Option<Tail> {
        let logs = self.lock();
        let log = logs.get(service)?;
        Some(Tail { past: log.ring.iter().cloned().collect(), future: log.followers.subscribe() })
    }

    /// Names of all logs.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }
}

/// Where log files are.
pub(crate) fn log_folder() -> &'static Path {
    Path::new(LOG_FOLDER)
}

/// Reads lines until the source ends or fails. A line that is too long comes in pieces.
pub(crate) async fn read_lines(
    book: LogBook,
    service: &str,
    source: impl tokio::io::AsyncRead + Unpin,
) -> std::io::Result<()> {
    let mut source = BufReader::new(source);
    loop {
        let mut line = Vec::new();
        let read = (&mut source).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        book.add(service, Timestamp::now(), line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(tail: &Tail) -> Vec<String> {
        tail.past.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect()
    }

    #[tokio::test]
    async fn lines_are_kept_in_order_and_followed() {
        let book = LogBook::default();
        read_lines(book.clone(), "gitsync", &b"one\ntwo\nlast without end"[..])
            .await
            .expect("because memory can be read");
        let mut tail = book.tail("gitsync").expect("because it wrote something");
        assert_eq!(texts(&tail), ["one", "two", "last without end"]);
        book.add("gitsync", Timestamp::now(), b"three".to_vec());
        assert_eq!(tail.future.recv().await.expect("because one came").bytes, b"three");
        assert!(book.tail("nobody").is_none());
    }

    #[tokio::test]
    async fn neither_many_lines_nor_long_ones_fill_the_memory() {
        let book = LogBook::default();
        for number in 0..RING_LINES + 5 {
            book.add("a", Timestamp::now(), number.to_string().into_bytes());
        }
        let tail = book.tail("a").expect("because it wrote something");
        assert_eq!((tail.past.len(), tail.past[0].bytes.as_slice()), (RING_LINES, &b"5"[..]));
        let long = vec![b'x'; 3 * LINE_BYTES_MAX];
        for _ in 0..20 {
            read_lines(book.clone(), "b", &long[..]).await.expect("because memory can be read");
        }
        let tail = book.tail("b").expect("because it wrote something");
        assert!(tail.past.iter().map(|line| line.bytes.len()).sum::<usize>() <= RING_BYTES);
    }

    #[test]
    fn a_full_file_is_put_aside() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let book = LogBook::default();
        book.add("a", Timestamp::now(), b"before the volume was mounted".to_vec());
        book.write_files(folder.path()).expect("because the folder is there");
        for _ in 0..FILE_BYTES / LINE_BYTES_MAX as u64 + 2 {
            book.add("a", Timestamp::now(), vec![b'x'; LINE_BYTES_MAX]);
        }
        let size = |name: &str| fs::metadata(folder.path().join(name)).expect("because it was written").len();
        assert!(size("a.log.1") >= FILE_BYTES && size("a.log") < FILE_BYTES);
        let old = fs::read_to_string(folder.path().join("a.log.1")).expect("because it was written");
        assert!(old.lines().next().is_some_and(|line| line.ends_with("before the volume was mounted")));
    }
}
