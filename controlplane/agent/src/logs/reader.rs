//! Reads log files in the CRI format: the last lines, since a time, with or without times, and what comes after.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

/// How long a follower waits before it looks at the file again. inotify would be exact; at four looks a second per
/// follower this costs nothing measurable and works the same over rotation.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What is asked of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogQuery {
    /// Only the last so many lines.
    pub(crate) tail: Option<usize>,
    /// Only lines from this time on.
    pub(crate) since: Option<Timestamp>,
    /// Put the time before each line.
    pub(crate) timestamps: bool,
    /// End after so many bytes.
    pub(crate) limit_bytes: Option<u64>,
    /// Wait for more.
    pub(crate) follow: bool,
}

/// One line of a log file.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    whole: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads `<time> <stream> <F|P> <text>\n`.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut parts = bytes.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let _stream = parts.next()?;
        let whole = parts.next()? == b"F";
        Some(Self { time, whole, text: parts.next()? })
    }

    fn is_since(&self, since: Option<Timestamp>) -> bool {
        since.is_none_or(|since| self.time.parse::<Timestamp>().is_ok_and(|time| time >= since))
    }
}

/// Turns lines of a file into what is sent; remembers what it sent.
pub(crate) struct LogStream {
    query: LogQuery,
    sent: u64,
    in_line: bool,
}

impl LogStream {
    /// Nothing sent yet.
    #[must_use]
    pub(crate) fn new(query: LogQuery) -> Self {
        Self { query, sent: 0, in_line: false }
    }

    /// Whether the limit is reached.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.query.limit_bytes.is_some_and(|limit| self.sent >= limit)
    }

    /// What to send for one line of the file; empty when it is filtered or unreadable.
    #[must_use]
    pub(crate) fn render(&mut self, raw: &[u8]) -> Vec<u8> {
        let Some(line) = Line::parse(raw).filter(|line| line.is_since(self.query.since)) else { return Vec::new() };
        let mut out = Vec::with_capacity(raw.len());
        if self.query.timestamps && !self.in_line {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if line.whole {
            out.push(b'\n');
        }
        self.in_line = !line.whole;
        if let Some(limit) = self.query.limit_bytes {
            out.truncate(usize::try_from(limit - self.sent.min(limit)).unwrap_or(usize::MAX));
        }
        self.sent += out.len() as u64;
        out
    }
}

/// Asks whether the container has ended.
pub(crate) type IsOver = Box<dyn FnMut() -> BoxFuture<'static, bool> + Send>;

/// Sends a container's log to `sink` until its end; a follower goes on until `is_over` says that the container has
/// ended. Ends early when nobody listens any more.
///
/// # Errors
/// When the file cannot be read. A missing file is an empty log.
pub(crate) async fn log_lines(
    path: PathBuf,
    query: LogQuery,
    sink: mpsc::Sender<Bytes>,
    is_over: IsOver,
) -> io::Result<()> {
    let files = rotated(&path);
    let skip = match query.tail {
        Some(tail) => count_lines(&files).await?.saturating_sub(tail),
        None => 0,
    };
    let follow = query.follow;
    let mut reader = Reader { stream: LogStream::new(query), sink, current: None, line: Vec::new(), skip };
    for file in files {
        reader.current = open(&file).await?;
        if !reader.send_lines().await? {
            return Ok(());
        }
    }
    if follow { reader.follow(&path, is_over).await } else { Ok(()) }
}

/// A log being sent.
struct Reader {
    stream: LogStream,
    sink: mpsc::Sender<Bytes>,
    current: Option<BufReader<tokio::fs::File>>,
    line: Vec<u8>,
    /// Lines still to be left out.
    skip: usize,
}

