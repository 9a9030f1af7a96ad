//! The facade with etcd's own messages over gRPC: what its clients rely on.

use bytes::Bytes;
use controlplane_replica::{Alone, Folder, LEASES, Member, Options, Replica};
use std::net::SocketAddr;
use std::sync::Arc;
use tests_etcd_facade::pb::{self, compare, request_op, response_op, watch_request};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Channel;

struct Lab {
    kv: pb::kv_client::KvClient<Channel>,
    watch: pb::watch_client::WatchClient<Channel>,
    channel: Channel,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("because /tmp can be written");
        let options = Options {
            files: Arc::new(Folder::create(folder.path()).expect("because /tmp can be written")),
            id: 1,
            member: Member::default(),
            bootstrap: true,
            peers: Arc::new(Alone),
            speaks: LEASES,
        };
        let store = Replica::open(options).await.expect("because the folder is empty");
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = tokio::net::TcpListener::bind(loopback).await.expect("because loopback has free ports");
        let address = listener.local_addr().expect("because it is bound");
        let server =
            tonic::transport::Server::builder().add_routes(tests_etcd_facade::routes(store, folder.path().to_owned()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = endpoint.expect("because it is a URL").connect().await.expect("because it is served");
        let kv = pb::kv_client::KvClient::new(channel.clone());
        let watch = pb::watch_client::WatchClient::new(channel.clone());
        Lab { kv, watch, channel, _folder: folder }
    }

    async fn put(&mut self, key: &str, value: &str) -> pb::PutResponse {
        let answer = self.kv.put(put(key, value)).await;
        answer.expect("because it is a good put").into_inner()
    }

    async fn range(&mut self, request: pb::RangeRequest) -> pb::RangeResponse {
        self.kv.range(request).await.expect("because it is a good range").into_inner()
    }

    async fn txn(&mut self, compare: Vec<pb::Compare>, success: Vec<pb::RequestOp>) -> pb::TxnResponse {
        let failure = vec![get("a")];
        let answer = self.kv.txn(pb::TxnRequest { compare, success, failure }).await;
        answer.expect("because it is a good transaction").into_inner()
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: text(key), value: text(value), prev_kv: true, ..Default::default() }
}

fn all(prefix: &str) -> pb::RangeRequest {
    let range_end = controlplane_store::prefix_end(prefix.as_bytes());
    pb::RangeRequest { key: text(prefix), range_end, ..Default::default() }
}

fn op(request: request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn get(key: &str) -> pb::RequestOp {
    op(request_op::Request::RequestRange(pb::RangeRequest { key: text(key), ..Default::default() }))
}

fn value_is(key: &str, value: &str) -> pb::Compare {
    pb::Compare {
        target: compare::CompareTarget::Value.into(),
        key: text(key),
        target_union: Some(compare::TargetUnion::Value(text(value))),
        ..Default::default()
    }
}

fn keys(response: &pb::RangeResponse) -> Vec<&str> {
    response.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).expect("because they are text")).collect()
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("because there is a header").revision
}

#[tokio::test]
async fn puts_count_and_old_revisions_can_be_read_until_they_are_compacted() {
    let mut lab = Lab::new().await;
    let first = revision(&lab.put("a", "1").await.header);
    assert_eq!(first, 2, "an empty store is at 1, as etcd's is");
    let second = lab.put("a", "2").await;
    assert_eq!(second.prev_kv.expect("because there was one").value, "1");
    let now = lab.range(pb::RangeRequest { key: text("a"), ..Default::default() }).await;
    let kv = &now.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, &kv.value[..]), (2, 3, 2, &b"2"[..]));
    let then = pb::RangeRequest { key: text("a"), revision: first, ..Default::default() };
    assert_eq!(lab.range(then.clone()).await.kvs[0].value, "1");
    lab.kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.expect("because it is newer");
    let compacted = lab.kv.range(then).await.expect_err("because it was compacted");
    assert_eq!(compacted.code(), Code::OutOfRange);
    assert_eq!(compacted.message(), "etcdserver: mvcc: required revision has been compacted");
    for wrong in [3, 99] {
        let refused = lab.kv.compact(pb::CompactionRequest { revision: wrong, physical: false }).await;
        assert_eq!(refused.expect_err("because it is done, or to come").code(), Code::OutOfRange, "{wrong}");
    }
}

