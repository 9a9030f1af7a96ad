//! PID 1's own small protocol: one text message a packet on the SOCK_SEQPACKET socket that machined inherits.
//!
//! PID 1 tells which processes it reaped, those that ended while no machined ran included; machined says that it is
//! healthy and asks for the end. An unreadable message is dropped and logged by its receiver, never a reason to stop.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest message, in bytes; a longer packet is cut by its receiver and then refused.
pub const MESSAGE_BYTES_MAX: usize = 128;
/// The descriptor under which machined finds the socket.
pub const INIT_FD: i32 = 3;
/// The environment variable that says so; without it machined does not run under PID 1.
pub const INIT_FD_VARIABLE: &str = "CAIRN_INIT_FD";

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What PID 1 tells machined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToMachined {
    /// A process that PID 1 reaped.
    Exited {
        /// Its process id.
        pid: u32,
        /// How it ended.
        status: ExitStatus,
    },
}

/// What machined tells PID 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToInit {
    /// Stop everything and start the machine again.
    Reboot,
    /// Stop everything and switch the machine off.
    Poweroff,
    /// machined serves: failures before this do not count any more.
    Healthy,
    /// The image that is being tried is good, and the boot loader starts it from now on: its deadline is over.
    Good,
}

/// Why a packet is no message.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not a message between PID 1 and machined")]
pub struct ParseMessageError {
    text: String,
}

impl ParseMessageError {
    fn new(text: &str) -> Self {
        Self { text: text.chars().take(MESSAGE_BYTES_MAX).collect() }
    }
}

impl ToMachined {
    /// Parses one packet.
    ///
    /// # Errors
    /// When it is not exactly a message.
    pub fn parse(packet: &[u8]) -> Result<Self, ParseMessageError> {
        text(packet)?.parse()
    }
}

impl ToInit {
    /// Parses one packet.
    ///
    /// # Errors
    /// When it is not exactly a message.
    pub fn parse(packet: &[u8]) -> Result<Self, ParseMessageError> {
        text(packet)?.parse()
    }
}

fn text(packet: &[u8]) -> Result<&str, ParseMessageError> {
    let refused = || ParseMessageError::new(&String::from_utf8_lossy(packet));
    if packet.len() > MESSAGE_BYTES_MAX {
        return Err(refused());
    }
    std::str::from_utf8(packet).map_err(|_| refused())
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

impl fmt::Display for ToMachined {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { pid, status } => write!(formatter, "exited {pid} {status}"),
        }
    }
}

impl fmt::Display for ToInit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reboot => "reboot",
            Self::Poweroff => "poweroff",
            Self::Healthy => "healthy",
            Self::Good => "good",
        })
    }
}

impl FromStr for ToMachined {
    type Err = ParseMessageError;

    fn from_str(text: &str) -> Result<Self, ParseMessageError> {
        let refused = || ParseMessageError::new(text);
        let words: Vec<&str> = text.splitn(5, ' ').collect();
        let ["exited", pid, how, number] = words.as_slice() else {
            return Err(refused());
        };
        let pid = pid.parse().map_err(|_| refused())?;
        let number = number.parse().map_err(|_| refused())?;
        let status = match *how {
            "code" => ExitStatus::Code(number),
            "signal" => ExitStatus::Signal(number),
            _ => return Err(refused()),
        };
        Ok(Self::Exited { pid, status })
    }
}

impl FromStr for ToInit {
    type Err = ParseMessageError;

    fn from_str(text: &str) -> Result<Self, ParseMessageError> {
        match text {
            "reboot" => Ok(Self::Reboot),
            "poweroff" => Ok(Self::Poweroff),
            "healthy" => Ok(Self::Healthy),
            "good" => Ok(Self::Good),
            _ => Err(ParseMessageError::new(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        for status in [ExitStatus::Code(0), ExitStatus::Code(137), ExitStatus::Signal(9)] {
            let message = ToMachined::Exited { pid: u32::MAX, status };
            let packet = message.to_string();
            assert!(packet.len() <= MESSAGE_BYTES_MAX);
            assert_eq!(ToMachined::parse(packet.as_bytes()), Ok(message));
        }
        for message in [ToInit::Reboot, ToInit::Poweroff, ToInit::Healthy, ToInit::Good] {
            assert_eq!(ToInit::parse(message.to_string().as_bytes()), Ok(message));
        }
    }

    #[test]
    fn texts_are_those_of_the_contract() {
        let message = ToMachined::Exited { pid: 12, status: ExitStatus::Signal(15) };
        assert_eq!(message.to_string(), "exited 12 signal 15");
    }

    #[test]
    fn anything_else_is_refused() {
        for packet in
            ["", "exited", "exited 1", "exited 1 code", "exited x code 1", "exited 1 code 1 2", "exited 1 luck 1"]
        {
            assert!(ToMachined::parse(packet.as_bytes()).is_err(), "{packet} was accepted");
        }
        assert!(ToInit::parse(b"reboot\n").is_err());
        assert!(ToInit::parse(&[0xff; 400]).is_err());
    }
}
