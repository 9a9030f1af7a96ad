//! How long a caller may be served: put on a request by whoever knows, and laid over every answer that streams.
//!
//! What ends is cut, not finished: a client must not take a log or a watch for complete that was taken away from its reader.

use crate::body::{Body, BoxError};
use bytes::Bytes;
use controlplane_store::BoxFuture;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame};
use std::fmt;
use std::sync::Arc;

/// Request extension beside [`crate::Caller`]: says when the caller may not be served any longer. Without one there is no end.
#[derive(Clone)]
pub struct Tenure(Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>);

/// The caller may not be served any longer.
#[derive(Debug, thiserror::Error)]
#[error("the stream was ended: {0}")]
pub(crate) struct Over(String);

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenure")
    }
}

impl Tenure {
    /// `over` makes a future that ends, with the reason, when the caller may not be served any longer.
    #[must_use]
    pub fn new(over: impl Fn() -> BoxFuture<'static, String> + Send + Sync + 'static) -> Self {
        Tenure(Arc::new(over))
    }

    /// Ends when the caller may not be served any longer.
    pub(crate) async fn over(&self) -> Over {
        Over((self.0)().await)
    }
}

/// The end of a tenure that may not be there.
pub(crate) async fn over(tenure: Option<&Tenure>) -> Over {
    match tenure {
        Some(tenure) => tenure.over().await,
        None => std::future::pending().await,
    }
}

/// A body that breaks off when the tenure is over. One whose bytes are all there already is left as it is.
pub(crate) fn bound(body: Body, tenure: Option<Tenure>) -> Body {
    let Some(tenure) = tenure.filter(|_| body.size_hint().exact().is_none()) else { return body };
    let over: BoxFuture<'static, Over> = Box::pin(async move { tenure.over().await });
    StreamBody::new(stream::unfold(Some((body, over)), next)).boxed_unsync()
}

type Running = Option<(Body, BoxFuture<'static, Over>)>;

async fn next(running: Running) -> Option<(Result<Frame<Bytes>, BoxError>, Running)> {
    let (mut body, mut end) = running?;
    tokio::select! {
        biased;
        over = &mut end => {
            tracing::info!(reason = over.0, "a stream is cut off");
            Some((Err(over.into()), None))
        }
        frame = body.frame() => frame.map(|frame| (frame, Some((body, end)))),
    }
}