#[tokio::test]
async fn ranges_are_limited_sorted_counted_and_deleted() {
    let mut lab = Lab::new().await;
    for (key, value) in [("/a", "3"), ("/b", "1"), ("/c", "2"), ("x", "0")] {
        lab.put(key, value).await;
    }
    let limited = lab.range(pb::RangeRequest { limit: 2, ..all("/") }).await;
    assert_eq!((keys(&limited), limited.more, limited.count), (vec!["/a", "/b"], true, 3));
    let mut by_value = pb::RangeRequest { limit: 2, ..all("/") };
    by_value.set_sort_target(pb::range_request::SortTarget::Value);
    by_value.set_sort_order(pb::range_request::SortOrder::Descend);
    let sorted = lab.range(by_value).await;
    assert_eq!((keys(&sorted), sorted.more), (vec!["/a", "/c"], true));
    let counted = lab.range(pb::RangeRequest { count_only: true, ..all("/") }).await;
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 3, false));
    let everything = pb::RangeRequest { key: text("\0"), range_end: text("\0"), keys_only: true, ..Default::default() };
    let everything = lab.range(everything).await;
    assert_eq!(keys(&everything), ["/a", "/b", "/c", "x"]);
    assert!(everything.kvs.iter().all(|kv| kv.value.is_empty()));
    let newest = lab.range(pb::RangeRequest { min_mod_revision: 4, ..all("/") }).await;
    assert_eq!(keys(&newest), ["/c"]);
    let pb::RangeRequest { key, range_end, .. } = all("/");
    let deleted = lab.kv.delete_range(pb::DeleteRangeRequest { key, range_end, prev_kv: true }).await;
    let deleted = deleted.expect("because three are few").into_inner();
    assert_eq!((deleted.deleted, deleted.prev_kvs.len(), revision(&deleted.header)), (3, 3, 6));
    assert_eq!(lab.range(all("/")).await.count, 0);
}

#[tokio::test]
async fn a_transaction_compares_what_the_store_itself_does_not() {
    let mut lab = Lab::new().await;
    lab.put("a", "1").await;
    let write = |value| vec![op(request_op::Request::RequestPut(put("a", value))), get("a")];
    let answer = lab.txn(vec![value_is("a", "1")], write("2")).await;
    assert!(answer.succeeded);
    let Some(response_op::Response::ResponsePut(written)) = &answer.responses[0].response else { panic!("{answer:?}") };
    assert_eq!(written.prev_kv.as_ref().expect("because there was one").value, "1");
    let Some(response_op::Response::ResponseRange(read)) = &answer.responses[1].response else { panic!("{answer:?}") };
    assert_eq!((&read.kvs[0].value[..], read.kvs[0].mod_revision), (&b"2"[..], revision(&answer.header)));
    let missed = lab.txn(vec![value_is("a", "1")], write("3")).await;
    assert!(!missed.succeeded);
    assert!(matches!(&missed.responses[0].response, Some(response_op::Response::ResponseRange(r)) if r.count == 1));
    assert_eq!(revision(&missed.header), revision(&answer.header), "nothing was written");
    let twice = vec![write("4").remove(0), write("5").remove(0)];
    let refused = lab.kv.txn(pb::TxnRequest { success: twice, ..Default::default() }).await;
    assert_eq!(
        refused.expect_err("because a key is written twice").message(),
        "etcdserver: duplicate key given in txn request"
    );
}

