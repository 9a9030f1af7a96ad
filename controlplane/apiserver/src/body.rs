//! Request and response bodies: one boxed shape for HTTP and in-process calls, with bounded reading.
//!
//! Never reads more than a stated limit into memory.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

/// Any error that a body may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streaming body in either direction; the same type as the client crate's.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Largest request body in bytes: what upstream accepts (3 MiB); a larger one is answered with 413.
pub const REQUEST_BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadBodyError {
    /// It is longer than [`REQUEST_BODY_LIMIT`].
    #[error("the request body is larger than {REQUEST_BODY_LIMIT} bytes")]
    TooLarge,
    /// The client went away or broke the protocol.
    #[error("the request body could not be read")]
    Broken(#[source] BoxError),
}

/// Reads a whole request body.
pub(crate) async fn read(mut body: Body) -> Result<Bytes, ReadBodyError> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers carry nothing that is looked at.
        let Ok(data) = frame.map_err(ReadBodyError::Broken)?.into_data() else { continue };
        if read.len() + data.len() > REQUEST_BODY_LIMIT {
            return Err(ReadBodyError::TooLarge);
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// A body without bytes.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of known bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
