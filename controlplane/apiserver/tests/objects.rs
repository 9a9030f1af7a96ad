//! The verbs on objects, as a client sees them: HTTP requests in process against a server on an empty store.

mod support;

use serde_json::{Value, json};
use support::{Client, config_map, pod};

#[tokio::test]
async fn a_created_object_has_what_the_server_adds_and_can_be_read() {
    let client = Client::new().await;
    let (code, made) = client.post("/api/v1/namespaces/default/configmaps", config_map("a", "1")).await;
    assert_eq!(code, 201, "{made}");
    let (code, read) = client.get("/api/v1/namespaces/default/configmaps/a").await;
    assert_eq!((code, &read), (200, &made));
    assert_eq!(read["apiVersion"], "v1");
    assert_eq!(read["kind"], "ConfigMap");
    assert_eq!(read["metadata"]["namespace"], "default");
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(read["metadata"][field].as_str().is_some_and(|t| !t.is_empty()), "{field}: {read}");
    }
}

#[tokio::test]
async fn mistakes_have_upstreams_codes_and_reasons() {
    let client = Client::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    client.post(maps, config_map("a", "1")).await;
    let cases = [
        ("POST", maps, config_map("a", "1"), 409, "AlreadyExists"),
        ("POST", maps, config_map("NOT A NAME", "1"), 422, "Invalid"),
        ("POST", "/api/v1/namespaces/nowhere/configmaps", config_map("a", "1"), 404, "NotFound"),
        ("POST", maps, json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}}), 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/default/configmaps/none", Value::Null, 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/unknowns", Value::Null, 404, "NotFound"),
        ("GET", "/apis/nothing.example/v1/things", Value::Null, 404, "NotFound"),
        ("DELETE", "/api/v1/namespaces/default", Value::Null, 403, "Forbidden"),
        ("DELETE", "/api/v1/namespaces/default/configmaps/none", Value::Null, 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/configmaps?continue=%25%25", Value::Null, 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/default/configmaps?fieldSelector=data.x%3Dy", Value::Null, 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/default/configmaps?resourceVersion=99999", Value::Null, 504, "Timeout"),
    ];
    for (method, path, body, code, reason) in cases {
        let (seen, status) = client.call(method, path, body).await;
        assert_eq!((seen, status["reason"].as_str()), (code, Some(reason)), "{method} {path}: {status}");
        assert_eq!(status["kind"], "Status");
    }
}

#[tokio::test]
async fn a_write_with_an_old_resource_version_is_refused_and_one_without_change_writes_nothing() {
    let client = Client::new().await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    let (_, first) = client.post("/api/v1/namespaces/default/configmaps", config_map("a", "1")).await;
    let mut changed = first.clone();
    changed["data"]["key"] = json!("2");
    let (code, second) = client.call("PUT", path, changed.clone()).await;
    assert_eq!(code, 200, "{second}");
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (code, status) = client.call("PUT", path, changed).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let (code, third) = client.call("PUT", path, second.clone()).await;
    assert_eq!((code, &third["metadata"]["resourceVersion"]), (200, &second["metadata"]["resourceVersion"]));
}

