//! A git server on loopback: a folder of bare repositories over smart HTTP, by git's own `git http-backend`.

pub use crate::http::Server;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Serves every repository below `root` for fetching, and for pushing where its `http.receivepack` says so.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(root: &Path, listen: SocketAddr) -> Result<Server> {
    serve_as(root, listen, Arc::default()).await
}

/// How a git server is at the moment; tests change it while it runs.
#[derive(Debug, Default)]
pub struct Manners {
    /// It does not know protocol versions, as behind a proxy that drops the `Git-Protocol` header.
    pub old: AtomicBool,
    /// It answers everything with 503.
    pub ill: AtomicBool,
}

/// As [`serve`], with manners that change.
///
/// # Errors
/// As [`serve`].
pub async fn serve_as(root: &Path, listen: SocketAddr, manners: Arc<Manners>) -> Result<Server> {
    let root: Arc<PathBuf> = Arc::new(root.canonicalize().with_context(|| format!("no folder {}", root.display()))?);
    Server::start(listen, move |request| backend(Arc::clone(&root), Arc::clone(&manners), request)).await
}

async fn backend(root: Arc<PathBuf>, manners: Arc<Manners>, request: Request<Bytes>) -> Result<Response<Bytes>> {
    if manners.ill.load(Ordering::Relaxed) {
        let mut response = Response::new(Bytes::from_static(b"ill\n"));
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    let version = if manners.old.load(Ordering::Relaxed) { "" } else { "git-protocol" };
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_PROJECT_ROOT", root.as_os_str())
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", request.uri().path())
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("CONTENT_TYPE", header(CONTENT_TYPE.as_str()))
        .env("HTTP_CONTENT_ENCODING", header(CONTENT_ENCODING.as_str()))
        .env("GIT_PROTOCOL", header(version))
        .env("CONTENT_LENGTH", request.body().len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .context("starting git http-backend")?;
    let mut stdin = child.stdin.take().context("the child has a stdin")?;
    let body = request.into_body();
    // Written beside the reading: a large request and a large answer would block each other otherwise.
    let feed = tokio::spawn(async move { stdin.write_all(&body).await });
    let output = child.wait_with_output().await?;
    // git may answer without reading all of the request; a broken pipe is then no mistake.
    let _written = feed.await?;
    parse_cgi(&output.stdout)
}

/// Splits a CGI answer into status, headers and body.
fn parse_cgi(output: &[u8]) -> Result<Response<Bytes>> {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").context("git http-backend gave no headers")?;
    let mut status = 200;
    let mut headers = HeaderMap::new();
    for line in std::str::from_utf8(&output[..end])?.lines() {
        let (name, value) = line.split_once(": ").with_context(|| format!("not a header: {line:?}"))?;
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default();
            status = code.parse().with_context(|| format!("not a status: {value:?}"))?;
        } else {
            headers.insert(http::HeaderName::try_from(name)?, value.parse()?);
        }
    }
    let mut response = Response::new(Bytes::copy_from_slice(&output[end + 4..]));
    *response.status_mut() = http::StatusCode::from_u16(status)?;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Runs git in `folder` and returns what it printed.
///
/// # Errors
/// As [`run`].
pub fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    run(folder, "git", arguments)
}

/// Runs git, or a program beside it such as ssh-keygen, and returns what it printed; nobody's own git settings count,
/// and commits are by `Test`.
///
/// # Errors
/// When it cannot be started or fails; its messages are part of the error.
pub fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new(program)
        .current_dir(folder)
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_COUNT", "2")
        .envs([("GIT_CONFIG_KEY_0", "user.name"), ("GIT_CONFIG_VALUE_0", "Test")])
        .envs([("GIT_CONFIG_KEY_1", "user.email"), ("GIT_CONFIG_VALUE_1", "test@example.org")])
        .output()
        .with_context(|| format!("starting {program}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed in {}: {error}", arguments.join(" "), folder.display());
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pushed_commit_can_be_cloned_over_http() {
        let dir = tempfile::tempdir().expect("because there is a temporary folder");
        let bare = dir.path().join("served/demo.git");
        git(dir.path(), &["init", "-q", "--bare", "-b", "main", bare.to_str().expect("because the path is text")])
            .expect("because git can make a repository");
        let work = dir.path().join("work");
        std::fs::create_dir(&work).expect("because the folder is new");
        git(&work, &["init", "-q", "-b", "main"]).expect("because git can make a repository");
        git(&work, &["commit", "-q", "--allow-empty", "-m", "one"]).expect("because an empty commit is allowed");
        git(&work, &["push", "-q", bare.to_str().expect("because the path is text"), "main"])
            .expect("because it is bare");

        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = serve(&dir.path().join("served"), listen).await.expect("because the port is free");
        let url = format!("http://{}/demo.git", server.address());
        let folder = dir.path().to_owned();
        let cloned = tokio::task::spawn_blocking(move || git(&folder, &["ls-remote", &url, "refs/heads/main"]));
        let listed = cloned.await.expect("because the task does not panic").expect("because the server answers");
        let head = git(&work, &["rev-parse", "HEAD"]).expect("because there is a commit");
        assert!(listed.starts_with(&head), "{listed:?} does not name {head}");
    }
}
