//! An HTTP server of whole requests and whole answers, enough for a git server and a registry in tests.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Largest request body in bytes; a push of a test repository is far smaller.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Requests that a server remembers; the demo's server runs for days.
const REMEMBERED_MAX: usize = 1000;

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<VecDeque<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The newest requests, oldest first, as `GET /path?query`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Serves until the process ends.
    pub async fn forever(mut self) {
        // The task has no end but a panic, which was printed.
        let _ended = (&mut self.task).await;
    }

    pub(crate) async fn start<H, F>(listen: SocketAddr, handler: H) -> Result<Self>
    where
        H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Response<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::new(VecDeque::new()));
        let noted = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, noted) = (handler.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        note(&noted, &request);
                        answer(handler.clone(), request)
                    });
                    let connection = auto::Builder::new(TokioExecutor::new());
                    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%error, "connection ended");
                    }
                });
            }
        });
        Ok(Server { address, requests, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note(requests: &Mutex<VecDeque<String>>, request: &Request<Incoming>) {
    let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
    while requests.len() >= REMEMBERED_MAX {
        requests.pop_front();
    }
    requests.push_back(format!("{} {}", request.method(), request.uri()));
}

async fn answer<H, F>(handler: H, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible>
where
    H: Fn(Request<Bytes>) -> F,
    F: Future<Output = Result<Response<Bytes>>>,
{
    let (head, body) = request.into_parts();
    let response = match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
        Ok(body) => handler(Request::from_parts(head, body.to_bytes())).await,
        Err(error) => Err(anyhow::anyhow!(error)),
    };
    let response = response.unwrap_or_else(|error| {
        let mut response = Response::new(Bytes::from(format!("{error:#}\n")));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    });
    Ok(response.map(Full::new))
}
