//! Sends requests over a [`Transport`] and reads what comes back. Retries nothing: a retried write may happen twice.

use crate::api::Api;
use crate::error::{ClientError, Status};
use crate::object::{DynamicObject, Kind, ResourceKind};
use crate::transport::{Body, Transport, empty_body, full_body};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of an answer read at once; a page of the largest objects fits, a runaway server does not fill memory.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// How long a request but a watch may take: a little longer than the server's own 60 s, so that the server gets to say why.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);

/// A handle to an API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

impl Client {
    /// A client that sends over `transport`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Client { transport }
    }

    /// All objects of a kind: every namespace, or a kind without namespaces.
    #[must_use]
    pub fn all<K: Kind>(&self) -> Api<K> {
        Api::new(self.clone(), K::RESOURCE, None)
    }

    /// The objects of a kind in a namespace.
    #[must_use]
    pub fn namespaced<K: Kind>(&self, namespace: &str) -> Api<K> {
        Api::new(self.clone(), K::RESOURCE, Some(namespace.to_owned()))
    }

    /// The objects of a kind that only the caller knows.
    #[must_use]
    pub fn dynamic(&self, kind: ResourceKind, namespace: Option<&str>) -> Api<DynamicObject> {
        Api::new(self.clone(), kind, namespace.map(str::to_owned))
    }

    /// Sends anything and returns the head with the streaming body, whatever the status. For logs, upgrades, probes.
    ///
    /// # Errors
    /// [`ClientError::Transport`] when nothing came back.
    pub async fn raw(&self, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let name = format!("{} {}", request.method(), request.uri().path());
        self.transport.call(request).await.map_err(|source| ClientError::Transport { request: name, source })
    }

    /// Asks for JSON at a path.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_json<T: DeserializeOwned>(&self, path_and_query: &str) -> Result<T, ClientError> {
        self.exchange(Outgoing::new(Method::GET, path_and_query)).await
    }

    pub(crate) async fn exchange<T: DeserializeOwned>(&self, outgoing: Outgoing<'_>) -> Result<T, ClientError> {
        let request = outgoing.name();
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.collect(outgoing)).await;
        let bytes = answer
            .map_err(|_| ClientError::Timeout { request: request.clone(), seconds: REQUEST_TIMEOUT.as_secs() })??;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { request, source })
    }

    async fn collect(&self, outgoing: Outgoing<'_>) -> Result<Bytes, ClientError> {
        let request = outgoing.name();
        let response = self.start(outgoing).await?;
        read_body(request, response.into_body()).await
    }

    /// Sends a request; a response that is no success becomes [`ClientError::Refused`].
    pub(crate) async fn start(&self, outgoing: Outgoing<'_>) -> Result<Response<Body>, ClientError> {
        let name = outgoing.name();
        let response = self.raw(outgoing.into_request()?).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = read_body(name.clone(), response.into_body()).await?;
        Err(ClientError::Refused { request: name, status: Box::new(Status::read(code, &body)) })
    }
}

async fn read_body(request: String, mut body: Body) -> Result<Bytes, ClientError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Err(source) => return Err(ClientError::Body { request, source }),
            Ok(Ok(data)) if bytes.len() + data.len() > ANSWER_LIMIT => {
                return Err(ClientError::TooLarge { request, limit: ANSWER_LIMIT });
            }
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(_trailers)) => {}
        }
    }
    Ok(bytes.freeze())
}

/// A request being put together.
pub(crate) struct Outgoing<'a> {
    method: Method,
    path: &'a str,
    query: Vec<(&'static str, String)>,
    body: Option<(&'static str, Result<Vec<u8>, serde_json::Error>)>,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Outgoing { method, path, query: Vec::new(), body: None }
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.body("application/json", value)
    }

    pub(crate) fn body<T: Serialize + ?Sized>(mut self, content_type: &'static str, value: &T) -> Self {
        self.body = Some((content_type, serde_json::to_vec(value)));
        self
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn into_request(self) -> Result<Request<Body>, ClientError> {
        let name = self.name();
        let encode = |source| ClientError::Encode { request: name.clone(), source };
        let mut uri = self.path.to_owned();
        for (index, (key, value)) in self.query.iter().enumerate() {
            uri.push(if index == 0 && !self.path.contains('?') { '?' } else { '&' });
            uri.push_str(key);
            uri.push('=');
            percent_encode(&mut uri, value);
        }
        let mut request = Request::builder().method(self.method).uri(uri).header(header::ACCEPT, "application/json");
        let body = match self.body {
            None => empty_body(),
            Some((content_type, bytes)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                full_body(bytes.map_err(|error| encode(error.into()))?)
            }
        };
        request.body(body).map_err(|error| encode(error.into()))
    }
}

/// Appends a query value; everything but RFC 3986's unreserved characters is escaped.
fn percent_encode(uri: &mut String, value: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push('%');
            uri.push(char::from(DIGITS[usize::from(byte >> 4)]));
            uri.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_escaped() {
        let request = Outgoing::new(Method::GET, "/api/v1/pods")
            .query("labelSelector", "app in (a, b)")
            .query("limit", "5")
            .into_request()
            .expect("because the path is a path");
        let query = request.uri().query();
        assert_eq!(query, Some("labelSelector=app%20in%20%28a%2C%20b%29&limit=5"));
    }
}
