//! A client of a server in the same process, and the objects that the tests send. Each test file uses a part of it.
#![allow(dead_code, reason = "every test file compiles its own copy and uses what it needs")]

use controlplane_apiserver::{ApiServer, Body, Caller, MASTERS, Options, empty_body, full_body};
use controlplane_store::LocalStore;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for something that a test expects; reached only when it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A caller with a server of its own.
pub(crate) struct Client {
    pub(crate) server: ApiServer,
    pub(crate) store: Arc<LocalStore>,
    pub(crate) caller: Option<Caller>,
}

impl Client {
    /// An admin of a fresh cluster.
    pub(crate) async fn new() -> Client {
        Client::with(Options::default()).await
    }

    /// An admin of a fresh cluster with these options.
    pub(crate) async fn with(options: Options) -> Client {
        let store = Arc::new(LocalStore::new());
        let server = ApiServer::new(store.clone(), options);
        server.bootstrap().await.expect("because an empty store takes the first objects");
        let caller = Some(Caller::authenticated("ada", [MASTERS.to_owned()], "SHA256:test"));
        Client { server, store, caller }
    }

    /// The same cluster, seen by somebody else; `None` is anonymous.
    pub(crate) fn as_caller(&self, caller: Option<Caller>) -> Client {
        Client { server: self.server.clone(), store: self.store.clone(), caller }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call("POST", path, body).await
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.exchange(method, path, "application/json", body).await
    }

    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: Value) -> (u16, Value) {
        self.exchange("PATCH", path, content_type, body).await
    }

    async fn exchange(&self, method: &str, path: &str, content_type: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { empty_body() } else { full_body(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let response = self.send(request.body(body).expect("because the tests send well-formed requests")).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("because answers are whole").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Response<Body> {
        if let Some(caller) = self.caller.clone() {
            request.extensions_mut().insert(caller);
        }
        tokio::time::timeout(PATIENCE, self.server.handle(request)).await.expect("because the server answers in time")
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        let request = Request::get(path).body(empty_body()).expect("because the tests send well-formed requests");
        let response = self.send(request).await;
        assert_eq!(response.status(), 200, "{path}");
        Events { body: response.into_body(), buffer: vec![] }
    }
}

/// The events of a watch.
pub(crate) struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, self.next_patiently()).await.expect("because an event comes in time")
    }

    /// The next event, however long it takes: for tests whose clock is paused.
    pub(crate) async fn next_patiently(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("because each line is one event"));
            }
            let data = self.body.frame().await?.expect("because the stream is whole").into_data();
            self.buffer.extend_from_slice(&data.expect("because a watch has no trailers"));
        }
    }

    /// Type, object name and resource version of the next event.
    pub(crate) async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("because the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"value": value}},
        "data": {"key": value}})
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "example.com/app:1"}]}})
}

pub(crate) fn deployment(name: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "main", "image": "example.com/app:1"}]}},
    }})
}
