//! machined's end of PID 1's socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use init_boot::{INIT_FD, INIT_FD_VARIABLE, MESSAGE_BYTES_MAX, ParseMessageError, ToInit, ToMachined};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, send, sockopt};

use crate::error::SystemError;

/// The inherited descriptor can have one owner only.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The socket on which PID 1 tells of ended processes and hears what is asked of it. Reads and writes never block:
/// wait for the descriptor to be readable.
#[derive(Debug)]
pub struct InitSocket(OwnedFd);

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A message, or why the packet is none.
    Message(Result<ToMachined, ParseMessageError>),
    /// Nothing more now.
    Empty,
    /// PID 1 has closed its end: it ends the machine.
    Closed,
}

impl InitSocket {
    /// Takes the inherited socket, once; `None` when this process does not run under Cairn's PID 1.
    ///
    /// # Errors
    /// When the environment promises a socket and the descriptor is none.
    pub fn take() -> Result<Option<Self>, SystemError> {
        let promised = std::env::var(INIT_FD_VARIABLE).is_ok_and(|number| number == INIT_FD.to_string());
        if !promised || TAKEN.swap(true, Ordering::SeqCst) {
            return Ok(None);
        }
        // SAFETY: PID 1 hands this descriptor down for nobody but us, and `TAKEN` lets only the first caller come
        // here. When nothing is open under the number, the next call says so and the value is forgotten.
        let descriptor = unsafe { OwnedFd::from_raw_fd(INIT_FD) };
        match Self::from_descriptor(descriptor) {
            Ok(socket) => Ok(Some(socket)),
            Err((descriptor, source)) => {
                std::mem::forget(descriptor);
                Err(SystemError::new("take", "PID 1's socket", source))
            }
        }
    }

    fn from_descriptor(descriptor: OwnedFd) -> Result<Self, (OwnedFd, Errno)> {
        let prepared = match getsockopt(&descriptor, sockopt::SockType) {
            Ok(SockType::SeqPacket) => fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
                .and_then(|_| fcntl(&descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))),
            Ok(_) => Err(Errno::EPROTOTYPE),
            Err(error) => Err(error),
        };
        match prepared {
            Ok(_) => Ok(Self(descriptor)),
            Err(error) => Err((descriptor, error)),
        }
    }

    /// Tells PID 1 something.
    ///
    /// # Errors
    /// When PID 1 has closed its end, or has not read earlier messages.
    pub fn send(&self, message: ToInit) -> Result<(), SystemError> {
        send(self.0.as_raw_fd(), message.to_string().as_bytes(), MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
            .map(|_| ())
            .map_err(|source| SystemError::new("send", format!("{message} to PID 1"), source))
    }

    /// Reads one message.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn receive(&self) -> Result<Received, SystemError> {
        let mut packet = [0; MESSAGE_BYTES_MAX + 1];
        loop {
            match recv(self.0.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(Received::Closed),
                Ok(length) => return Ok(Received::Message(ToMachined::parse(&packet[..length]))),
                Err(Errno::EAGAIN) => return Ok(Received::Empty),
                Err(Errno::EINTR) => {}
                Err(source) => return Err(SystemError::new("recv", "PID 1's socket", source)),
            }
        }
    }
}

impl AsFd for InitSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for InitSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use init_boot::ExitStatus;
    use nix::sys::socket::{AddressFamily, SockFlag, socketpair};

    fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).expect("because the host has Unix sockets")
    }

    #[test]
    fn messages_pass_in_both_directions() {
        let (ours, theirs) = pair(SockType::SeqPacket);
        let socket = InitSocket::from_descriptor(ours).expect("because it is a packet socket");
        assert_eq!(socket.receive().expect("because it is open"), Received::Empty);
        let message = ToMachined::Exited { pid: 7, status: ExitStatus::Code(1) };
        nix::unistd::write(&theirs, message.to_string().as_bytes()).expect("because there is room");
        nix::unistd::write(&theirs, b"nonsense").expect("because there is room");
        assert_eq!(socket.receive().expect("because it is open"), Received::Message(Ok(message)));
        assert!(matches!(socket.receive(), Ok(Received::Message(Err(_)))));
        socket.send(ToInit::Healthy).expect("because there is room");
        let mut packet = [0; 64];
        let length = nix::unistd::read(&theirs, &mut packet).expect("because a packet is there");
        assert_eq!(&packet[..length], b"healthy");
        drop(theirs);
        assert_eq!(socket.receive().expect("because closing is no failure"), Received::Closed);
    }

    #[test]
    fn another_kind_of_descriptor_is_refused() {
        let (ours, _theirs) = pair(SockType::Stream);
        assert!(InitSocket::from_descriptor(ours).is_err());
    }
}
