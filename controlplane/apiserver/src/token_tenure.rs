//! Until when a service account's token is served: the line for streams that go on after their request was let in.
//!
//! A watch, a log or a command is cut off when its token expires, or when the account or the pod that it is bound to is deleted: from then
//! on a new request with it is refused. Upstream lets such streams run on to their own end. Clients get by with it: informers watch
//! again, and with a projected token they do so with the one that the agent renewed.
//!
//! What is not cut off, as upstream: a stream whose authorization was taken away meanwhile. Whether a caller may is judged when a request
//! begins; a watch ends within the hour by itself, a command does not. To throw somebody out at once, delete the account or the pod.

use crate::request::ResourcePath;
use crate::server::Inner;
use crate::storage;
use crate::tenure::Tenure;
use bytes::Bytes;
use controlplane_store::{Event, Store, StoreError};
use controlplane_types::ApiError;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use jiff::Timestamp;
use machined_ids::Revision;
use std::sync::Arc;
use std::time::Duration;

/// What a token hangs on.
pub(crate) struct Bound {
    keys: Vec<Bytes>,
    /// The state in which all of it was there.
    after: Revision,
    /// From when on no request is let in with it, in seconds since 1970.
    ends: i64,
}

impl Bound {
    /// A token that ends at a second. `after` is a revision of the store from before its objects are read.
    pub(crate) const fn new(after: Revision, ends: i64) -> Self {
        Bound { keys: Vec::new(), after, ends }
    }

    /// It is worth something while this object is there.
    pub(crate) fn to(&mut self, server: &Inner, resource: &str, path: &ResourcePath) -> Result<(), ApiError> {
        self.keys.push(storage::key_of(&*server.kind("", "v1", resource)?, path));
        Ok(())
    }

    /// How long its streams go on.
    pub(crate) fn tenure(self, store: Arc<dyn Store>) -> Tenure {
        let bound = Arc::new(self);
        Tenure::new(move || {
            let (bound, store) = (Arc::clone(&bound), Arc::clone(&store));
            Box::pin(async move { bound.over(&*store).await })
        })
    }

    async fn over(&self, store: &dyn Store) -> String {
        let left = self.ends.saturating_sub(Timestamp::now().as_second());
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
        tokio::select! {
            () = tokio::time::sleep(left) => "its service account's token expired".to_owned(),
            gone = self.gone(store) => match gone {
                Ok(()) => "its service account, or the pod that its token is bound to, was deleted".to_owned(),
                // What cannot be watched is not served on; a new request is judged anew.
                Err(error) => format!("whether its service account is still there is not known: {error}"),
            },
        }
    }

    /// Ends when one of the objects is deleted.
    async fn gone(&self, store: &dyn Store) -> Result<(), StoreError> {
        let end = |key: &Bytes| Bytes::from([key.as_ref(), &[0]].concat());
        let watchers = try_join_all(self.keys.iter().map(|key| store.watch(key.clone(), end(key), self.after))).await?;
        let mut deletions: FuturesUnordered<_> = watchers
            .into_iter()
            .map(|mut watcher| {
                async move {
                    while !watcher.next().await?.events.iter().any(|event| matches!(event, Event::Delete { .. })) {}
                    Ok(())
                }
                .boxed()
            })
            .collect();
        deletions.next().await.unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane_store::{LocalStore, Op, Txn};

    const ACCOUNT: &[u8] = b"/serviceaccounts/default/robot";
    const POD: &[u8] = b"/pods/default/web";

    async fn run(store: &LocalStore, op: Op) {
        let txn = Txn { then: vec![op], ..Txn::default() };
        store.txn(txn).await.expect("because the store is in memory");
    }

    async fn put(store: &LocalStore, key: &'static [u8]) {
        run(store, Op::Put(Bytes::from_static(key), Bytes::from_static(b"{}"))).await;
    }

    async fn delete(store: &LocalStore, key: &'static [u8]) {
        run(store, Op::Delete(Bytes::from_static(key))).await;
    }

    /// A token of an account and its pod that ends in ten minutes.
    async fn bound() -> (Arc<LocalStore>, Tenure) {
        let store = Arc::new(LocalStore::new());
        put(&store, ACCOUNT).await;
        put(&store, POD).await;
        let mut bound = Bound::new(store.revision(), Timestamp::now().as_second() + 600);
        bound.keys = vec![Bytes::from_static(ACCOUNT), Bytes::from_static(POD)];
        let tenure = bound.tenure(Arc::clone(&store) as Arc<dyn Store>);
        (store, tenure)
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_account_and_with_the_pod_and_with_nothing_else() {
        for gone in [ACCOUNT, POD] {
            let (store, tenure) = bound().await;
            let over = tenure.over();
            tokio::pin!(over);
            // A change of its own, and what happens to one whose name begins alike.
            put(&store, gone).await;
            put(&store, b"/serviceaccounts/default/robot2").await;
            delete(&store, b"/serviceaccounts/default/robot2").await;
            assert!(over.as_mut().now_or_never().is_none());
            delete(&store, gone).await;
            assert!(over.await.to_string().contains("was deleted"));
        }
    }

    #[tokio::test]
    async fn a_deletion_between_the_check_and_the_stream_is_noticed_also_when_the_name_was_used_again() {
        let (store, tenure) = bound().await;
        delete(&store, ACCOUNT).await;
        put(&store, ACCOUNT).await;
        assert!(tenure.over().await.to_string().contains("was deleted"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_its_token() {
        let (_store, tenure) = bound().await;
        let began = tokio::time::Instant::now();
        assert!(tenure.over().await.to_string().contains("expired"));
        let after = began.elapsed().as_secs();
        assert!((590..=601).contains(&after), "after {after} s");
    }
}