#[tokio::test]
async fn generated_names_are_unique() {
    let client = Client::new().await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let body = json!({"metadata": {"generateName": "job-"}, "data": {}});
        let (code, made) = client.post("/api/v1/namespaces/default/configmaps", body).await;
        assert_eq!(code, 201, "{made}");
        let name = made["metadata"]["name"].as_str().expect("because the server names it").to_owned();
        assert!(name.starts_with("job-") && name.len() == 9, "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 20);
}

#[tokio::test]
async fn each_kind_of_patch_changes_what_it_says() {
    let client = Client::new().await;
    client.post("/api/v1/namespaces/default/configmaps", config_map("a", "1")).await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    let cases = [
        ("application/merge-patch+json", json!({"data": {"key": "2"}}), "2"),
        ("application/strategic-merge-patch+json", json!({"data": {"key": "3"}}), "3"),
        ("application/json-patch+json", json!([{"op": "replace", "path": "/data/key", "value": "4"}]), "4"),
    ];
    for (content_type, patch, expected) in cases {
        let (code, object) = client.patch(path, content_type, patch).await;
        assert_eq!((code, object["data"]["key"].as_str()), (200, Some(expected)), "{content_type}: {object}");
    }
    let (code, _) = client.patch(path, "text/plain", json!({})).await;
    assert_eq!(code, 415);
}

#[tokio::test]
async fn an_apply_creates_what_is_missing_and_needs_a_manager() {
    let client = Client::new().await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": "1"}});
    let (code, _) = client.patch(path, "application/apply-patch+yaml", body.clone()).await;
    assert_eq!(code, 422);
    let managed = format!("{path}?fieldManager=me");
    let (code, made) = client.patch(&managed, "application/apply-patch+yaml", body.clone()).await;
    assert_eq!((code, made["data"]["key"].as_str()), (201, Some("1")), "{made}");
    let (code, again) = client.patch(&managed, "application/apply-patch+yaml", body).await;
    assert_eq!((code, &again["metadata"]["resourceVersion"]), (200, &made["metadata"]["resourceVersion"]));
}

#[tokio::test]
async fn dry_run_changes_nothing() {
    let client = Client::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let (code, _) = client.post(&format!("{maps}?dryRun=All"), config_map("a", "1")).await;
    assert_eq!(code, 201);
    assert_eq!(client.get(&format!("{maps}/a")).await.0, 404);
    client.post(maps, config_map("a", "1")).await;
    assert_eq!(client.call("DELETE", &format!("{maps}/a?dryRun=All"), Value::Null).await.0, 200);
    let merge = "application/merge-patch+json";
    client.patch(&format!("{maps}/a?dryRun=All"), merge, json!({"data": {"key": "9"}})).await;
    assert_eq!(client.get(&format!("{maps}/a")).await.1["data"]["key"], "1");
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let client = Client::new().await;
    let mut body = config_map("a", "1");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post("/api/v1/namespaces/default/configmaps", body).await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    let (code, marked) = client.call("DELETE", path, Value::Null).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    assert_eq!(client.get(path).await.0, 200);
    let (code, _) = client.patch(path, "application/merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    assert_eq!(client.get(path).await.0, 404);
}

#[tokio::test]
async fn a_bound_pod_leaves_in_two_steps_and_an_unbound_one_at_once() {
    let client = Client::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let (code, made) = client.post(pods, pod("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(client.call("DELETE", &format!("{pods}/a"), Value::Null).await.0, 200);
    assert_eq!(client.get(&format!("{pods}/a")).await.0, 404);

    client.post(pods, pod("b")).await;
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    assert_eq!(client.post(&format!("{pods}/b/binding"), binding.clone()).await.0, 201);
    assert_eq!(client.post(&format!("{pods}/b/binding"), binding).await.0, 409, "a binding is made once");
    let (_, bound) = client.get(&format!("{pods}/b")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let (_, marked) = client.call("DELETE", &format!("{pods}/b"), Value::Null).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30, "{marked}");
    assert_eq!(client.get(&format!("{pods}/b")).await.0, 200);
    client.call("DELETE", &format!("{pods}/b"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(client.get(&format!("{pods}/b")).await.0, 404);
}

#[tokio::test]
async fn status_and_spec_do_not_touch_each_other() {
    let client = Client::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let (code, made) = client.post(deployments, support::deployment("web", 1)).await;
    assert_eq!(code, 201, "{made}");
    let merge = "application/merge-patch+json";
    let both = json!({"spec": {"replicas": 5}, "status": {"replicas": 3, "observedGeneration": 1}});
    let (code, seen) = client.patch(&format!("{deployments}/web/status"), merge, both.clone()).await;
    assert_eq!((code, &seen["spec"]["replicas"], &seen["status"]["replicas"]), (200, &json!(1), &json!(3)), "{seen}");
    let (_, seen) =
        client.patch(&format!("{deployments}/web"), merge, json!({"spec": {"replicas": 5}, "status": null})).await;
    assert_eq!((&seen["spec"]["replicas"], &seen["status"]["replicas"]), (&json!(5), &json!(3)), "{seen}");
    assert_eq!(seen["metadata"]["generation"], 2);
}

#[tokio::test]
async fn scale_reads_and_writes_replicas() {
    let client = Client::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    client.post(deployments, support::deployment("web", 1)).await;
    let path = format!("{deployments}/web/scale");
    let (code, scale) = client.get(&path).await;
    assert_eq!((code, &scale["kind"], &scale["spec"]["replicas"]), (200, &json!("Scale"), &json!(1)), "{scale}");
    let (code, scale) = client.patch(&path, "application/merge-patch+json", json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(4)));
    assert_eq!(client.get(&format!("{deployments}/web")).await.1["spec"]["replicas"], 4);
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized_and_takes_nothing_new_before() {
    let client = Client::new().await;
    client.post("/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
    let (code, marked) = client.call("DELETE", "/api/v1/namespaces/team", Value::Null).await;
    assert_eq!((code, &marked["status"]["phase"]), (200, &json!("Terminating")), "{marked}");
    let (code, status) = client.post("/api/v1/namespaces/team/configmaps", config_map("a", "1")).await;
    assert_eq!((code, status["reason"].as_str()), (403, Some("Forbidden")), "{status}");
    let mut done = marked;
    done["spec"]["finalizers"] = json!([]);
    let (code, _) = client.call("PUT", "/api/v1/namespaces/team/finalize", done).await;
    assert_eq!(code, 200);
    assert_eq!(client.get("/api/v1/namespaces/team").await.0, 404);
}

#[tokio::test]
async fn services_get_addresses_and_ports_that_nobody_else_has() {
    let client = Client::new().await;
    let services = "/api/v1/namespaces/default/services";
    let body = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "selector": {"app": name},
            "ports": [{"port": 80}]}})
    };
    let (mut addresses, mut ports) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for index in 0..10 {
        let (code, made) = client.post(services, body(&format!("s{index}"))).await;
        assert_eq!(code, 201, "{made}");
        addresses.insert(made["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned());
        ports.insert(made["spec"]["ports"][0]["nodePort"].as_u64());
    }
    assert_eq!((addresses.len(), ports.len()), (10, 10));
    let mut taken = body("thief");
    taken["spec"]["ports"][0]["nodePort"] = json!(ports.first().expect("because there are ten"));
    let (code, status) = client.post(services, taken.clone()).await;
    assert_eq!((code, status["reason"].as_str()), (422, Some("Invalid")), "{status}");
    // With its owner gone the port is free again.
    for index in 0..10 {
        client.call("DELETE", &format!("{services}/s{index}"), Value::Null).await;
    }
    assert_eq!(client.post(services, taken).await.0, 201);
}

#[tokio::test]
async fn every_cluster_has_its_first_objects() {
    let client = Client::new().await;
    let (_, list) = client.get("/api/v1/namespaces").await;
    let names: Vec<&str> =
        list["items"].as_array().into_iter().flatten().filter_map(|n| n["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["cairn-system", "default", "kube-node-lease", "kube-public", "kube-system"]);
    let (code, service) = client.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!((code, service["spec"]["clusterIP"].as_str()), (200, Some("10.96.0.1")), "{service}");
}

/// A control plane that was killed came up again with "provided IP is already allocated" and stayed down.
#[tokio::test]
async fn a_second_start_finds_its_first_objects_and_the_service_follows_the_servers() {
    let client = Client::new().await;
    let address = |last| std::net::Ipv4Addr::new(10, 0, 2, last);
    for (own, running) in [(15, vec![15]), (16, vec![16]), (16, vec![15, 16, 17]), (15, vec![16, 17])] {
        let options = controlplane_apiserver::Options { advertise: Some((address(own), 6443)), ..Default::default() };
        let again = controlplane_apiserver::ApiServer::new(client.store.clone(), options);
        again.bootstrap().await.expect("because everything that is missing can be made");
        let addresses = running.iter().map(|last| address(*last)).collect();
        again.advertise(&addresses).await.expect("because the store takes writes");
        let (_, slice) = client.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
        let shown = slice["endpoints"].as_array().into_iter().flatten().filter_map(|one| one["addresses"][0].as_str());
        let wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown.collect::<Vec<_>>(), wanted, "{slice}");
    }
}

#[tokio::test]
async fn old_events_go_and_recent_ones_stay() {
    let client = Client::new().await;
    let events = "/api/v1/namespaces/default/events";
    let event = |name: &str, at: &str| {
        json!({"metadata": {"name": name}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
            "reason": "Seen", "message": "it was seen", "type": "Normal", "firstTimestamp": at, "lastTimestamp": at})
    };
    for (name, at) in [("first", "2030-01-01T00:00:00Z"), ("second", "2030-01-01T00:40:00Z")] {
        let (code, made) = client.post(events, event(name, at)).await;
        assert_eq!(code, 201, "{made}");
    }
    let now = "2030-01-01T01:10:00Z".parse().expect("because it is a time");
    assert_eq!(client.server.expire_events(now).await.expect("because memory does not fail"), 1);
    assert_eq!(client.get(&format!("{events}/first")).await.0, 404);
    assert_eq!(client.get(&format!("{events}/second")).await.0, 200);
}
