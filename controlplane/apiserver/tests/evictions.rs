//! pods/eviction as kubectl and operators use it: against a server in process, with the budget's controller played by the test.

mod support;

use serde_json::{Value, json};
use support::{Client, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const MERGE: &str = "application/merge-patch+json";

/// A pod that runs on a node and is ready or not.
async fn running(client: &Client, name: &str, ready: bool) -> Value {
    let mut pod = pod(name);
    pod["metadata"]["labels"] = json!({"app": "web"});
    assert_eq!(client.post(PODS, pod).await.0, 201);
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    assert_eq!(client.post(&format!("{PODS}/{name}/binding"), binding).await.0, 201);
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    let (code, pod) = client.patch(&format!("{PODS}/{name}/status"), MERGE, status).await;
    assert_eq!(code, 200, "{pod}");
    pod
}

/// A budget over all of them, as its controller would leave it.
async fn budget(client: &Client, name: &str, policy: &str, desired: i64, current: i64, allowed: i64) {
    let object = json!({"metadata": {"name": name}, "spec": {
        "minAvailable": desired, "selector": {"matchLabels": {"app": "web"}}, "unhealthyPodEvictionPolicy": policy,
    }});
    let (code, made) = client.post(BUDGETS, object).await;
    assert_eq!(code, 201, "{made}");
    let status = json!({"status": {
        "observedGeneration": 1, "desiredHealthy": desired, "currentHealthy": current, "disruptionsAllowed": allowed,
        "expectedPods": current,
    }});
    let (code, made) = client.patch(&format!("{BUDGETS}/{name}/status"), MERGE, status).await;
    assert_eq!(code, 200, "{made}");
}

fn eviction(name: &str, options: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"},
        "deleteOptions": options})
}

async fn evict(client: &Client, name: &str) -> (u16, Value) {
    client.post(&format!("{PODS}/{name}/eviction"), eviction(name, Value::Null)).await
}

async fn is_going(client: &Client, name: &str) -> bool {
    let (code, pod) = client.get(&format!("{PODS}/{name}")).await;
    code == 404 || pod["metadata"]["deletionTimestamp"].is_string()
}

#[tokio::test]
async fn a_pod_without_a_budget_is_deleted_and_says_why_it_goes() {
    let client = Client::new().await;
    running(&client, "p", true).await;
    let (code, status) = evict(&client, "p").await;
    assert_eq!((code, &status["status"]), (201, &json!("Success")), "{status}");
    let (_, pod) = client.get(&format!("{PODS}/p")).await;
    let conditions = pod["status"]["conditions"].as_array().expect("because it has conditions");
    let target = conditions.iter().find(|one| one["type"] == "DisruptionTarget").expect("because it is marked");
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
    assert_eq!(evict(&client, "p").await.0, 201, "a pod on its way out is evicted already");
    assert_eq!(evict(&client, "none").await.0, 404);
}

#[tokio::test]
async fn evictions_take_what_the_budget_has_and_not_one_more() {
    let client = Client::new().await;
    for name in ["a", "b", "c"] {
        running(&client, name, true).await;
    }
    budget(&client, "web", "IfHealthyBudget", 1, 3, 2).await;
    // At once: each has to find what the others left.
    let codes = [evict(&client, "a"), evict(&client, "b"), evict(&client, "c")];
    let mut codes: Vec<u16> = futures_util::future::join_all(codes).await.into_iter().map(|(code, _)| code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [201, 201, 429]);
    let (_, after) = client.get(&format!("{BUDGETS}/web")).await;
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert_eq!(after["status"]["disruptedPods"].as_object().map(serde_json::Map::len), Some(2));
    let mut left = Vec::new();
    for name in ["a", "b", "c"] {
        if !is_going(&client, name).await {
            left.push(name);
        }
    }
    assert_eq!(left.len(), 1, "{left:?}");
    let (code, status) = evict(&client, left[0]).await;
    assert_eq!((code, &status["reason"]), (429, &json!("TooManyRequests")));
    assert_eq!(status["details"]["causes"][0]["reason"], "DisruptionBudget");
}

#[tokio::test]
async fn a_budget_that_was_not_computed_yet_gives_nothing_and_says_when_to_come_again() {
    let client = Client::new().await;
    running(&client, "p", true).await;
    budget(&client, "web", "IfHealthyBudget", 0, 1, 1).await;
    assert_eq!(client.patch(&format!("{BUDGETS}/web"), MERGE, json!({"spec": {"minAvailable": 1}})).await.0, 200);
    let (code, status) = evict(&client, "p").await;
    assert_eq!((code, &status["details"]["retryAfterSeconds"]), (429, &json!(10)), "{status}");
    assert!(!is_going(&client, "p").await);
}

