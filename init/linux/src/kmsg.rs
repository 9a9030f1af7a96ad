//! The kernel's log: writing lines, carrying a child's output there, parsing records.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::error::SystemError;

/// The device.
const KMSG: &str = "/dev/kmsg";
/// The kernel refuses records above about 1 KiB; longer lines are cut here, in bytes.
const LINE_BYTES_MAX: usize = 900;
/// Lines of a child are cut earlier, for its name comes in front, in bytes.
const PIECE_BYTES_MAX: usize = LINE_BYTES_MAX - 32;

/// Writes lines to the kernel's log.
#[derive(Debug)]
pub(crate) struct Writer(File);

impl Writer {
    /// Opens the device.
    pub(crate) fn open() -> Result<Self, SystemError> {
        let file = OpenOptions::new().write(true).open(KMSG);
        file.map(Self).map_err(|source| SystemError::new("open", KMSG, source))
    }

    /// Writes one line at level "info". A line that the kernel does not take is lost: there is no other place for it.
    pub(crate) fn write_line(&mut self, line: &str) {
        let mut record = String::from("<6>");
        for character in line.trim_end().chars() {
            if record.len() >= LINE_BYTES_MAX {
                record.push_str("...");
                break;
            }
            // Control characters could forge lines or colour somebody's terminal.
            record.push(if character.is_control() { ' ' } else { character });
        }
        record.push('\n');
        let _: io::Result<usize> = self.0.write(record.as_bytes());
    }
}

/// Gives the write end of a pipe; a thread carries its lines to the kernel's log as `<name>: <line>` until all
/// writers are gone.
///
/// A program must not write to /dev/kmsg itself: a line that is too long fails there, and a failing standard error
/// ends a Rust program.
pub(crate) fn carry_lines(name: &'static str) -> Result<OwnedFd, SystemError> {
    let failed = |source: io::Error| SystemError::new("pipe", name, source);
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|source| failed(source.into()))?;
    let mut writer = Writer::open()?;
    let carry = move || {
        let mut lines = BufReader::new(File::from(read));
        while let Ok(Some(line)) = bounded_line(&mut lines) {
            writer.write_line(&format!("{name}: {line}"));
        }
    };
    std::thread::Builder::new().name("log".to_owned()).spawn(carry).map_err(failed)?;
    Ok(write)
}

/// One line without its end, cut at [`PIECE_BYTES_MAX`]; the rest of a long line comes as the next one.
fn bounded_line(lines: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut limited = lines.take(PIECE_BYTES_MAX as u64);
    match limited.read_until(b'\n', &mut line)? {
        0 => Ok(None),
        _ => Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned())),
    }
}

/// One record: `priority,sequence,microseconds,flags;text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Counts records since the kernel started.
    pub sequence: u64,
    /// Microseconds since the kernel started.
    pub micros: u64,
    /// The text, without the continuation lines that name a device.
    pub text: String,
}

impl Record {
    /// Parses what one read of the device gave; `None` for something else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, rest) = text.split_once(';')?;
        let mut fields = head.split(',');
        let priority: u32 = fields.next()?.parse().ok()?;
        let sequence = fields.next()?.parse().ok()?;
        let micros = fields.next()?.parse().ok()?;
        let line = rest.lines().next().unwrap_or_default();
        Some(Self { level: (priority & 7) as u8, sequence, micros, text: line.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_split_into_its_fields() {
        let record =
            Record::parse(b"30,1202,5140900,-;cairn: stage two\n SUBSYSTEM=x\n").expect("because it is a record");
        assert_eq!(record, Record { level: 6, sequence: 1202, micros: 5_140_900, text: "cairn: stage two".to_owned() });
    }

    #[test]
    fn what_is_no_record_is_none() {
        for bytes in [&b""[..], b";", b"a,b,c;d", b"1,2;x", &[0xff, 0xfe, b';']] {
            assert_eq!(Record::parse(bytes), None);
        }
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let text = "x".repeat(PIECE_BYTES_MAX + 5) + "\nshort";
        let mut lines = io::Cursor::new(text.into_bytes());
        let mut lengths = Vec::new();
        while let Some(line) = bounded_line(&mut lines).expect("because memory does not fail") {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [PIECE_BYTES_MAX, 5, 5]);
    }
}
