//! A git server that attacks: smart HTTP, protocol version 2, on loopback. Each attack is served for real, byte by byte.
//!
//! ```text
//! GET  /x/info/refs?service=git-upload-pack   capabilities          redirects, hangs, another object format
//! POST /x/git-upload-pack command=ls-refs     the branches          lies, symbolic refs, millions of refs
//! POST /x/git-upload-pack command=fetch       acknowledgements,     shallow lies, bombs, missing objects,
//!                                             shallow-info, a pack  bytes that trickle or never end
//! ```
//!
//! Protocol: <https://git-scm.com/docs/protocol-v2>. Called by tests of the fetch child. What is not attacked is honest and comes
//! from a real repository by git itself, so that a fetch fails by the attack and by nothing else.

mod answer;
pub mod pack;

use answer::{Body, answer};
use anyhow::{Context, Result};
use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What the server does wrong.
#[derive(Debug, Clone)]
pub enum Attack {
    /// Nothing: the server is an honest one.
    None,
    /// It says that a ref is at this object.
    RefAt {
        /// Full name of the ref.
        name: String,
        /// Any object id.
        id: String,
    },
    /// It says that a ref is symbolic, and at what it points to.
    Symbolic {
        /// Full name of the ref.
        name: String,
        /// Full name of a branch that exists.
        target: String,
    },
    /// It shows these refs besides the real ones, whether or not they were asked for.
    MoreRefs(Vec<(String, String)>),
    /// It shows so many refs that do not exist.
    ManyRefs(u64),
    /// It declares this object format.
    Format(&'static str),
    /// It declares the wanted commits as shallow: without parents.
    Shallow,
    /// It sends these bytes as the pack.
    Pack(Bytes),
    /// It sends progress messages for ever, and no pack.
    EndlessProgress,
    /// It answers with one byte in this many milliseconds, from a stage on.
    Trickle(Stage, u64),
    /// It stops answering at a stage, with the connection open.
    Hang(Stage),
    /// It answers a stage with these bytes, of the right content type.
    Answer(Stage, Bytes),
    /// It redirects every request there.
    Redirect(String),
}

/// Where in an exchange something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The first request.
    Capabilities,
    /// The list of branches.
    Refs,
    /// The pack.
    Pack,
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct HostileServer {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    repository: PathBuf,
    attack: Mutex<Attack>,
    requests: Mutex<Vec<String>>,
}

impl State {
    fn attack(&self) -> Attack {
        self.attack.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, request: String) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }
}

impl HostileServer {
    /// Serves a bare repository with an attack.
    ///
    /// # Errors
    /// When no port of loopback can be listened on.
    pub async fn start(repository: &Path, attack: Attack) -> Result<Self> {
        HostileServer::listen(repository, attack, None).await
    }

    /// Serves a bare repository with an attack over TLS, with whatever certificate `tls` has.
    ///
    /// # Errors
    /// As [`HostileServer::start`].
    pub async fn start_tls(repository: &Path, attack: Attack, tls: Arc<ServerConfig>) -> Result<Self> {
        HostileServer::listen(repository, attack, Some(TlsAcceptor::from(tls))).await
    }

    async fn listen(repository: &Path, attack: Attack, tls: Option<TlsAcceptor>) -> Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listening on loopback")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            repository: repository.to_owned(),
            attack: Mutex::new(attack),
            requests: Mutex::new(Vec::new()),
        });
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&state)));
        Ok(HostileServer { address, scheme, state, task })
    }

    /// The repository's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}/demo.git", self.scheme, self.address)
    }

    /// Attacks otherwise from now on.
    pub fn attack(&self, attack: Attack) {
        *self.state.attack.lock().unwrap_or_else(PoisonError::into_inner) = attack;
    }

    /// The requests so far: `capabilities`, `ls-refs`, `fetch`, or the path of anything else.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HostileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match tls {
                None => serve(stream, state).await,
                // A client that does not believe the certificate sends nothing.
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, state).await,
                    Err(error) => tracing::debug!(%error, "no handshake"),
                },
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { answer(&state, request).await }
    });
    let connection = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// What hyper sends.
type Response = hyper::Response<Body>;