#[tokio::test]
async fn an_unready_pod_goes_by_the_budgets_policy_and_costs_it_nothing() {
    // policy, desired, current, expected
    let cases = [("IfHealthyBudget", 2, 2, 201), ("IfHealthyBudget", 2, 1, 429), ("AlwaysAllow", 2, 0, 201)];
    for (policy, desired, current, expected) in cases {
        let client = Client::new().await;
        running(&client, "p", false).await;
        budget(&client, "web", policy, desired, current, 0).await;
        assert_eq!(evict(&client, "p").await.0, expected, "{policy} {desired} {current}");
        assert_eq!(is_going(&client, "p").await, expected == 201);
        let (_, after) = client.get(&format!("{BUDGETS}/web")).await;
        assert_eq!(after["status"]["disruptedPods"], Value::Null);
    }
}

#[tokio::test]
async fn more_than_one_budget_is_an_error_of_the_cluster() {
    let client = Client::new().await;
    running(&client, "p", true).await;
    budget(&client, "one", "IfHealthyBudget", 0, 1, 1).await;
    budget(&client, "two", "IfHealthyBudget", 0, 1, 1).await;
    let (code, status) = evict(&client, "p").await;
    assert_eq!((code, &status["code"]), (500, &json!(500)), "{status}");
    assert!(!is_going(&client, "p").await);
}

#[tokio::test]
async fn a_dry_run_checks_and_changes_nothing() {
    let client = Client::new().await;
    running(&client, "p", true).await;
    budget(&client, "web", "IfHealthyBudget", 0, 1, 1).await;
    let path = format!("{PODS}/p/eviction");
    let said_in_body = client.post(&path, eviction("p", json!({"dryRun": ["All"]}))).await;
    let said_in_query = client.post(&format!("{path}?dryRun=All"), eviction("p", Value::Null)).await;
    assert_eq!((said_in_body.0, said_in_query.0), (201, 201));
    assert_eq!(client.post(&path, eviction("p", json!({"dryRun": ["Some"]}))).await.0, 400);
    assert!(!is_going(&client, "p").await);
    let (_, after) = client.get(&format!("{BUDGETS}/web")).await;
    assert_eq!(after["status"]["disruptionsAllowed"], 1);
    let spent = json!({"status": {"disruptionsAllowed": 0}});
    assert_eq!(client.patch(&format!("{BUDGETS}/web/status"), MERGE, spent).await.0, 200);
    assert_eq!(client.post(&path, eviction("p", json!({"dryRun": ["All"]}))).await.0, 429);
}

#[tokio::test]
async fn preconditions_of_the_client_hold_and_cost_the_budget_nothing() {
    let client = Client::new().await;
    let pod = running(&client, "p", true).await;
    budget(&client, "web", "IfHealthyBudget", 0, 1, 1).await;
    let path = format!("{PODS}/p/eviction");
    for wrong in [json!({"uid": "another"}), json!({"resourceVersion": "1"})] {
        let (code, status) = client.post(&path, eviction("p", json!({"preconditions": wrong}))).await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
    }
    let (_, after) = client.get(&format!("{BUDGETS}/web")).await;
    assert_eq!(after["status"]["disruptionsAllowed"], 1);
    let right = json!({"preconditions": {"uid": pod["metadata"]["uid"]}, "gracePeriodSeconds": 7});
    assert_eq!(client.post(&path, eviction("p", right)).await.0, 201);
    let (_, after) = client.get(&format!("{PODS}/p")).await;
    assert_eq!(after["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test]
async fn a_body_that_is_no_eviction_of_this_pod_is_refused() {
    let client = Client::new().await;
    running(&client, "p", true).await;
    let path = format!("{PODS}/p/eviction");
    let cases = [
        eviction("q", Value::Null),
        json!({"metadata": {}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}),
        json!({"metadata": {"name": "p", "namespace": "other"}}),
    ];
    for body in cases {
        assert_eq!(client.post(&path, body.clone()).await.0, 400, "{body}");
    }
    assert_eq!(client.get(&path).await.0, 405);
    assert!(!is_going(&client, "p").await);
}
