//! What runs around a container's life, and the requests that probes make: commands, HTTP, TCP.

use crate::node::Node;
use crate::runtime::{ContainerId, Runtime};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::time::Duration;
use tokio::net::TcpStream;

/// Bytes of a probe's answer that are read; what it says goes into an event.
const ANSWER_LIMIT: usize = 10 * 1024;
/// Longest a hook may take when the pod's grace does not end it sooner.
const HOOK_LIMIT: Duration = Duration::from_secs(300);

/// What a container can be asked.
pub(crate) enum Question<'a> {
    /// Run a command.
    Exec(&'a ExecAction),
    /// Ask by HTTP.
    Http(&'a HTTPGetAction),
    /// Connect.
    Tcp(&'a TCPSocketAction),
    /// Wait.
    Sleep(Duration),
    /// Something this version does not know.
    Unknown,
}

impl<'a> Question<'a> {
    /// Reads a hook.
    #[must_use]
    pub(crate) fn of_hook(hook: &'a LifecycleHandler) -> Self {
        let sleep = hook.sleep.as_ref().and_then(|sleep| u64::try_from(sleep.seconds).ok()).map(Duration::from_secs);
        match (&hook.exec, &hook.http_get, &hook.tcp_socket, sleep) {
            (Some(exec), ..) => Self::Exec(exec),
            (None, Some(http), ..) => Self::Http(http),
            (None, None, Some(tcp), _) => Self::Tcp(tcp),
            (None, None, None, Some(sleep)) => Self::Sleep(sleep),
            (None, None, None, None) => Self::Unknown,
        }
    }
}

/// A container and where it is reached.
pub(crate) struct Asked<'a> {
    /// The node.
    pub(crate) node: &'a Node,
    /// The container.
    pub(crate) id: &'a ContainerId,
    /// Its specification, for the names of ports.
    pub(crate) container: &'a Container,
    /// The pod's address.
    pub(crate) address: &'a str,
}

impl Asked<'_> {
    /// Asks and waits at most `limit`; the error says what was wrong, for an event.
    ///
    /// # Errors
    /// When the answer is no, late or none.
    pub(crate) async fn ask(&self, question: &Question<'_>, limit: Duration) -> Result<(), String> {
        let late = || format!("no answer within {} s", limit.as_secs());
        match question {
            Question::Exec(exec) => self.exec(exec, limit).await,
            Question::Http(get) => tokio::time::timeout(limit, self.http(get)).await.unwrap_or_else(|_| Err(late())),
            Question::Tcp(tcp) => tokio::time::timeout(limit, self.tcp(tcp)).await.unwrap_or_else(|_| Err(late())),
            Question::Sleep(length) => {
                tokio::time::sleep((*length).min(limit)).await;
                Ok(())
            }
            Question::Unknown => Err("this version knows exec, httpGet, tcpSocket and sleep only".to_owned()),
        }
    }

    /// Runs a hook to its end.
    ///
    /// # Errors
    /// When it fails; the text is for an event.
    pub(crate) async fn hook(&self, hook: &LifecycleHandler, limit: Duration) -> Result<(), String> {
        self.ask(&Question::of_hook(hook), limit.min(HOOK_LIMIT)).await
    }

    async fn exec(&self, exec: &ExecAction, limit: Duration) -> Result<(), String> {
        let command = exec.command.clone().unwrap_or_default();
        let result = self.node.containerd.exec(self.id, &command, limit).await.map_err(|error| error.to_string())?;
        if result.code == 0 {
            return Ok(());
        }
        Err(format!("exit code {}: {}", result.code, String::from_utf8_lossy(&result.output).trim()))
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let named = self.container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
                named.map(|port| port.container_port).or_else(|| name.parse().ok())
            }
        };
        number
            .and_then(|number| u16::try_from(number).ok())
            .ok_or_else(|| format!("{port:?} is no port of the container"))
    }

    fn host<'b>(&'b self, host: Option<&'b String>) -> &'b str {
        host.map(String::as_str).filter(|host| !host.is_empty()).unwrap_or(self.address)
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        TcpStream::connect((host, port)).await.map_err(|error| format!("cannot connect to {host}:{port}: {error}"))
    }

    async fn tcp(&self, tcp: &TCPSocketAction) -> Result<(), String> {
        self.connect(self.host(tcp.host.as_ref()), self.port(&tcp.port)?).await.map(drop)
    }

    async fn http(&self, get: &HTTPGetAction) -> Result<(), String> {
        let (host, port) = (self.host(get.host.as_ref()), self.port(&get.port)?);
        if get.scheme.as_deref() == Some("HTTPS") {
            return Err("this version does not know HTTPS probes; use tcpSocket or exec".to_owned());
        }
        let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let mut request = http::Request::get(path);
        let headers = get.http_headers.iter().flatten();
        let named_host = headers.clone().any(|header| header.name.eq_ignore_ascii_case("host"));
        if !named_host {
            request = request.header("host", format!("{host}:{port}"));
        }
        request = request.header("user-agent", "kube-probe/cairn").header("accept", "*/*");
        for header in headers {
            request = request.header(&header.name, &header.value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| format!("bad request: {error}"))?;
        let stream = TokioIo::new(self.connect(host, port).await?);
        let failed = |error: hyper::Error| format!("GET {path}: {error}");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(failed)?;
        let exchange = async move {
            let mut answer = sender.send_request(request).await.map_err(failed)?;
            let status = answer.status();
            if status.is_success() || status.is_redirection() {
                return Ok(());
            }
            let mut body = Vec::new();
            while let Some(Ok(frame)) = answer.body_mut().frame().await {
                body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                if body.len() > ANSWER_LIMIT {
                    break;
                }
            }
            Err(format!("HTTP {}: {}", status.as_u16(), String::from_utf8_lossy(&body).trim()))
        };
        // Side by side: the connection may close with the answer, and it ends when the exchange drops its sender.
        let (answer, _closed) = tokio::join!(exchange, connection);
        answer
    }
}
