//! From an answer to an HTTP response: shape, encoding, compression, warnings.

use crate::body::{self, Body};
use crate::failure::Failure;
use crate::negotiate::{Encoding, Shape, Wanted};
use crate::registry::Page;
use crate::request::RequestInfo;
use bytes::Bytes;
use controlplane_types::table::{self, IncludeObject};
use controlplane_types::{KindInfo, object};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use std::io::Write;
use std::sync::Arc;

/// Answers below this many bytes are not compressed, as upstream: it costs more than it saves.
const GZIP_MIN: usize = 128 * 1024;

/// What a handler made.
pub(crate) enum Answer {
    /// One object or list, still to be shaped for the client.
    Shaped(Shaped),
    /// JSON that has its shape already.
    Value(u16, Value),
    /// A stream of events.
    Events(Body),
    /// A finished response.
    Raw(Response<Body>),
}

/// Objects with what is needed to shape them.
pub(crate) struct Shaped {
    pub(crate) code: u16,
    pub(crate) kind: Arc<KindInfo>,
    pub(crate) what: What,
    pub(crate) wanted: Wanted,
    pub(crate) warnings: Vec<String>,
}

/// One object or a page of them.
pub(crate) enum What {
    One(Value),
    Page(Page),
}

/// Whether the client can read gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let value = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(',').any(|one| one.trim().split(';').next() == Some("gzip"))
}

/// Writes an answer.
pub(crate) fn response(answer: Answer, info: &RequestInfo, gzip: bool) -> Response<Body> {
    match answer {
        Answer::Shaped(shaped) => {
            let include = IncludeObject::parse(info.query.get("includeObject").unwrap_or_default()).unwrap_or_default();
            let (code, encoding, warnings) = (shaped.code, shaped.wanted.encoding, shaped.warnings.clone());
            let encoded = encode(&shape(shaped, include), encoding);
            let mut response = written(code, encoding, encoded, gzip);
            for warning in &warnings {
                if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", quoted(warning))) {
                    response.headers_mut().append(header::WARNING, value);
                }
            }
            response
        }
        Answer::Value(code, value) => written(code, Encoding::Json, Bytes::from(value.to_string()), gzip),
        Answer::Events(events) => {
            let mut response = Response::new(events);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Answer::Raw(response) => response,
    }
}

/// Writes a failure as a `v1.Status`.
pub(crate) fn failure(failure: &Failure) -> Response<Body> {
    if let Failure::Store(error) = failure {
        tracing::warn!(%error, "the store did not serve a request");
    }
    let (code, status) = failure.status();
    let mut response = written(code, Encoding::Json, Bytes::from(status.to_string()), false);
    let retry_after = failure.retry_after();
    if retry_after > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
    }
    response
}

fn shape(shaped: Shaped, include: IncludeObject) -> Value {
    let kind = &shaped.kind;
    let now = jiff::Timestamp::now();
    let value = match shaped.what {
        What::One(object) => {
            return match shaped.wanted.shape {
                Shape::Object => object,
                Shape::Metadata => object::partial_metadata(&object),
                Shape::Table => table::of_object(kind, &object, include, now),
            };
        }
        What::Page(page) => {
            let next = page.continue_token.unwrap_or_default();
            object::list_of(kind, page.items, page.revision.0, &next, page.remaining)
        }
    };
    match shaped.wanted.shape {
        Shape::Object => value,
        Shape::Metadata => object::partial_metadata_list(&value),
        Shape::Table => table::of_list(kind, &value, include, now),
    }
}

fn encode(value: &Value, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json => Bytes::from(value.to_string()),
        // JSON is YAML: the rare client that asks for YAML only can read it, should the writer fail.
        Encoding::Yaml => Bytes::from(serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string())),
    }
}

fn written(code: u16, encoding: Encoding, bytes: Bytes, gzip: bool) -> Response<Body> {
    let content_type = match encoding {
        Encoding::Json => "application/json",
        Encoding::Yaml => "application/yaml",
    };
    let compressed = if gzip && bytes.len() >= GZIP_MIN { compress(&bytes) } else { None };
    let is_compressed = compressed.is_some();
    let mut response = Response::new(body::full(compressed.unwrap_or(bytes)));
    *response.status_mut() = StatusCode::from_u16(code).expect("because our own status codes are valid");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

fn compress(bytes: &Bytes) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// A quoted string of RFC 9110; what a header cannot hold becomes a question mark.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}
