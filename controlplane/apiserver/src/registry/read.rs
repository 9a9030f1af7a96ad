//! get, list and watch.

use super::Call;
use crate::body::Body;
use crate::failure::{Failure, too_large_resource_version};
use crate::negotiate::Shape;
use crate::query::{ListOptions, RevisionMatch};
use crate::selection::Selection;
use crate::storage::{self, Stored, collection_prefix};
use crate::watch::{self, Watch};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use controlplane_store::{Consistency, RangeRequest, StoreError};
use controlplane_types::table::IncludeObject;
use controlplane_types::{ApiError, FieldError};
use machined_ids::Revision;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Keys read from the store at once when a selector may drop most of them.
const SELECTED_PAGE: usize = 500;

/// Shortest time after which the server ends a watch that gave no timeout, as upstream; the longest is twice that.
const WATCH_TIMEOUT_MIN: Duration = Duration::from_secs(1800);

/// Longest revision lead of a client over the store that a list waits out: it read from a replica that is ahead of this one.
const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) items: Vec<Value>,
    pub(crate) revision: Revision,
    /// Where the next page begins.
    pub(crate) continue_token: Option<String>,
    /// Known only without selectors.
    pub(crate) remaining: Option<u64>,
}

/// Upstream's continue token: the revision of the first page (-1: read at whatever is current) and the next key.
#[derive(Debug, Serialize, Deserialize)]
struct ContinueToken {
    v: String,
    rv: i64,
    /// Relative to the collection's prefix.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl ContinueToken {
    fn encode(rv: i64, start: &str) -> String {
        let token = ContinueToken { v: TOKEN_VERSION.into(), rv, start: start.into() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("because a token is plain text and a number"))
    }

