//! list and watch, as a client sees them: pages, selectors, revisions, events, bookmarks, tables.

mod support;

use http::{Request, header};
use http_body_util::BodyExt;
use machined_ids::Revision;
use serde_json::{Value, json};
use support::{Client, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_maps(count: usize) -> Client {
    let client = Client::new().await;
    for index in 0..count {
        let value = if index % 2 == 0 { "even" } else { "odd" };
        assert_eq!(client.post(MAPS, config_map(&format!("m{index:02}"), value)).await.0, 201);
    }
    client
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test]
async fn pages_add_up_to_the_state_at_the_first_page() {
    let client = with_maps(7).await;
    let (code, first) = client.get(&format!("{MAPS}?limit=3")).await;
    assert_eq!((code, names(&first)), (200, vec!["m00", "m01", "m02"]));
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    // What happens between pages is not seen in them.
    client.post(MAPS, config_map("m99", "late")).await;
    client.call("DELETE", &format!("{MAPS}/m05"), Value::Null).await;
    let next = |page: &Value| format!("{MAPS}?limit=3&continue={}", text(&page["metadata"]["continue"]));
    let (_, second) = client.get(&next(&first)).await;
    assert_eq!(names(&second), ["m03", "m04", "m05"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (_, third) = client.get(&next(&second)).await;
    assert_eq!(names(&third), ["m06"]);
    assert_eq!(third["metadata"].get("continue"), None);
}

#[tokio::test]
async fn a_page_whose_revision_is_compacted_says_how_to_go_on() {
    let client = with_maps(5).await;
    let (_, first) = client.get(&format!("{MAPS}?limit=2")).await;
    let (_, last) = client.post(MAPS, config_map("m98", "late")).await;
    let now: u64 = text(&last["metadata"]["resourceVersion"]).parse().expect("because versions are numbers");
    client.store.compact(Revision(now)).expect("because memory does not fail");
    let token = text(&first["metadata"]["continue"]);
    let (code, status) = client.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")), "{status}");
    let token = text(&status["metadata"]["continue"]);
    let (code, rest) = client.get(&format!("{MAPS}?continue={token}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["m02", "m03", "m04", "m98"]), "{rest}");
    let (code, status) = client.get(&format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact")).await;
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")), "{status}");
}

#[tokio::test]
async fn selectors_pick_across_pages() {
    let client = with_maps(9).await;
    let cases = [
        ("labelSelector=value%3Dodd", vec!["m01", "m03", "m05", "m07"]),
        ("labelSelector=value%20notin%20(even)&limit=2", vec!["m01", "m03"]),
        ("fieldSelector=metadata.name%3Dm04", vec!["m04"]),
        ("labelSelector=value%3Dodd&fieldSelector=metadata.name!%3Dm03", vec!["m01", "m05", "m07"]),
        ("labelSelector=missing", vec![]),
    ];
    for (query, expected) in cases {
        let (code, list) = client.get(&format!("{MAPS}?{query}")).await;
        assert_eq!((code, names(&list)), (200, expected), "{query}");
    }
}

#[tokio::test]
async fn a_watch_tells_every_change_after_its_revision_once() {
    let client = with_maps(1).await;
    let (_, list) = client.get(MAPS).await;
    let from = text(&list["metadata"]["resourceVersion"]);
    client.post(MAPS, config_map("before", "1")).await;
    let mut watch = client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "before".into()));
    let merge = "application/merge-patch+json";
    client.patch(&format!("{MAPS}/before"), merge, json!({"data": {"key": "2"}})).await;
    client.call("DELETE", &format!("{MAPS}/before"), Value::Null).await;
    assert_eq!(watch.brief().await, ("MODIFIED".into(), "before".into()));
    let deleted = watch.next().await.expect("because the watch goes on");
    assert_eq!(deleted["type"], "DELETED");
    let (_, list) = client.get(MAPS).await;
    assert_eq!(
        deleted["object"]["metadata"]["resourceVersion"], list["metadata"]["resourceVersion"],
        "a deletion carries its own revision"
    );
}

#[tokio::test]
async fn crossing_a_selector_is_an_addition_or_a_deletion() {
    let client = with_maps(1).await;
    let mut watch = client.watch(&format!("{MAPS}?watch=1&labelSelector=value%3Dblue")).await;
    let paint = |value: &'static str| json!({"metadata": {"labels": {"value": value}}});
    let (path, merge) = (format!("{MAPS}/m00"), "application/merge-patch+json");
    client.patch(&path, merge, paint("blue")).await;
    client.patch(&path, merge, json!({"data": {"key": "2"}})).await;
    client.patch(&path, merge, paint("red")).await;
    client.call("DELETE", &path, Value::Null).await;
    client.post(MAPS, config_map("other", "blue")).await;
    for expected in [("ADDED", "m00"), ("MODIFIED", "m00"), ("DELETED", "m00"), ("ADDED", "other")] {
        assert_eq!(watch.brief().await, (expected.0.into(), expected.1.into()));
    }
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_ends_with_410() {
    let client = with_maps(3).await;
    let (_, last) = client.post(MAPS, config_map("last", "1")).await;
    let now: u64 = text(&last["metadata"]["resourceVersion"]).parse().expect("because versions are numbers");
    client.store.compact(Revision(now)).expect("because memory does not fail");
    let (code, answer) = client.get(&format!("{MAPS}?watch=1&resourceVersion=2")).await;
    let status = if answer["type"] == "ERROR" { &answer["object"] } else { &answer };
    assert_eq!((status["code"].as_u64(), status["reason"].as_str()), (Some(410), Some("Expired")), "{code} {answer}");
}

#[tokio::test]
async fn a_watch_list_begins_with_the_state_and_marks_its_end() {
    let client = with_maps(2).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = client.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "m00".into()));
    assert_eq!(watch.brief().await, ("ADDED".into(), "m01".into()));
    let end = watch.next().await.expect("because the watch goes on");
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    client.post(MAPS, config_map("new", "1")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "new".into()));
    let (code, status) = client.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!((code, status["reason"].as_str()), (422, Some("Invalid")), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_gets_bookmarks_and_ends_when_it_said() {
    let client = with_maps(1).await;
    let query = "watch=1&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=90";
    let mut watch = client.watch(&format!("/api/v1/namespaces/kube-system/configmaps?{query}")).await;
    // Time is paused and jumps ahead while nothing happens; the helper's patience must not end first.
    let bookmark = watch.next_patiently().await.expect("because a minute passes before the watch ends");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    let version: u64 =
        text(&bookmark["object"]["metadata"]["resourceVersion"]).parse().expect("because it is a number");
    assert!(version > 1, "a bookmark moves on with changes elsewhere: {version}");
    assert_eq!(watch.next_patiently().await, None);
}

#[tokio::test]
async fn tables_and_metadata_are_made_on_the_server() {
    let client = with_maps(2).await;
    let ask = async |path: &str, accept: &str| {
        let request = Request::get(path).header(header::ACCEPT, accept).body(controlplane_apiserver::empty_body());
        let response = client.send(request.expect("because the tests send well-formed requests")).await;
        let bytes = response.into_body().collect().await.expect("because answers are whole").to_bytes();
        serde_json::from_slice::<Value>(&bytes).expect("because it is JSON")
    };
    let table = ask(MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!((text(&table["kind"]), table["rows"].as_array().map(Vec::len)), ("Table", Some(2)), "{table}");
    assert_eq!(table["rows"][0]["cells"][0], "m00");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let one = ask(&format!("{MAPS}/m01"), "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    assert_eq!((text(&one["kind"]), text(&one["metadata"]["name"])), ("PartialObjectMetadata", "m01"));
    assert_eq!(one.get("data"), None);
    let list = ask(MAPS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(text(&list["kind"]), "PartialObjectMetadataList");
}

#[tokio::test]
async fn big_answers_are_compressed_for_those_who_can_read_it() {
    let client = Client::new().await;
    let body = json!({"metadata": {"name": "big"}, "data": {"key": "x".repeat(200 * 1024)}});
    assert_eq!(client.post(MAPS, body).await.0, 201);
    for (accepts, encoding) in [("gzip", Some("gzip")), ("identity", None)] {
        let request = Request::get(format!("{MAPS}/big")).header(header::ACCEPT_ENCODING, accepts);
        let request = request.body(controlplane_apiserver::empty_body()).expect("because it is well-formed");
        let response = client.send(request).await;
        let seen = response.headers().get(header::CONTENT_ENCODING).and_then(|v| v.to_str().ok());
        assert_eq!(seen, encoding, "{accepts}");
    }
}
