//! Who gets in, and what everybody may see: anonymous callers, roles, agents, gitsync, discovery, health, tokens.

mod support;

use controlplane_apiserver::{Caller, OPERATOR, Options, READER, Refused, ServiceAccountKeys, empty_body};
use http::{Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use support::{Client, config_map, pod};

fn person(right: &str) -> Option<Caller> {
    Some(Caller::authenticated("bob", [right.to_owned()], "SHA256:bob"))
}

#[tokio::test]
async fn anonymous_callers_see_health_and_version_and_nothing_else() {
    let admin =
        Client::with(Options { ca_pem: Some(tokio::sync::watch::channel("PEM".to_owned()).1), ..Options::default() })
            .await;
    let nobody = admin.as_caller(None);
    for path in ["/livez", "/readyz?verbose", "/healthz/store", "/version", "/.well-known/cairn/ca.pem"] {
        assert_eq!(nobody.get(path).await.0, 200, "{path}");
    }
    for path in
        ["/", "/api", "/apis/apps/v1", "/metrics", "/openapi/v3", "/api/v1/pods", "/api/v1/namespaces/x/secrets/y"]
    {
        let (code, status) = nobody.get(path).await;
        assert_eq!((code, status["reason"].as_str()), (401, Some("Unauthorized")), "{path}: {status}");
    }
}

#[tokio::test]
async fn refused_credentials_get_the_reason() {
    let client = Client::new().await;
    let mut request = Request::get("/version").body(empty_body()).expect("because it is well-formed");
    request.extensions_mut().insert(Refused("the login has expired".into()));
    let response = client.as_caller(None).send(request).await;
    assert_eq!(response.status(), 401);
    let body = response.into_body().collect().await.expect("because answers are whole").to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("the login has expired"));
}

#[tokio::test]
async fn roles_do_what_they_are_for() {
    let admin = Client::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    admin.post(pods, pod("a")).await;
    let (reader, operator) = (admin.as_caller(person(READER)), admin.as_caller(person(OPERATOR)));
    assert_eq!(reader.get(pods).await.0, 200);
    assert_eq!(reader.get("/api/v1/namespaces/default/secrets").await.0, 403);
    assert_eq!(reader.call("DELETE", &format!("{pods}/a"), Value::Null).await.0, 403);
    assert_eq!(operator.call("DELETE", &format!("{pods}/a"), Value::Null).await.0, 200);
    assert_eq!(operator.post(pods, pod("b")).await.0, 403);
}

#[tokio::test]
async fn commits_are_written_by_gitsync_alone() {
    let admin = Client::new().await;
    let commits = "/apis/cairn.dev/v1alpha1/commits";
    let commit = json!({"apiVersion": "cairn.dev/v1alpha1", "kind": "Commit", "metadata": {"name": "c0ffee"}});
    let (code, status) = admin.post(commits, commit.clone()).await;
    assert_eq!((code, status["reason"].as_str()), (403, Some("Forbidden")), "{status}");
    let gitsync = admin.as_caller(Some(Caller::gitsync("SHA256:machine")));
    let (code, made) = gitsync.post(commits, commit).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(admin.get(&format!("{commits}/c0ffee")).await.0, 200);
}

#[tokio::test]
async fn an_agent_reads_only_what_its_pods_use() {
    let admin = Client::new().await;
    for name in ["mine", "other"] {
        let (code, made) = admin.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": name}})).await;
        assert_eq!(code, 201, "{made}");
    }
    let mut user = pod("p");
    user["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "mine"}}]);
    assert_eq!(admin.post("/api/v1/namespaces/default/pods", user).await.0, 201);
    let agent = admin.as_caller(Some(Caller::node("n1", "")));
    let secret = |name: &str| format!("/api/v1/namespaces/default/secrets/{name}");
    assert_eq!(agent.get(&secret("mine")).await.0, 403, "the pod is on no node yet");
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    assert_eq!(admin.post("/api/v1/namespaces/default/pods/p/binding", binding).await.0, 201);
    assert_eq!(agent.get(&secret("mine")).await.0, 200);
    assert_eq!(agent.get(&secret("other")).await.0, 403);
    let status = json!({"status": {"phase": "Running"}});
    let merge = "application/merge-patch+json";
    assert_eq!(agent.patch("/api/v1/namespaces/default/pods/p/status", merge, status.clone()).await.0, 200);
    let stranger = admin.as_caller(Some(Caller::node("n2", "")));
    assert_eq!(stranger.patch("/api/v1/namespaces/default/pods/p/status", merge, status).await.0, 403);
}

#[tokio::test]
async fn discovery_comes_classic_and_aggregated_and_need_not_come_twice() {
    let client = Client::new().await;
    let (_, list) = client.get("/apis/apps/v1").await;
    let names: Vec<&str> =
        list["resources"].as_array().into_iter().flatten().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.contains(&"deployments") && names.contains(&"deployments/scale"), "{names:?}");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let ask = |etag: Option<String>| {
        let mut request = Request::get("/apis").header(header::ACCEPT, accept);
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        request.body(empty_body()).expect("because it is well-formed")
    };
    let response = client.send(ask(None)).await;
    let etag = response.headers()[header::ETAG].to_str().expect("because a tag is text").to_owned();
    let content_type = response.headers()[header::CONTENT_TYPE].to_str().expect("because a type is text").to_owned();
    assert!(content_type.contains("APIGroupDiscoveryList"), "{content_type}");
    assert_eq!(client.send(ask(Some(etag))).await.status(), 304);
}

