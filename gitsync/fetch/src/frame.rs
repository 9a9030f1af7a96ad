//! What the child says: a few frames, each with its length first.
//!
//! ```text
//! frame   = tag (1 byte) | length (4 bytes, big endian) | payload
//! D       payload = dialect (1 byte)         how the server speaks; at most once, and first
//! U, T    payload = commit id in hex        U: the branch is where it was; T: its tip, objects follow
//! S       payload = length of id (1 byte) | id | content    a blob under refs/cairn/; no content: it is no statement
//! O       payload = kind (1 byte) | length of id (1 byte) | id | content
//! F       payload = Failure as JSON         the last frame
//! E       payload = nothing                 the last frame
//! ```

use crate::dialect::Dialect;
use gitsync_verify::limits::{MAX_OBJECT_BYTES, MAX_STATEMENT_BYTES};
use gitsync_verify::{ObjectId, ObjectKind};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of one frame: the largest object and its head. What is longer ends the fetch.
const MAX_FRAME: usize = MAX_OBJECT_BYTES as usize + 64;

/// Why the child could not bring what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FailureKind {
    /// Nobody answered, or not as a git server.
    Unreachable,
    /// The repository has no such branch.
    RefMissing,
    /// The transfer broke off, or what came was no pack.
    Transfer,
    /// More or larger than the limits.
    Limit,
    /// The child's own folder or limits.
    Local,
}

/// One thing that the child says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Dialect(Dialect),
    Unchanged(String),
    Tip(String),
    Statement(ObjectId, Vec<u8>),
    Object(ObjectId, ObjectKind, Vec<u8>),
    Failure(Failure),
    End,
}

const fn kind_byte(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Commit => b'c',
        ObjectKind::Tree => b't',
        ObjectKind::Blob => b'b',
    }
}

fn write(out: &mut impl Write, tag: u8, parts: &[&[u8]]) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| io::Error::other("a frame of 4 GiB"))?;
    out.write_all(&[tag])?;
    out.write_all(&length.to_be_bytes())?;
    parts.iter().try_for_each(|part| out.write_all(part))
}

pub(crate) fn write_dialect(out: &mut impl Write, dialect: Dialect) -> io::Result<()> {
    write(out, b'D', &[&[dialect.as_byte()]])
}

pub(crate) fn write_unchanged(out: &mut impl Write, tip: &str) -> io::Result<()> {
    write(out, b'U', &[tip.as_bytes()])
}

pub(crate) fn write_tip(out: &mut impl Write, tip: &str) -> io::Result<()> {
    write(out, b'T', &[tip.as_bytes()])
}

pub(crate) fn write_object(out: &mut impl Write, id: &ObjectId, kind: ObjectKind, content: &[u8]) -> io::Result<()> {
    let id = id.as_bytes();
    let length = u8::try_from(id.len()).map_err(|_| io::Error::other("an id of 256 bytes"))?;
    write(out, b'O', &[&[kind_byte(kind), length], id, content])
}

pub(crate) fn write_statement(out: &mut impl Write, id: &ObjectId, content: &[u8]) -> io::Result<()> {
    let id = id.as_bytes();
    let length = u8::try_from(id.len()).map_err(|_| io::Error::other("an id of 256 bytes"))?;
    write(out, b'S', &[&[length], id, content])
}

pub(crate) fn write_failure(out: &mut impl Write, failure: &Failure) -> io::Result<()> {
    write(out, b'F', &[serde_json::to_string(failure)?.as_bytes()])
}

