//! The local store through its public interface, polled by hand: no runtime.

use crate::{
    Condition, Consistency, Event, LocalStore, Op, OpAnswer, RangeRequest, Store, StoreError, Txn, WATCH_BUFFER_LIMIT,
    Watcher,
};
use bytes::Bytes;
use machined_ids::Revision;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future is not ready"),
    }
}

fn waits(watcher: &mut dyn Watcher) -> bool {
    pin!(watcher.next()).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn put(store: &LocalStore, key: &str, value: &str) -> Revision {
    let op = Op::Put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    now(store.txn(Txn { then: vec![op], ..Txn::default() })).expect("because a put succeeds").revision
}

fn watch(store: &LocalStore, after: Revision) -> Result<Box<dyn Watcher>, StoreError> {
    now(store.watch(Bytes::from_static(b"/a/"), Bytes::from_static(b"/a0"), after))
}

#[test]
fn a_write_on_a_stale_revision_is_refused_and_shows_what_stands_there() {
    let store = LocalStore::new();
    let first = put(&store, "/a/x", "1");
    assert_eq!(first, Revision(2));
    let key = Bytes::from_static(b"/a/x");
    let txn = |revision| Txn {
        conditions: vec![Condition::Modified(key.clone(), revision)],
        then: vec![Op::Put(key.clone(), Bytes::from_static(b"2"))],
        otherwise: vec![Op::Get(key.clone())],
    };
    assert!(now(store.txn(txn(first))).expect("because memory does not fail").succeeded);
    let refused = now(store.txn(txn(first))).expect("because memory does not fail");
    assert!(!refused.succeeded);
    assert!(matches!(&refused.ops[..], [OpAnswer::Got(Some(entry))] if entry.value == "2"));
    assert_eq!(refused.revision, Revision(3));
}

#[test]
fn a_watch_joins_history_and_present_without_gap_or_repeat() {
    let store = LocalStore::new();
    let first = put(&store, "/a/x", "1");
    put(&store, "/b/x", "elsewhere");
    put(&store, "/a/y", "2");
    let mut watcher = watch(&store, first).expect("because the revision is kept");
    assert_eq!(watcher.progress(), first);
    put(&store, "/a/x", "3");
    let revisions: Vec<u64> = (0..2).map(|_| now(watcher.next()).expect("because it is there").revision.0).collect();
    assert_eq!(revisions, [4, 5]);
    assert!(waits(&mut *watcher));
    put(&store, "/b/x", "elsewhere");
    assert!(waits(&mut *watcher));
    assert_eq!(watcher.progress(), Revision(6));
}

#[test]
fn a_deletion_is_seen_with_what_was_there_even_after_compaction() {
    let store = LocalStore::new();
    let first = put(&store, "/a/x", "1");
    let delete = Txn { then: vec![Op::Delete(Bytes::from_static(b"/a/x"))], ..Txn::default() };
    now(store.txn(delete)).expect("because memory does not fail");
    store.compact(first).expect("because memory does not fail");
    let mut watcher = watch(&store, first).expect("because the revision is kept");
    let batch = now(watcher.next()).expect("because it is there");
    assert!(matches!(&batch.events[..], [Event::Delete { previous }] if previous.value == "1"));
}

#[test]
fn compacted_and_future_revisions_are_told_apart() {
    let store = LocalStore::new();
    let first = put(&store, "/a/x", "1");
    let second = put(&store, "/a/x", "2");
    store.compact(second).expect("because memory does not fail");
    assert_eq!(watch(&store, first).err(), Some(StoreError::Compacted { asked: first, oldest: second }));
    let next = second.next();
    assert_eq!(watch(&store, next).err(), Some(StoreError::Future { asked: next, current: second }));
    let range = RangeRequest { at: Some(first), ..RangeRequest::key("/a/x") };
    let answer = now(store.range(range, Consistency::Linearizable));
    assert_eq!(answer, Err(StoreError::Compacted { asked: first, oldest: second }));
}

#[test]
fn a_reader_that_is_too_slow_is_told_so() {
    let store = LocalStore::new();
    let mut watcher = watch(&store, store.revision()).expect("because the revision is kept");
    for _ in 0..=WATCH_BUFFER_LIMIT {
        put(&store, "/a/x", "1");
    }
    assert_eq!(now(watcher.next()), Err(StoreError::Lagged));
}

#[test]
fn a_waiting_reader_is_woken_by_its_own_keys_only() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let store = LocalStore::new();
    let mut watcher = watch(&store, store.revision()).expect("because the revision is kept");
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    assert!(pin!(watcher.next()).poll(&mut Context::from_waker(&waker)).is_pending());
    put(&store, "/b/x", "1");
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    put(&store, "/a/x", "1");
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}
