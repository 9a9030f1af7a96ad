//! The socket to PID 1, for the runtime: who ended, and asking for the end of the machine.

use init_boot::{ToInit, ToMachined};
use init_linux::{Received, SystemError};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Why PID 1 cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The socket failed.
    #[error("the socket to PID 1 failed")]
    Socket(#[source] SystemError),
    /// The socket cannot be waited for.
    #[error("the socket to PID 1 cannot be waited for")]
    Wait(#[from] std::io::Error),
    /// PID 1 closed it, which it only does when the machine ends.
    #[error("PID 1 closed its socket")]
    Closed,
}

/// machined's end of PID 1's socket.
#[derive(Debug)]
pub struct InitSocket {
    socket: init_linux::InitSocket,
    /// The same socket once more, only to wait for it: tokio has no packet sockets, and readiness is the same for all kinds.
    readiness: UnixStream,
}

impl InitSocket {
    /// Registers the socket with the runtime.
    ///
    /// # Errors
    /// When the descriptor cannot be waited for.
    pub fn new(socket: init_linux::InitSocket) -> Result<Self, InitError> {
        let twin = std::os::unix::net::UnixStream::from(socket.as_fd().try_clone_to_owned()?);
        Ok(InitSocket { socket, readiness: UnixStream::from_std(twin)? })
    }

    /// The next message. Unreadable ones are logged and skipped. Cancel-safe.
    ///
    /// # Errors
    /// When the socket failed or was closed.
    pub async fn next(&self) -> Result<ToMachined, InitError> {
        loop {
            let mut failed = None;
            let receive = || match self.socket.receive() {
                Ok(Received::Empty) => Err(ErrorKind::WouldBlock.into()),
                Ok(received) => Ok(Some(received)),
                Err(error) => {
                    failed = Some(error);
                    Ok(None)
                }
            };
            match self.readiness.async_io(Interest::READABLE, receive).await? {
                Some(Received::Message(Ok(message))) => return Ok(message),
                Some(Received::Message(Err(error))) => tracing::warn!(%error, "PID 1 sent something unreadable"),
                Some(Received::Closed) => return Err(InitError::Closed),
                Some(Received::Empty) | None => {}
            }
            if let Some(error) = failed {
                return Err(InitError::Socket(error));
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When PID 1 does not take it.
    pub fn send(&self, message: ToInit) -> Result<(), InitError> {
        self.socket.send(message).map_err(InitError::Socket)
    }
}