#[tokio::test]
async fn compared_keys_count_as_one_moment_however_many_write_at_once() {
    let lab = Lab::new().await;
    let writers = (0..8).map(|_| {
        let mut kv = lab.kv.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let found = kv.range(pb::RangeRequest { key: text("n"), ..Default::default() }).await;
                    let found = found.expect("because it is a good range").into_inner();
                    let old: u32 = found.kvs.first().map_or(0, |kv| {
                        std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok()).expect("a number")
                    });
                    let compare = match found.kvs.first() {
                        Some(kv) => value_is("n", std::str::from_utf8(&kv.value).expect("because it is text")),
                        None => pb::Compare {
                            target: compare::CompareTarget::Version.into(),
                            key: text("n"),
                            target_union: Some(compare::TargetUnion::Version(0)),
                            ..Default::default()
                        },
                    };
                    let success = vec![op(request_op::Request::RequestPut(put("n", &(old + 1).to_string())))];
                    let request = pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() };
                    match kv.txn(request).await.map(|answer| answer.into_inner().succeeded) {
                        Ok(true) => break,
                        Ok(false) => {}
                        Err(error) => assert_eq!(error.code(), Code::Aborted, "{error}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("because no writer panics");
    }
    let mut lab = lab;
    let end = lab.range(pb::RangeRequest { key: text("n"), ..Default::default() }).await;
    assert_eq!((&end.kvs[0].value[..], end.kvs[0].version), (&b"80"[..], 80), "no increment was lost");
}

#[tokio::test]
async fn a_watch_shows_each_revision_once_from_wherever_it_starts() {
    let mut lab = Lab::new().await;
    lab.put("/a", "1").await;
    lab.put("x", "unseen").await;
    let pb::RangeRequest { key, range_end, .. } = all("/");
    let create = pb::WatchCreateRequest { key, range_end, start_revision: 2, prev_kv: true, ..Default::default() };
    let request = |union| pb::WatchRequest { request_union: Some(union) };
    let (requests, stream) = tokio::sync::mpsc::channel(8);
    requests
        .send(request(watch_request::RequestUnion::CreateRequest(create.clone())))
        .await
        .expect("because it is open");
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut responses = lab.watch.watch(stream).await.expect("because it is served").into_inner();
    let mut next = async || responses.message().await.expect("because it lives").expect("because it goes on");
    assert!(next().await.created);
    lab.put("/a", "2").await;
    let gone = pb::DeleteRangeRequest { key: text("/a"), ..Default::default() };
    lab.kv.delete_range(gone).await.expect("because it is one key");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = next().await;
        let event = &response.events[0];
        let kv = event.kv.as_ref().expect("because every event has one");
        let before = event.prev_kv.as_ref().map(|kv| kv.value.clone());
        seen.push((revision(&response.header), event.r#type(), kv.mod_revision, before));
    }
    let value = |value: &'static str| Some(Bytes::from_static(value.as_bytes()));
    let put = pb::event::EventType::Put;
    let expected = [(2, put, 2, None), (4, put, 4, value("1")), (5, pb::event::EventType::Delete, 5, value("2"))];
    assert_eq!(seen, expected);

    lab.kv.compact(pb::CompactionRequest { revision: 5, physical: false }).await.expect("because it is newer");
    let late = pb::WatchCreateRequest { watch_id: 7, start_revision: 3, ..create };
    requests.send(request(watch_request::RequestUnion::CreateRequest(late))).await.expect("because it is open");
    assert!(next().await.created);
    let ended = next().await;
    assert!(ended.canceled && ended.watch_id == 7 && ended.compact_revision == 6, "{ended:?}");
    let cancel = pb::WatchCancelRequest { watch_id: 0 };
    requests.send(request(watch_request::RequestUnion::CancelRequest(cancel))).await.expect("because it is open");
    assert!(next().await.canceled);
}

#[tokio::test]
async fn a_lease_is_granted_renewed_listed_and_revoked_with_its_keys() {
    let mut lab = Lab::new().await;
    let mut leases = pb::lease_client::LeaseClient::new(lab.channel.clone());
    let leased = lab.kv.put(pb::PutRequest { lease: 9, ..put("a", "1") }).await;
    assert_eq!(leased.expect_err("because there is no lease").message(), "etcdserver: requested lease not found");
    let granted = leases.lease_grant(pb::LeaseGrantRequest { ttl: 3600, id: 0 }).await.expect("because it is new");
    let id = granted.into_inner().id;
    assert!(id > 0, "it was left to the server");
    let again = leases.lease_grant(pb::LeaseGrantRequest { ttl: 5, id }).await;
    assert_eq!(again.expect_err("because it is taken").message(), "etcdserver: lease already exists");
    for key in ["a", "b"] {
        lab.kv.put(pb::PutRequest { lease: id, ..put(key, "1") }).await.expect("because the lease is there");
    }
    lab.put("b", "without").await;

    let asked = pb::LeaseTimeToLiveRequest { id, keys: true };
    let left = leases.lease_time_to_live(asked).await.expect("because it is served").into_inner();
    assert_eq!((left.granted_ttl, left.keys), (3600, vec![text("a")]));
    assert!((1..=3600).contains(&left.ttl), "{} s are left", left.ttl);
    let renewals = tokio_stream::iter([id, 9].map(|id| pb::LeaseKeepAliveRequest { id }));
    let mut answers = leases.lease_keep_alive(renewals).await.expect("because it is served").into_inner();
    for (id, ttl) in [(id, 3600), (9, 0)] {
        let answer = answers.message().await.expect("because it is served").expect("because two were asked");
        assert_eq!((answer.id, answer.ttl), (id, ttl));
    }
    let listed = leases.lease_leases(pb::LeaseLeasesRequest {}).await.expect("because it is served").into_inner();
    assert_eq!(listed.leases, [pb::LeaseStatus { id }]);

    leases.lease_revoke(pb::LeaseRevokeRequest { id }).await.expect("because it is there");
    let rest = lab.range(pb::RangeRequest { key: text("a"), range_end: text("c"), ..Default::default() }).await.kvs;
    assert_eq!(rest.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), [text("b")]);
    let over = leases.lease_time_to_live(asked).await.expect("because it is served").into_inner();
    assert_eq!((over.ttl, over.keys.len()), (-1, 0));
    let twice = leases.lease_revoke(pb::LeaseRevokeRequest { id }).await;
    assert_eq!(twice.expect_err("because it is over").message(), "etcdserver: requested lease not found");
}

#[tokio::test]
async fn the_member_is_shown_and_what_is_not_served_says_so() {
    let mut lab = Lab::new().await;
    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(lab.channel.clone());
    let status = maintenance.status(pb::StatusRequest {}).await.expect("because it is served").into_inner();
    assert!(status.leader == 1 && status.db_size > 0, "etcdctl divides by the size: {status:?}");
    let ranged = op(request_op::Request::RequestRange(all("/")));
    let refused = lab.kv.txn(pb::TxnRequest { success: vec![ranged], ..Default::default() }).await;
    assert_eq!(refused.expect_err("because a range is more than a key").code(), Code::Unimplemented);
    for number in 0..100 {
        lab.put(&format!("/many/{number}"), "x").await;
    }
    let pb::RangeRequest { key, range_end, .. } = all("/many/");
    let refused = lab.kv.delete_range(pb::DeleteRangeRequest { key, range_end, prev_kv: false }).await;
    assert_eq!(refused.expect_err("because it is too many").code(), Code::Unimplemented);
    let empty = lab.kv.put(put("", "x")).await;
    assert_eq!(empty.expect_err("because there is no key").message(), "etcdserver: key is not provided");
}
