//! One line per request: who, by which key, did what, with what result. Never holds bodies or tokens.

use crate::caller::Caller;
use crate::request::RequestInfo;
use std::time::Duration;

/// Writes the line. Changes and refusals at info, the rest at debug.
pub(crate) fn record(info: &RequestInfo, caller: Option<&Caller>, status: u16, elapsed: Duration) {
    let user = caller.map_or("", |c| c.user.as_str());
    let key = caller.map_or("", |c| c.key.as_str());
    let (verb, path, milliseconds) = (info.verb.as_str(), info.path.as_str(), elapsed.as_millis());
    let in_process = key.is_empty() && !user.is_empty();
    let notable = matches!(status, 401 | 403 | 500..) || (!info.verb.is_read() && !in_process);
    if notable {
        tracing::info!(target: "audit", user, key, verb, path, status, milliseconds, "request");
    } else {
        tracing::debug!(target: "audit", user, key, verb, path, status, milliseconds, "request");
    }
}
