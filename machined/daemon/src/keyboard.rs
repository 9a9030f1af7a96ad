//! What somebody types at the console: the code of a recovery that waits, or the recovery key of locked volumes, and nothing else.
//!
//! Who stands at the machine (or at its hypervisor's console) can vouch for a recovery, so that it need not wait for the policy's delay.
//! There is no shell and no other command: every other line is answered with a sentence, and while nothing waits with nothing. A
//! line is bounded, lines come as fast as somebody types, and no API leads here.

use crate::console::CONSOLE;
use crate::disks;
use crate::model::Model;
use crate::recoveries::Waiting;
use jiff::Timestamp;
use machined_access::{AuditApi, AuditOutcome, AuditRecord};
use machined_controllers::trust::PresenceRequest;
use machined_host::Console;
use machined_ids::{Digest, RecoveryCode};
use machined_luks::RecoveryKey;
use std::convert::Infallible;
use std::io;
use std::path::Path;

/// Longest line in bytes; a code with spaces around it is far shorter. The rest of a longer one is dropped with it.
const LINE_BYTES_MAX: usize = 64;

/// Bytes that are read at once.
const CHUNK: usize = 256;

/// Lines out of bytes.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    /// The line is too long already.
    long: bool,
}

impl Lines {
    /// Takes a byte; gives the line that it ends. A line that was too long is an empty one.
    pub(crate) fn push(&mut self, byte: u8) -> Option<String> {
        match byte {
            b'\r' | b'\n' => {
                let line = std::mem::take(&mut self.line);
                let long = std::mem::take(&mut self.long);
                (!line.is_empty() && !long).then(|| String::from_utf8_lossy(&line).trim().to_owned())
            }
            _ if self.line.len() >= LINE_BYTES_MAX => {
                self.long = true;
                None
            }
            _ => {
                self.line.push(byte);
                None
            }
        }
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    /// Nothing that anybody waits for.
    Nothing,
    /// No recovery that waits has this code.
    Unknown,
    /// Somebody vouches for this one.
    Confirm(Digest),
}

fn judge(line: &str, waiting: &[Waiting]) -> Heard {
    if waiting.is_empty() || line.is_empty() {
        return Heard::Nothing;
    }
    let Ok(code) = RecoveryCode::parse(line) else { return Heard::Unknown };
    let mut meant = waiting.iter().filter(|waiting| waiting.code() == code).map(|waiting| waiting.body);
    match (meant.next(), meant.next()) {
        (Some(body), None) => Heard::Confirm(body),
        // Two of one code: somebody searched for it, and nobody can tell which is meant.
        (Some(_), Some(_)) | (None, _) => Heard::Unknown,
    }
}

/// Listens until the console fails.
pub(crate) async fn listen(model: Model) -> io::Result<Infallible> {
    listen_to(model, Console::open(Path::new(CONSOLE))?).await
}

pub(crate) async fn listen_to(model: Model, mut console: Console) -> io::Result<Infallible> {
    let (mut lines, mut chunk) = (Lines::default(), [0; CHUNK]);
    loop {
        let read = console.read(&mut chunk).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for line in chunk[..read].iter().filter_map(|byte| lines.push(*byte)) {
            if let Some(answer) = hear(&model, &line).await {
                // A console that takes no text at this moment has its answer in the next picture.
                let _full = console.say(&format!("\r\n{answer}\r\n"));
            }
        }
    }
}

/// Does what a line says; gives what to answer.
async fn hear(model: &Model, line: &str) -> Option<String> {
    if let Some(key) = RecoveryKey::parse(line).filter(|_| disks::are_locked(&model.encryption.all())) {
        return Some(disks::unlock(model, key).await);
    }
    let recovery = match judge(line, &model.recoveries.all()) {
        Heard::Nothing => return None,
        Heard::Unknown => return Some("no recovery that waits has this code; nothing changed".to_owned()),
        Heard::Confirm(recovery) => recovery,
    };
    let code = RecoveryCode::of(&recovery);
    let record = AuditRecord::new(Timestamp::now(), AuditApi::Local, format!("ConfirmRecovery {recovery}"));
    let record = record.from("console");
    let answer = match model.confirm.ask(PresenceRequest::Confirm(recovery)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Some(match answer {
        Ok(()) => {
            tracing::warn!(%recovery, "somebody at the console vouched for a recovery; it does not wait");
            model.events.add("RecoveryConfirmed", "machine", format!("at the console, with code {code}"));
            model.audit.add(record);
            format!("recovery {code} is confirmed and takes effect as soon as its commit is here")
        }
        Err(error) => {
            model.audit.add(record.ended(AuditOutcome::Failed, &error));
            format!("recovery {code} is not confirmed: {error}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_ids::Epoch;

    fn waiting(body: u8) -> Waiting {
        Waiting {
            body: Digest::from_bytes([body; 32]),
            commit: "a".repeat(40).parse().expect("because it is an id"),
            epoch: Epoch(1),
            takes_effect: None,
        }
    }

    fn lines(typed: &[u8]) -> Vec<String> {
        let mut lines = Lines::default();
        typed.iter().filter_map(|byte| lines.push(*byte)).collect()
    }

    #[test]
    fn a_line_is_bounded_and_what_is_too_long_is_dropped_whole() {
        assert_eq!(lines(b"one\r\n\n two \nthr"), ["one", "two"]);
        let long = [vec![b'x'; 100_000], b"0123-4567\nnext\n".to_vec()].concat();
        assert_eq!(lines(&long), ["next"]);
        assert_eq!(lines(b"\xff\xfe\n"), ["\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn a_code_vouches_for_its_own_recovery_and_nothing_else_does_anything() {
        let (one, other) = (waiting(1), waiting(2));
        let both = [one.clone(), other.clone()];
        assert_eq!(judge(&one.code().to_string(), &both), Heard::Confirm(one.body));
        assert_eq!(judge(&other.code().to_string().to_lowercase(), &both), Heard::Confirm(other.body));
        assert_eq!(judge(&waiting(3).code().to_string(), &both), Heard::Unknown);
        for word in ["yes", "confirm", "reboot", "root", &one.body.to_string()] {
            assert_eq!(judge(word, &both), Heard::Unknown, "{word}");
            assert_eq!(judge(word, &[]), Heard::Nothing, "{word}");
        }
        assert_eq!(judge(&one.code().to_string(), &[]), Heard::Nothing, "it does not wait");
        let mut twin = other;
        let mut bytes = *one.body.as_bytes();
        bytes[31] = 9;
        twin.body = Digest::from_bytes(bytes);
        assert_eq!(judge(&one.code().to_string(), &[one, twin]), Heard::Unknown, "the same code twice names neither");
    }
}