#[tokio::test]
async fn a_token_is_its_account_while_the_account_exists() {
    let pem = ServiceAccountKeys::generate_pem().expect("because the system has randomness");
    let keys = ServiceAccountKeys::from_pem(&pem).expect("because the key was just made");
    let admin = Client::with(Options { tokens: Some(Arc::new(keys)), ..Options::default() }).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(admin.post(accounts, json!({"metadata": {"name": "robot"}})).await.0, 201);
    let (code, token) = admin.post(&format!("{accounts}/robot/token"), json!({"spec": {}})).await;
    assert_eq!(code, 201, "{token}");
    let token = token["status"]["token"].as_str().expect("because a token is text").to_owned();
    let whoami = async || {
        let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(controlplane_apiserver::full_body("{}"))
            .expect("because it is well-formed");
        let response = admin.as_caller(None).send(request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("because answers are whole").to_bytes();
        (code, serde_json::from_slice::<Value>(&bytes).expect("because it is JSON"))
    };
    let (code, review) = whoami().await;
    assert_eq!(
        (code, review["status"]["userInfo"]["username"].as_str()),
        (201, Some("system:serviceaccount:default:robot"))
    );
    admin.call("DELETE", &format!("{accounts}/robot"), Value::Null).await;
    assert_eq!(whoami().await.0, 401);
}

#[tokio::test]
async fn tokens_of_replaced_keys_are_believed_as_long_as_they_are_published() {
    let pem = || ServiceAccountKeys::generate_pem().expect("because the system has randomness");
    let (old, new) = (pem(), pem());
    let keys = Arc::new(ServiceAccountKeys::from_pem(&old).expect("because the key was just made"));
    let admin = Client::with(Options { tokens: Some(Arc::clone(&keys)), ..Options::default() }).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(admin.post(accounts, json!({"metadata": {"name": "robot"}})).await.0, 201);
    let token = async || {
        let (_, answer) = admin.post(&format!("{accounts}/robot/token"), json!({"spec": {}})).await;
        answer["status"]["token"].as_str().expect("because a token is text").to_owned()
    };
    let believed = async |token: &str| {
        let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(controlplane_apiserver::full_body("{}"));
        admin.as_caller(None).send(request.expect("because it is well-formed")).await.status() == 201
    };
    let published = async || {
        let (_, jwks) = admin.call("GET", "/openid/v1/jwks", Value::Null).await;
        jwks["keys"].as_array().map(|keys| keys.iter().map(|key| key["kid"].clone()).collect::<Vec<_>>())
    };
    let first = token().await;
    let before = published().await.expect("because it is a list");
    // Both are believed while the old one still signs, then while the new one does.
    keys.replace(&old, &[&new]).expect("because both are keys");
    assert_eq!(published().await.map(|keys| keys.len()), Some(2));
    assert!(believed(&first).await && believed(&token().await).await);
    keys.replace(&new, &[&old, &new]).expect("because both are keys");
    let second = token().await;
    assert!(believed(&first).await && believed(&second).await);
    assert_eq!(published().await.map(|keys| keys.len()), Some(2), "each is published once");
    keys.replace(&new, &[]).expect("because it is a key");
    assert!(!believed(&first).await, "the old key is believed no more");
    assert!(believed(&second).await);
    let after = published().await.expect("because it is a list");
    assert!(after.len() == 1 && after != before);
    assert!(keys.replace("no key", &[]).is_err());
    assert!(believed(&second).await, "what cannot be used changes nothing");
}

#[tokio::test]
async fn a_workers_gitsync_writes_the_status_of_its_own_machine_and_nothing_else() {
    let server = Client::new().await;
    let machines = "/apis/cairn.dev/v1alpha1/machines";
    let gitsync = server.as_caller(Some(Caller::gitsync("")));
    for name in ["w1", "w2"] {
        let machine = json!({"apiVersion": "cairn.dev/v1alpha1", "kind": "Machine", "metadata": {"name": name}});
        assert_eq!(gitsync.post(machines, machine).await.0, 201);
    }
    let worker = server.as_caller(Some(Caller::gitsync_of_worker("w1", "")));
    let status = || json!({"status": {"mark": "m"}});
    let merge = "application/merge-patch+json";
    let (code, answer) = worker.patch(&format!("{machines}/w1/status"), merge, status()).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(worker.get(&format!("{machines}/w1")).await.1["status"]["mark"], "m");
    assert_eq!(worker.get(machines).await.0, 200);
    for (method, path) in [
        ("PATCH", format!("{machines}/w2/status")),
        ("PATCH", format!("{machines}/w1")),
        ("DELETE", format!("{machines}/w1")),
        ("GET", "/api/v1/namespaces/default/secrets".to_owned()),
        ("GET", "/apis/cairn.dev/v1alpha1/commits".to_owned()),
        ("PATCH", "/api/v1/nodes/w1".to_owned()),
    ] {
        assert_eq!(worker.call(method, &path, status()).await.0, 403, "{method} {path}");
    }
    assert_eq!(server.get(&format!("{machines}/w2")).await.1["status"].get("mark"), None);
}

#[tokio::test]
async fn unknown_fields_warn_or_are_refused_as_asked() {
    let client = Client::new().await;
    let mut body = config_map("a", "1");
    body["dataa"] = json!({});
    let send = async |query: &str| {
        let request = Request::post(format!("/api/v1/namespaces/default/configmaps?dryRun=All&{query}"))
            .body(controlplane_apiserver::full_body(body.to_string()));
        client.send(request.expect("because it is well-formed")).await
    };
    let response = send("").await;
    let warning = response.headers().get(header::WARNING).and_then(|v| v.to_str().ok());
    assert_eq!((response.status().as_u16(), warning), (201, Some("299 - \"unknown field \\\"dataa\\\"\"")));
    let response = send("fieldValidation=Ignore").await;
    assert_eq!((response.status().as_u16(), response.headers().get(header::WARNING)), (201, None));
    assert_eq!(send("fieldValidation=Strict").await.status(), 400);
}

#[tokio::test]
async fn nobody_but_the_gate_writes_a_permit_and_nobody_but_the_machine_its_wish() {
    const ANSWER: &str = "disruption.cairn.dev/answer";
    const WISH: &str = "disruption.cairn.dev/wish";
    const IMAGE: &str = "rollout.cairn.dev/image";
    const SEEN: &str = "rollout.cairn.dev/seen";
    let admin = Client::new().await;
    let node = |annotations: Value| json!({"metadata": {"name": "n1", "annotations": annotations}});
    let forged = admin.as_caller(Some(Caller::node("n1", ""))).post("/api/v1/nodes", node(json!({ANSWER: "x"}))).await;
    assert_eq!(forged.0, 403, "{}", forged.1);
    assert_eq!(admin.post("/api/v1/nodes", node(json!({}))).await.0, 201);
    let gate = admin.as_caller(Some(Caller::controllers()));
    let machine = admin.as_caller(Some(Caller::node("n1", "")));
    let operator = admin.as_caller(person(OPERATOR));
    // who, name, annotation, expected
    let cases = [
        (&operator, "operator", IMAGE, 403),
        (&operator, "operator", SEEN, 403),
        (&admin, "admin", IMAGE, 403),
        (&machine, "machine", SEEN, 403),
        (&machine, "machine", IMAGE, 200),
        (&gate, "gate", SEEN, 200),
        (&operator, "operator", ANSWER, 403),
        (&operator, "operator", WISH, 403),
        (&admin, "admin", ANSWER, 403),
        (&machine, "machine", ANSWER, 403),
        (&machine, "machine", WISH, 200),
        (&gate, "gate", ANSWER, 200),
        (&gate, "gate", WISH, 200),
    ];
    for (client, who, annotation, expected) in cases {
        for path in ["/api/v1/nodes/n1", "/api/v1/nodes/n1/status"] {
            let patch = json!({"metadata": {"annotations": {annotation: format!("{who} {path}")}}});
            let (code, status) = client.patch(path, "application/merge-patch+json", patch).await;
            assert_eq!(code, expected, "{who} {annotation} {path}: {status}");
        }
    }
    let cordon = json!({"spec": {"unschedulable": true}});
    let (code, status) = operator.patch("/api/v1/nodes/n1", "application/merge-patch+json", cordon).await;
    assert_eq!(code, 200, "what the gate wrote does not keep operators from cordoning: {status}");
}
