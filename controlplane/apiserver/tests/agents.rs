//! Logs and commands, as far as the API server goes: which agent is asked, for what, and what comes back.

mod support;

use controlplane_apiserver::{Body, NodeConnector, NodeError, Options, full_body};
use controlplane_store::BoxFuture;
use http::{Request, Response};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use support::{Client, pod};

/// An agent that notes what it is asked, and answers everything alike.
#[derive(Default)]
struct Agent {
    asked: Mutex<Vec<String>>,
}

impl NodeConnector for Agent {
    fn call<'a>(
        &'a self,
        node: &'a str,
        address: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, NodeError>> {
        let line = format!("{node} {address} {}", request.uri());
        self.asked.lock().expect("because no holder of this lock panics").push(line);
        Box::pin(async { Ok(Response::new(full_body("a line\n"))) })
    }
}

async fn cluster(agent: &Arc<Agent>) -> Client {
    let nodes: Arc<dyn NodeConnector> = agent.clone();
    let client = Client::with(Options { nodes: Some(nodes), ..Options::default() }).await;
    let node = json!({"metadata": {"name": "n1"}});
    assert_eq!(client.post("/api/v1/nodes", node).await.0, 201);
    let address = json!({"status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.2.15"}]}});
    let merge = "application/merge-patch+json";
    assert_eq!(client.patch("/api/v1/nodes/n1/status", merge, address).await.0, 200);
    assert_eq!(client.post("/api/v1/namespaces/default/pods", pod("p")).await.0, 201);
    client
}

#[tokio::test]
async fn logs_are_asked_of_the_node_that_has_the_pod() {
    let agent = Arc::new(Agent::default());
    let client = cluster(&agent).await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    let (code, status) = client.get(log).await;
    assert_eq!((code, status["reason"].as_str()), (400, Some("BadRequest")), "no node has it yet: {status}");
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    assert_eq!(client.post("/api/v1/namespaces/default/pods/p/binding", binding).await.0, 201);
    let (code, text) = client.get(&format!("{log}?follow=true&tailLines=5&container=main")).await;
    assert_eq!((code, text), (200, Value::from("a line\n")));
    assert_eq!(client.get(&format!("{log}?container=other")).await.0, 400);
    let asked = agent.asked.lock().expect("because no holder of this lock panics").clone();
    assert_eq!(asked, ["n1 10.0.2.15 /containerLogs/default/p/main?follow=true&tailLines=5"]);
}

#[tokio::test]
async fn commands_need_a_websocket() {
    let client = cluster(&Arc::default()).await;
    for subresource in ["exec", "attach"] {
        let (code, status) =
            client.post(&format!("/api/v1/namespaces/default/pods/p/{subresource}?command=ls"), json!({})).await;
        assert_eq!((code, status["reason"].as_str()), (400, Some("BadRequest")), "{status}");
        assert!(status["message"].as_str().is_some_and(|text| text.contains("WebSocket")), "{status}");
    }
}

#[tokio::test]
async fn without_a_way_to_the_nodes_logs_are_unavailable() {
    let client = Client::new().await;
    client.post("/api/v1/namespaces/default/pods", pod("p")).await;
    assert_eq!(client.get("/api/v1/namespaces/default/pods/p/log").await.0, 503);
}
