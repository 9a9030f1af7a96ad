//! Writes a container's output in the CRI log format, `<time> <stream> <F|P> <text>`, and rotates the file.
//!
//! Format: <https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>

use jiff::Timestamp;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes in a log file before it is rotated; kubelet's default.
const FILE_LIMIT: u64 = 10 << 20;
/// Files kept of one container, the current one included; kubelet's default.
const FILES: u32 = 5;
/// Bytes of a line before it is cut into partial ones; containerd's CRI default.
const LINE_LIMIT: usize = 16 << 10;

/// Which output a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// As it stands in the file.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log file of one container.
pub(crate) struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    /// Begun lines, one a stream.
    begun: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens the file to append, with its folder.
    ///
    /// # Errors
    /// When folder or file cannot be made.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, begun: [Vec::new(), Vec::new()] })
    }

    /// Takes output as it comes; whole lines are written, the rest waits for more.
    ///
    /// # Errors
    /// When the file cannot be written, such as on a full disk.
    pub(crate) fn write(&mut self, stream: OutputStream, mut bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(stream, &bytes[..end], now, &mut out);
            let line = std::mem::take(&mut self.begun[stream as usize]);
            put_line(&mut out, stream, now, "F", &line);
            bytes = &bytes[end + 1..];
        }
        self.extend(stream, bytes, now, &mut out);
        self.append(&out)
    }

    /// Writes lines that were begun and never ended.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        let mut out = Vec::new();
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let rest = std::mem::take(&mut self.begun[stream as usize]);
            if !rest.is_empty() {
                put_line(&mut out, stream, now, "F", &rest);
            }
        }
        self.append(&out)
    }

    /// Adds to the begun line and writes it out in parts when it grows too long.
    fn extend(&mut self, stream: OutputStream, bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        let line = &mut self.begun[stream as usize];
        line.extend_from_slice(bytes);
        while line.len() > LINE_LIMIT {
            let rest = line.split_off(LINE_LIMIT);
            put_line(out, stream, now, "P", line);
            *line = rest;
        }
    }

    fn append(&mut self, out: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + out.len() as u64 > FILE_LIMIT {
            self.rotate()?;
        }
        self.file.write_all(out)?;
        self.size += out.len() as u64;
        Ok(())
    }

    /// `0.log` becomes `0.log.1`, that one `0.log.2`, and the oldest goes away.
    fn rotate(&mut self) -> io::Result<()> {
        let old = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..FILES - 1).rev() {
            match std::fs::rename(old(number), old(number + 1)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        std::fs::rename(&self.path, old(1))?;
        self.file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn put_line(out: &mut Vec<u8>, stream: OutputStream, now: Timestamp, tag: &str, line: &[u8]) {
    out.extend_from_slice(format!("{now:.9} {} {tag} ", stream.name()).as_bytes());
    out.extend_from_slice(line);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T15:00:00.5Z".parse().expect("because it is a timestamp")
    }

    fn writer() -> (tempfile::TempDir, PathBuf, LogWriter) {
        let folder = tempfile::tempdir().expect("because tests may write temporary files");
        let path = folder.path().join("ns_pod_uid/web/0.log");
        let writer = LogWriter::open(&path).expect("because the folder is writable");
        (folder, path, writer)
    }

    #[test]
    fn lines_carry_time_stream_and_tag() {
        let (_folder, path, mut writer) = writer();
        writer.write(OutputStream::Stdout, b"one\ntw", now()).expect("because the file is writable");
        writer.write(OutputStream::Stderr, b"bad\n", now()).expect("because the file is writable");
        writer.write(OutputStream::Stdout, b"o\nrest", now()).expect("because the file is writable");
        writer.finish(now()).expect("because the file is writable");
        let time = "2026-11-21T15:00:00.500000000Z";
        let expected = format!("{time} stdout F one\n{time} stderr F bad\n{time} stdout F two\n{time} stdout F rest\n");
        assert_eq!(std::fs::read_to_string(path).expect("because it was written"), expected);
    }

    #[test]
    fn a_long_line_is_cut_into_partial_ones() {
        let (_folder, path, mut writer) = writer();
        let line = vec![b'x'; LINE_LIMIT + 10];
        writer.write(OutputStream::Stdout, &line, now()).expect("because the file is writable");
        writer.write(OutputStream::Stdout, b"\n", now()).expect("because the file is writable");
        let text = std::fs::read_to_string(path).expect("because it was written");
        let tags: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        assert_eq!(tags, ["P", "F"]);
    }

    #[test]
    fn a_full_file_is_rotated_and_old_ones_go_away() {
        let (_folder, path, mut writer) = writer();
        let mega = [vec![b'x'; (1 << 20) - 1], vec![b'\n']].concat();
        for _ in 0..70 {
            writer.write(OutputStream::Stdout, &mega, now()).expect("because the file is writable");
        }
        let folder = path.parent().expect("because the file is in a folder");
        let files = std::fs::read_dir(folder).expect("because it is readable").count();
        assert_eq!(files, FILES as usize);
        assert!(std::fs::metadata(&path).expect("because it is there").len() <= FILE_LIMIT);
    }
}
