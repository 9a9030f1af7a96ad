//! The agent's endpoint over real TLS: logs, commands, and who may ask; and a containerd that dies in between.

mod support;

use controlplane_agent::Doorkeeper;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use machined_access::tls::{self, ServerKeys};
use machined_access::{IdentityKey, Leaf, LeafKey, Peer};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{PATIENCE, TestNode, create, is_ready, log_when, pod_when, programs};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Lets in who shows a leaf for the service `controlplane`, whoever signed it.
struct Door(Arc<ServerConfig>);

impl Doorkeeper for Door {
    fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }

    fn admits(&self, certificates: &[CertificateDer<'static>]) -> bool {
        let peer = tls::peer(Some(certificates), UnixTime::now());
        matches!(peer, Peer::Machine { service, .. } if service == "controlplane")
    }
}

fn leaf(service: &str) -> Leaf {
    let because = "because the system has randomness";
    let (identity, key) = (IdentityKey::generate().expect(because), LeafKey::generate().expect(because));
    let names = [tls::MACHINE_NAME.to_owned()];
    let chain = identity.issue_leaf(&key.spki(), service, &names, jiff::Timestamp::now()).expect(because);
    key.with_chain(chain)
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10250))
}

async fn node_with_endpoint() -> TestNode {
    let (web, pause) = programs();
    let mut node = TestNode::start(&web, &pause).await;
    let keys = ServerKeys::new(leaf("controlplane")).expect("because the key can sign");
    let config = tls::server_config(keys, &["http/1.1"]).expect("because the provider has all versions");
    node.config.endpoint = Some((address(), Arc::new(Door(Arc::new(config)))));
    node.run_agent(&node.supervisor.clone()).await;
    node
}

type Tls = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

async fn connect(service: &str) -> Tls {
    let config = tls::client_config(|_any| true, Some(leaf(service)), &["http/1.1"]).expect("because the key can sign");
    let stream = tokio::net::TcpStream::connect(address()).await.expect("because the agent listens");
    let name = ServerName::try_from(tls::MACHINE_NAME).expect("because it is a name");
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .expect("because any identity will do")
}

/// Status and body of a GET.
async fn get(service: &str, path: &str) -> (u16, String) {
    let stream = connect(service).await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("because the connection is open");
    let request = http::Request::get(path).header("host", "agent").body(Empty::<bytes::Bytes>::new());
    let answer = async move {
        let answer = sender.send_request(request.expect("because the path is one")).await.expect("because it answers");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("because it is whole").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    let (answer, _closed) = tokio::join!(answer, connection);
    answer
}

/// A command's session, as kubectl opens it.
async fn open(path: &str) -> WebSocketStream<Tls> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = connect("controlplane").await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("because the connection is open");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("because the agent answers"));
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the accept key is that of RFC 6455: {head}");
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

/// What a session sent on a channel until its end, and its status.
async fn finish(socket: &mut WebSocketStream<Tls>) -> (String, String, serde_json::Value) {
    let (mut out, mut err, mut status) = (Vec::new(), Vec::new(), serde_json::Value::Null);
    let all = async {
        while let Some(Ok(message)) = socket.next().await {
            match message.into_data().as_ref() {
                [1, bytes @ ..] => out.extend_from_slice(bytes),
                [2, bytes @ ..] => err.extend_from_slice(bytes),
                [3, bytes @ ..] => status = serde_json::from_slice(bytes).expect("because a status is JSON"),
                _close => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("because the command ends");
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned(), status)
}

#[test]
fn logs_and_commands_reach_the_control_plane_and_nobody_else() {
    support::on_a_machine(async {
        let node = node_with_endpoint().await;
        create(&node, "web", json!({ "containers": [{ "name": "c", "image": "demo/web:1" }] })).await;
        let pod = pod_when(&node, "web", is_ready).await;
        log_when(&node, &pod, "c", 0, "hello web listens\n").await;
        let logs = "/containerLogs/default/web/c";
        assert_eq!(get("controlplane", &format!("{logs}?tailLines=1")).await, (200, "hello web listens\n".into()));
        assert_eq!(get("controlplane", &format!("{logs}?previous=true")).await.0, 400);
        assert_eq!(get("controlplane", "/containerLogs/default/web/other").await.0, 400);
        assert_eq!(get("controlplane", "/containerLogs/default/nobody/c").await.0, 404);
        assert_eq!(get("gitsync", logs).await.0, 403);
        assert_eq!(get("controlplane", "/healthz").await, (200, "ok".into()));

        let mut cat = open("/exec/default/web/c?command=/web&command=cat&stdin=true&stdout=true&stderr=true").await;
        cat.send(Message::binary(b"\x00hello ".to_vec())).await.expect("because the session is open");
        cat.send(Message::binary(b"\x00there".to_vec())).await.expect("because the session is open");
        cat.send(Message::binary(b"\xff\x00".to_vec())).await.expect("because the session is open");
        let (out, _err, status) = finish(&mut cat).await;
        assert_eq!((out.as_str(), status["status"].as_str()), ("hello there\n", Some("Success")), "{status}");

        // Several times: a program that ends at once must not take its output along.
        for _ in 0..5 {
            let mut bad = open("/exec/default/web/c?command=/web&command=exit&command=7&stdout=true").await;
            let (out, _err, status) = finish(&mut bad).await;
            assert_eq!((out.as_str(), status["details"]["causes"][0]["message"].as_str()), ("goodbye\n", Some("7")));
        }

        let mut none = open("/exec/default/web/c?command=/nothing&stdout=true").await;
        assert_eq!(finish(&mut none).await.2["status"], "Failure");

        let mut terminal =
            open("/exec/default/web/c?command=/web&command=env&command=HOSTNAME&stdout=true&tty=true").await;
        terminal.send(Message::binary(b"\x04{\"Width\":80,\"Height\":24}".to_vec())).await.expect("because it is open");
        assert_eq!(finish(&mut terminal).await.0, "web\r\n");
        node.remove_all_pods().await;
    });
}

#[test]
fn containers_outlive_containerd_and_are_watched_again() {
    support::on_a_machine(async {
        let mut node = node_with_endpoint().await;
        create(&node, "web", json!({ "containers": [{ "name": "c", "image": "demo/web:1" }] })).await;
        let before = pod_when(&node, "web", is_ready).await;
        node.containerd.restart();
        let statuses = |pod: &k8s_openapi::api::core::v1::Pod| {
            let statuses = pod.status.clone().and_then(|status| status.container_statuses).unwrap_or_default();
            statuses.into_iter().next().unwrap_or_default()
        };
        // A container that ends after the restart is noticed, collected and started again.
        let kill = async {
            loop {
                let (status, _body) = get("controlplane", "/healthz").await;
                assert_eq!(status, 200);
                let pid = node.pid_of("/web");
                if let Some(pid) = pid {
                    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                        .expect("because it runs");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, kill).await.expect("because the container still runs");
        let after = pod_when(&node, "web", |pod| statuses(pod).restart_count == 1 && is_ready(pod)).await;
        assert_ne!(statuses(&before).container_id, statuses(&after).container_id);
        let ended = statuses(&after).last_state.and_then(|state| state.terminated).map(|ended| ended.exit_code);
        assert_eq!(ended, Some(137));
        log_when(&node, &after, "c", 1, "listens\n").await;
        node.remove_all_pods().await;
    });
}