    fn decode(text: &str) -> Result<ContinueToken, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let token: Option<ContinueToken> = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        token
            .filter(|t| {
                t.v == TOKEN_VERSION && !t.start.is_empty() && (t.rv == -1 || t.rv > 0) && !t.start.contains("../")
            })
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// Reads the object that the path names, or nothing.
pub(crate) async fn current(call: &Call<'_>) -> Result<Option<Stored>, Failure> {
    storage::get(&*call.server.store, call.kind(), &call.path, Consistency::Linearizable).await
}

/// get.
pub(crate) async fn get(call: &Call<'_>, resource_version: Option<u64>) -> Result<Value, Failure> {
    if let Some(asked) = resource_version {
        reach(call, asked).await?;
    }
    let found = current(call).await?;
    found.map(|stored| stored.object).ok_or_else(|| ApiError::not_found(call.kind(), &call.path.name).into())
}

/// list.
pub(crate) async fn list(call: &Call<'_>, options: &ListOptions) -> Result<Page, Failure> {
    let selection = Selection::parse(call.kind(), options)?;
    let prefix = collection_prefix(call.kind(), &call.path.namespace);
    let plan = ReadPlan::of(options, &prefix)?;
    if let Some(asked) = plan.at_least {
        reach(call, asked).await?;
    }
    let (_, end) = storage::whole(&prefix);
    let mut reader = Reader { call, selection, end, limit: options.limit, at: plan.at, prefix, found: vec![] };
    reader.read(plan.start, plan.consistency, options.continue_token.is_some()).await
}

/// How the options say a list is to be read.
struct ReadPlan {
    start: Bytes,
    at: Option<Revision>,
    at_least: Option<u64>,
    consistency: Consistency,
}

impl ReadPlan {
    fn of(options: &ListOptions, prefix: &str) -> Result<ReadPlan, ApiError> {
        let start = Bytes::from(prefix.to_owned());
        if options.revision_match.is_some() && options.resource_version.is_none() {
            return Err(ApiError::bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if let Some(text) = &options.continue_token {
            if options.resource_version.is_some_and(|rv| rv != 0) {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            let token = ContinueToken::decode(text)?;
            let start = Bytes::from(format!("{prefix}{}", token.start));
            let at = u64::try_from(token.rv).ok().map(Revision);
            return Ok(ReadPlan { start, at, at_least: None, consistency: Consistency::Linearizable });
        }
        let exact = options.revision_match == Some(RevisionMatch::Exact)
            || (options.revision_match.is_none() && options.limit > 0);
        let (at, at_least, consistency) = match options.resource_version {
            None => (None, None, Consistency::Linearizable),
            Some(0) if options.revision_match == Some(RevisionMatch::Exact) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            Some(0) => (None, None, Consistency::Local),
            Some(rv) if exact => (Some(Revision(rv)), Some(rv), Consistency::Linearizable),
            Some(rv) => (None, Some(rv), Consistency::Linearizable),
        };
        Ok(ReadPlan { start, at, at_least, consistency })
    }
}

struct Reader<'a> {
    call: &'a Call<'a>,
    selection: Selection,
    end: Bytes,
    /// Zero is none.
    limit: usize,
    at: Option<Revision>,
    prefix: String,
    found: Vec<Value>,
}

impl Reader<'_> {
    async fn read(&mut self, mut start: Bytes, consistency: Consistency, paging: bool) -> Result<Page, Failure> {
        let everything = self.selection.is_everything();
        loop {
            let chunk = match (self.limit, everything) {
                (0, _) => None,
                (limit, true) => Some(limit),
                (limit, false) => Some(limit.max(SELECTED_PAGE)),
            };
            let request = RangeRequest { start: start.clone(), end: self.end.clone(), limit: chunk, at: self.at };
            let answer = self.call.server.store.range(request, consistency).await;
            let answer = answer.map_err(|error| match error {
                StoreError::Compacted { .. } if paging => {
                    Failure::Expired { token: ContinueToken::encode(-1, &self.relative(&start)) }
                }
                error => error.into(),
            })?;
            // Every later page is read at the revision of the first.
            let revision = *self.at.get_or_insert(answer.revision);
            let read = answer.entries.len() as u64;
            for (index, entry) in answer.entries.iter().enumerate() {
                let object = storage::decode(self.call.kind(), entry)?.object;
                if !everything && !self.selection.matches(self.call.kind(), &object) {
                    continue;
                }
                self.found.push(object);
                let left = answer.count.saturating_sub(index as u64 + 1);
                if self.limit > 0 && self.found.len() == self.limit && left > 0 {
                    return Ok(self.page(revision, Some(&entry.key), everything.then_some(left)));
                }
            }
            match answer.entries.last() {
                Some(last) if answer.count > read => start = after(&last.key),
                Some(_) | None => return Ok(self.page(revision, None, None)),
            }
        }
    }

    fn page(&mut self, revision: Revision, last: Option<&Bytes>, remaining: Option<u64>) -> Page {
        let rv = i64::try_from(revision.0).unwrap_or(-1);
        let continue_token = last.map(|key| ContinueToken::encode(rv, &self.relative(&after(key))));
        Page { items: std::mem::take(&mut self.found), revision, continue_token, remaining }
    }

    fn relative(&self, key: &Bytes) -> String {
        let rest = key.strip_prefix(self.prefix.as_bytes()).unwrap_or(key);
        String::from_utf8_lossy(rest).into_owned()
    }
}

/// The first key after this one.
fn after(key: &Bytes) -> Bytes {
    let mut next = key.to_vec();
    next.push(0);
    Bytes::from(next)
}

/// Waits for the store to reach a revision that the client has already seen elsewhere.
async fn reach(call: &Call<'_>, asked: u64) -> Result<(), Failure> {
    let store = &call.server.store;
    if store.revision().0 >= asked {
        return Ok(());
    }
    // A linearizable read brings this replica at least to where the cluster is now.
    let read = store.range(RangeRequest::key("/registry/"), Consistency::Linearizable);
    let answer = tokio::time::timeout(FRESHNESS_WAIT, read).await;
    let current = answer.map_err(|_| too_large_resource_version(asked, store.revision().0))??.revision;
    if current.0 >= asked { Ok(()) } else { Err(too_large_resource_version(asked, current.0).into()) }
}

/// watch, as a streaming body.
pub(crate) async fn watch(
    call: &Call<'_>,
    options: &ListOptions,
    shape: Shape,
    include_object: IncludeObject,
) -> Result<Body, Failure> {
    let selection = Selection::parse(call.kind(), options)?;
    let wants_initial = options.send_initial_events == Some(true);
    if options.send_initial_events.is_some() && options.revision_match != Some(RevisionMatch::NotOlderThan) {
        let error = FieldError::forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
        return Err(ApiError::invalid(call.kind(), "", vec![error]).into());
    }
    let prefix = collection_prefix(call.kind(), &call.path.namespace);
    let (start, end) = storage::whole(&prefix);
    // No revision, and zero, mean "the state now, then changes"; sendInitialEvents asks for the same with a mark at its end.
    let begins_with_state = options.send_initial_events.unwrap_or(matches!(options.resource_version, None | Some(0)));
    let (initial, after) = if begins_with_state {
        let at_least = options.resource_version.filter(|rv| *rv > 0);
        let plain = ListOptions { resource_version: at_least, revision_match: None, limit: 0, ..options.clone() };
        let page = list(call, &plain).await?;
        (page.items, page.revision)
    } else {
        let store_now = call.server.store.revision();
        (vec![], options.resource_version.filter(|rv| *rv > 0).map_or(store_now, Revision))
    };
    reach(call, after.0).await?;
    let watcher = call.server.store.watch(start, end, after).await?;
    let watch = Watch {
        kind: Arc::clone(&call.kind),
        selection,
        shape,
        include_object,
        bookmarks: options.bookmarks,
        initial,
        initial_end: (wants_initial && options.bookmarks).then_some(after),
        timeout: timeout(options),
    };
    Ok(watch::body(watch, watcher))
}

fn timeout(options: &ListOptions) -> Duration {
    match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        // Spread, so that a crowd of clients does not come back at one instant.
        Some(_) | None => WATCH_TIMEOUT_MIN.mul_f64(1.0 + crate::random::fraction()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_have_upstreams_form() {
        let text = ContinueToken::encode(7, "default/a\0");
        let bytes = URL_SAFE_NO_PAD.decode(&text).expect("because it was just encoded");
        assert_eq!(bytes, br#"{"v":"meta.k8s.io/v1","rv":7,"start":"default/a\u0000"}"#);
        let token = ContinueToken::decode(&text).expect("because it was just encoded");
        assert_eq!((token.rv, token.start.as_str()), (7, "default/a\0"));
    }

    #[test]
    fn a_token_that_we_did_not_make_is_refused() {
        let of = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let cases = [
            "%%%".to_owned(),
            of("{}"),
            of(r#"{"v":"v9","rv":1,"start":"a"}"#),
            of(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            of(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
        ];
        for text in cases {
            assert_eq!(ContinueToken::decode(&text).map(|t| t.rv).map_err(|e| e.code()), Err(400), "{text}");
        }
    }
}