pub(crate) fn write_end(out: &mut impl Write) -> io::Result<()> {
    write(out, b'E', &[])
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads one frame; an end of the stream in front of or inside one is an error, since `E` and `F` come last.
pub(crate) async fn read(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let tag = input.read_u8().await?;
    let length = input.read_u32().await? as usize;
    if length > MAX_FRAME {
        return Err(broken("a frame is longer than the largest object"));
    }
    let mut payload = Vec::new();
    // Grows with what really comes, so that a claimed length costs nothing.
    let mut limited = input.take(length as u64);
    limited.read_to_end(&mut payload).await?;
    if payload.len() != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    parse(tag, payload)
}

fn parse(tag: u8, mut payload: Vec<u8>) -> io::Result<Frame> {
    let text = |bytes| String::from_utf8(bytes).map_err(|_| broken("a commit id is not text"));
    match tag {
        b'D' => {
            let &[byte] = payload.as_slice() else { return Err(broken("a crooked dialect")) };
            Dialect::from_byte(byte).map(Frame::Dialect).ok_or_else(|| broken("an unknown dialect"))
        }
        b'U' => Ok(Frame::Unchanged(text(payload)?)),
        b'T' => Ok(Frame::Tip(text(payload)?)),
        b'F' => Ok(Frame::Failure(serde_json::from_slice(&payload)?)),
        b'E' => Ok(Frame::End),
        b'S' => {
            let length = usize::from(payload.first().copied().unwrap_or_default());
            let id = payload.get(1..1 + length).and_then(ObjectId::from_slice).ok_or_else(|| broken("a crooked id"))?;
            payload.drain(..1 + length);
            if payload.len() > MAX_STATEMENT_BYTES {
                return Err(broken("a statement is longer than any"));
            }
            Ok(Frame::Statement(id, payload))
        }
        b'O' => {
            let kind = match payload.first() {
                Some(b'c') => ObjectKind::Commit,
                Some(b't') => ObjectKind::Tree,
                Some(b'b') => ObjectKind::Blob,
                Some(_) | None => return Err(broken("an object of an unknown kind")),
            };
            let length = usize::from(payload.get(1).copied().unwrap_or_default());
            let id = payload.get(2..2 + length).and_then(ObjectId::from_slice).ok_or_else(|| broken("a crooked id"))?;
            payload.drain(..2 + length);
            // It grew by doubling, and is kept: all objects together would take up to twice their bytes.
            payload.shrink_to_fit();
            Ok(Frame::Object(id, kind, payload))
        }
        _ => Err(broken("an unknown frame")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_as_they_are_written() {
        let id = ObjectId::Sha1([3; 20]);
        let failure = Failure { kind: FailureKind::Limit, message: "too much".into() };
        let mut bytes = Vec::new();
        write_tip(&mut bytes, "abc").expect("because memory takes it");
        write_object(&mut bytes, &id, ObjectKind::Blob, b"hello").expect("because memory takes it");
        write_failure(&mut bytes, &failure).expect("because memory takes it");
        let mut input = bytes.as_slice();
        assert_eq!(read(&mut input).await.expect("because it is whole"), Frame::Tip("abc".into()));
        let object = Frame::Object(id, ObjectKind::Blob, b"hello".to_vec());
        assert_eq!(read(&mut input).await.expect("because it is whole"), object);
        assert_eq!(read(&mut input).await.expect("because it is whole"), Frame::Failure(failure));
        assert!(read(&mut input).await.is_err(), "the stream ended without a last frame");
    }

    #[tokio::test]
    async fn a_kept_object_takes_little_more_memory_than_its_bytes() {
        let (id, content) = (ObjectId::Sha1([3; 20]), vec![7; 600_000]);
        let mut bytes = Vec::new();
        write_object(&mut bytes, &id, ObjectKind::Blob, &content).expect("because memory takes it");
        let Frame::Object(_, _, read) = read(&mut bytes.as_slice()).await.expect("because it is whole") else {
            panic!("it was written as an object")
        };
        assert!(read == content && read.capacity() < content.len() * 11 / 10, "{}", read.capacity());
    }

    #[tokio::test]
    async fn a_claimed_length_costs_nothing_and_crooked_frames_are_errors() {
        for bytes in [
            &b"O\xff\xff\xff\xff"[..],
            b"O\0\0\0\x05xx",
            b"O\0\0\0\0",
            b"O\0\0\0\x02c\xff",
            b"?\0\0\0\0",
            b"F\0\0\0\x01x",
            b"D\0\0\0\x01x",
            b"D\0\0\0\x0211",
            b"D\0\0\0\0",
        ] {
            assert!(read(&mut &bytes[..]).await.is_err(), "{bytes:?} was taken");
        }
    }
}