impl Reader {
    /// Sends all whole lines that the current file has; false when no more are wanted.
    async fn send_lines(&mut self) -> io::Result<bool> {
        let Some(current) = &mut self.current else { return Ok(true) };
        while read_line(current, &mut self.line).await? {
            let line = std::mem::take(&mut self.line);
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            let out = self.stream.render(&line);
            if !out.is_empty() && self.sink.send(out.into()).await.is_err() || self.stream.is_full() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn follow(mut self, path: &Path, mut is_over: IsOver) -> io::Result<()> {
        loop {
            // Asked before reading: what was written before the end is then still read.
            let over = is_over().await;
            if !self.send_lines().await? {
                return Ok(());
            }
            if is_rotated(path, self.current.as_ref()).await?
                && let Some(fresh) = open(path).await?
            {
                self.current = Some(fresh);
                self.line.clear();
                continue;
            }
            if over || self.sink.is_closed() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Appends to `line` up to and with the next newline; false when the file ends before one.
async fn read_line(reader: &mut BufReader<tokio::fs::File>, line: &mut Vec<u8>) -> io::Result<bool> {
    let before = line.len();
    reader.read_until(b'\n', line).await?;
    Ok(line.len() > before && line.ends_with(b"\n"))
}

/// The file and its rotated predecessors, oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let old = (1..).map(|number| PathBuf::from(format!("{}.{number}", path.display())));
    let mut files: Vec<PathBuf> = old.take_while(|file| file.exists()).collect();
    files.reverse();
    files.push(path.to_owned());
    files
}

async fn count_lines(files: &[PathBuf]) -> io::Result<usize> {
    let mut count = 0;
    for file in files {
        let Some(mut reader) = open(file).await? else { continue };
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line).await? {
            count += 1;
            line.clear();
        }
    }
    Ok(count)
}

async fn open(path: &Path) -> io::Result<Option<BufReader<tokio::fs::File>>> {
    match tokio::fs::File::open(path).await {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `path` is another file now than the one being read.
async fn is_rotated(path: &Path, reader: Option<&BufReader<tokio::fs::File>>) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let Some(reader) = reader else { return Ok(true) };
    let open = reader.get_ref().metadata().await?;
    match tokio::fs::metadata(path).await {
        Ok(named) => Ok((named.dev(), named.ino()) != (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-21T15:00:00.000000000Z stdout F one\n\
                       2026-11-21T15:00:01.000000000Z stdout P tw\n\
                       2026-11-21T15:00:01.100000000Z stdout F o\n\
                       2026-11-21T15:00:02.000000000Z stderr F three\n";

    async fn read(query: LogQuery) -> String {
        let folder = tempfile::tempdir().expect("because tests may write temporary files");
        let path = folder.path().join("0.log");
        std::fs::write(&path, LOG).expect("because the folder is writable");
        let (sink, mut lines) = mpsc::channel(16);
        let over: IsOver = Box::new(|| Box::pin(async { true }));
        log_lines(path, query, sink, over).await.expect("because the file is readable");
        let mut out = Vec::new();
        while let Some(line) = lines.recv().await {
            out.extend_from_slice(&line);
        }
        String::from_utf8(out).expect("because the log is ASCII")
    }

    #[tokio::test]
    async fn partial_lines_are_joined() {
        assert_eq!(read(LogQuery::default()).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn tail_since_limit_and_timestamps_do_what_they_say() {
        assert_eq!(read(LogQuery { tail: Some(1), ..LogQuery::default() }).await, "three\n");
        assert_eq!(read(LogQuery { limit_bytes: Some(5), ..LogQuery::default() }).await, "one\nt");
        let since = "2026-11-21T15:00:02Z".parse().ok();
        let timestamps = true;
        let late = read(LogQuery { since, timestamps, ..LogQuery::default() }).await;
        assert_eq!(late, "2026-11-21T15:00:02.000000000Z three\n");
    }

    #[tokio::test]
    async fn a_follower_of_an_ended_container_ends() {
        assert_eq!(read(LogQuery { follow: true, ..LogQuery::default() }).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn a_missing_log_is_empty() {
        let (sink, _lines) = mpsc::channel(1);
        let over: IsOver = Box::new(|| Box::pin(async { true }));
        let sent = log_lines("/nonexistent/0.log".into(), LogQuery::default(), sink, over).await;
        sent.expect("because a missing file is an empty log");
    }
}
