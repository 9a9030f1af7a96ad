//! Fetching by HTTP and HTTPS, for artefacts and extensions alike.
//!
//! Whoever calls it takes the bytes as they come and decides whether they are too many; nothing here believes them.

use std::time::Duration;

/// A server that does not take the connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that sends nothing for this long has stopped.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The whole of 1 GiB at 300 kB a second.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(3600);

/// An answer on its way.
pub(crate) struct Answer(reqwest::Response);

/// Asks for a URL.
///
/// # Errors
/// When the server is not there or has no such file.
pub(crate) async fn get(url: &str) -> Result<Answer, reqwest::Error> {
    let client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
    let client = client.timeout(TOTAL_TIMEOUT).build()?;
    client.get(url).send().await.and_then(reqwest::Response::error_for_status).map(Answer)
}

impl Answer {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the server stops before the end that it promised.
    pub(crate) async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, reqwest::Error> {
        self.0.chunk().await
    }
}
