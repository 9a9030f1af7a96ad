//! A watch as a sequence of typed events: one JSON object a line.

use crate::error::{ClientError, RawStatus, Status};
use crate::object::Object;
use crate::transport::Body;
use bytes::BytesMut;
use http_body_util::BodyExt;
use serde::Deserialize;
use std::marker::PhantomData;

/// Bytes of one event; twice the largest object, for what its JSON may escape.
const LINE_LIMIT: usize = 4 * 1024 * 1024;

/// What happened to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent<K> {
    /// It is there now, or is selected now.
    Added(K),
    /// It changed.
    Modified(K),
    /// It is gone, or no longer selected; as it was last.
    Deleted(K),
    /// Everything up to this resource version was delivered.
    Bookmark(String),
}

/// A running watch. Dropping it ends it.
pub struct WatchStream<K> {
    request: String,
    body: Body,
    buffer: BytesMut,
    object: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct OnlyMetadata {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

impl<K: Object> WatchStream<K> {
    pub(crate) fn new(request: String, body: Body) -> Self {
        WatchStream { request, body, buffer: BytesMut::new(), object: PhantomData }
    }

    /// The next event; `None` when the server ended the watch. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with "expired" when the resource version is too old: list again. See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<WatchEvent<K>>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.event(&line).map(Some);
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(ClientError::TooLarge { request: self.request.clone(), limit: LINE_LIMIT });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(source)) => return Err(ClientError::Body { request: self.request.clone(), source }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn event(&self, line: &[u8]) -> Result<WatchEvent<K>, ClientError> {
        let decode = |source| ClientError::Decode { request: self.request.clone(), source };
        let raw: RawEvent<'_> = serde_json::from_slice(line).map_err(decode)?;
        let object = || serde_json::from_str(raw.object.get()).map_err(decode);
        match raw.r#type {
            "ADDED" => object().map(WatchEvent::Added),
            "MODIFIED" => object().map(WatchEvent::Modified),
            "DELETED" => object().map(WatchEvent::Deleted),
            "BOOKMARK" => {
                let only: OnlyMetadata = serde_json::from_str(raw.object.get()).map_err(decode)?;
                Ok(WatchEvent::Bookmark(only.metadata.resource_version.unwrap_or_default()))
            }
            _error => {
                let raw: RawStatus = serde_json::from_str(raw.object.get()).map_err(decode)?;
                let status = Box::new(Status::from_raw(500, raw));
                Err(ClientError::Refused { request: self.request.clone(), status })
            }
        }
    }
}
