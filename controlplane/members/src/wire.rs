//! The generated messages, and the one place where they become the store's types and back.

use controlplane_replica::{decode, encode};
use serde::{Deserialize, Serialize};
use std::io;
use tonic::Status;

/// Generated from `proto/`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    tonic::include_proto!("cairn.store.v1");
}

pub(crate) use generated::*;

/// The only format that this release speaks.
const FORMAT: u32 = 1;

/// Largest message: one log entry of the largest transaction, or a group of smaller ones, or a piece of a snapshot.
pub(crate) const MESSAGE_LIMIT: usize = 16 * 1024 * 1024;

impl Packet {
    /// Packs a value.
    pub(crate) fn of<T: Serialize>(value: &T) -> io::Result<Packet> {
        Ok(Packet::raw(encode(value)?))
    }

    /// Packs bytes as they are.
    pub(crate) fn raw(body: Vec<u8>) -> Packet {
        Packet { format: FORMAT, body }
    }

    /// The bytes.
    pub(crate) fn into_body(self) -> io::Result<Vec<u8>> {
        if self.format == FORMAT {
            return Ok(self.body);
        }
        let text = format!("a member speaks format {}, this one {FORMAT}", self.format);
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// The value.
    pub(crate) fn open<T: for<'de> Deserialize<'de>>(self) -> io::Result<T> {
        decode(&self.into_body()?)
    }
}

/// What a caller hears of an error here.
pub(crate) fn status(error: io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::InvalidData => Status::invalid_argument(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

/// What a caller makes of an answer. [`io::ErrorKind::NotConnected`] means that nothing was sent.
pub(crate) fn failure(status: Status) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return io::Error::new(io::ErrorKind::NotConnected, status.message().to_owned());
        }
        cause = error.source();
    }
    io::Error::other(format!("{}: {}", status.code(), status.message()))
}
