//! The netlink socket to nf_tables: sends transactions and hears when somebody else changes our table.

use super::statement::Table;
use super::wire::encode;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send, setsockopt,
    socket, sockopt,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Largest transaction in bytes, about 150,000 service ports; the kernel copies the whole of it at once.
pub const MAX_TRANSACTION: usize = 64 << 20;
/// Receive buffer in bytes: room for an error report per message of a large transaction.
const RECEIVE_BUFFER: usize = 8 << 20;
/// One datagram of answers or events; the kernel fills at most a few pages each.
const DATAGRAM: usize = 64 << 10;
/// Bit of the multicast group NFNLGRP_NFTABLES (7).
const EVENTS: u32 = 1 << 6;
/// NLMSG_ERROR, the type of answers.
const ANSWER: u16 = 2;
const HEADER: usize = 16;

/// The transaction was not applied; the table is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The netlink socket does not work.
    #[error("cannot talk to nf_tables over netlink")]
    Socket(#[source] io::Error),
    /// It would be larger than [`MAX_TRANSACTION`].
    #[error("the rules take {bytes} bytes, above the limit of {MAX_TRANSACTION}; there are too many service ports")]
    TooLarge {
        /// What it would take.
        bytes: usize,
    },
    /// The kernel refused a message.
    #[error(
        "the kernel refused message {message} of {bytes} bytes of rules for table {table}; the modules nf_tables, nft_chain_nat, nft_masq, nft_numgen, nft_fib_ipv4 and nft_reject_ipv4 must be loaded"
    )]
    Refused {
        /// The table.
        table: String,
        /// Number of the message in the transaction, from 0.
        message: u32,
        /// Size of the transaction.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel took the message but said nothing.
    #[error("the kernel did not acknowledge the rules for table {table}")]
    Unanswered {
        /// The table.
        table: String,
    },
}

/// An open netlink socket; transactions are synchronous in the kernel and take microseconds to milliseconds.
pub struct NftSocket {
    requests: OwnedFd,
    port: u32,
    events: TokioSocket,
}

impl NftSocket {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no nf_tables or the caller may not use it.
    pub fn open() -> Result<Self, ApplyError> {
        let requests = open().map_err(|errno| ApplyError::Socket(errno.into()))?;
        let address: NetlinkAddr =
            getsockname(requests.as_raw_fd()).map_err(|errno| ApplyError::Socket(errno.into()))?;
        let mut events = TokioSocket::new(NETLINK_NETFILTER).map_err(ApplyError::Socket)?;
        events.socket_mut().bind(&SocketAddr::new(0, EVENTS)).map_err(ApplyError::Socket)?;
        Ok(Self { requests, port: address.pid(), events })
    }

    /// Replaces the kernel's table of that name by `table`, all or nothing.
    ///
    /// # Errors
    /// When the kernel refuses; nothing has changed then.
    pub fn apply(&self, table: &Table) -> Result<(), ApplyError> {
        let batch = encode(table);
        if batch.len() > MAX_TRANSACTION {
            return Err(ApplyError::TooLarge { bytes: batch.len() });
        }
        let failed = |errno: Errno| ApplyError::Socket(errno.into());
        let buffer = batch.len() + DATAGRAM;
        // Forcing it above the system's limit takes a privilege that root of a user namespace lacks.
        setsockopt(&self.requests, sockopt::SndBufForce, &buffer)
            .or_else(|_| setsockopt(&self.requests, sockopt::SndBuf, &buffer))
            .map_err(failed)?;
        send(self.requests.as_raw_fd(), &batch, MsgFlags::empty()).map_err(failed)?;
        self.answers(&table.name, batch.len())
    }

    /// Reads what the kernel answered. A transaction is executed within `send`, so all answers are there already.
    fn answers(&self, table: &str, bytes: usize) -> Result<(), ApplyError> {
        let mut buffer = vec![0; DATAGRAM];
        let mut refused = None;
        let mut acknowledged = false;
        loop {
            let length = match recv(self.requests.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(ApplyError::Socket(errno.into())),
            };
            for message in messages(&buffer[..length]).filter(|message| message.kind == ANSWER) {
                match message.number(HEADER).map(u32::cast_signed) {
                    Some(0) => acknowledged = true,
                    Some(code) if refused.is_none() => refused = Some((message.sequence, code)),
                    Some(_) | None => {}
                }
            }
        }
        match refused {
            Some((message, code)) => {
                let source = io::Error::from_raw_os_error(-code);
                Err(ApplyError::Refused { table: table.to_owned(), message, bytes, source })
            }
            None if acknowledged => Ok(()),
            None => Err(ApplyError::Unanswered { table: table.to_owned() }),
        }
    }

    /// Waits until somebody else changes the table of that name. Cancel-safe; a burst counts once or more.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub async fn changed_by_others(&self, table: &str) -> io::Result<()> {
        loop {
            match self.events.recv_from_full().await {
                Ok((datagram, _kernel)) => {
                    let foreign = |message: &Message<'_>| message.port != self.port && message.is_about(table);
                    if messages(&datagram).any(|message| foreign(&message)) {
                        return Ok(());
                    }
                }
                // Events were lost: any of them may have been about our table.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

fn open() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(fd)
}

/// One netlink message of a datagram.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    port: u32,
    bytes: &'a [u8],
}

impl Message<'_> {
    fn number(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }

    /// Whether the first attribute, which is the table's name in every event but that of a generation, is `table`.
    fn is_about(&self, table: &str) -> bool {
        let attributes = HEADER + 4;
        let half = |at: usize| Some(u16::from_ne_bytes(self.bytes.get(at..at + 2)?.try_into().ok()?));
        let (Some(length), Some(kind)) = (half(attributes), half(attributes + 2)) else { return false };
        let name = self.bytes.get(attributes + 4..attributes + usize::from(length.max(4)));
        kind & 0x3fff == 1 && name.is_some_and(|name| name.strip_suffix(&[0]).unwrap_or(name) == table.as_bytes())
    }
}

/// Cuts a datagram into its messages; ends at the first that is malformed.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let at = |offset: usize, length: usize| bytes.get(offset..offset + length);
        let length = u32::from_ne_bytes(at(0, 4)?.try_into().ok()?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(at(4, 2)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(at(8, 4)?.try_into().ok()?),
            port: u32::from_ne_bytes(at(12, 4)?.try_into().ok()?),
            bytes: bytes.get(..length).filter(|_| length >= HEADER)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}
