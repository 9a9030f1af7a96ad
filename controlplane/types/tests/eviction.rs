//! Which pod may be evicted under which budget; expectations are upstream's documentation of the eviction API and of
//! `unhealthyPodEvictionPolicy` (KEP-3017).

use controlplane_types::eviction::{DISRUPTED_PODS_MAX, Verdict, judge, still_processing, take};
use controlplane_types::{ApiError, KindInfo, Registry};
use jiff::Timestamp;
use serde_json::{Value, json};

fn pod(phase: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({
        "metadata": {"name": "p", "labels": {"app": "web"}},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn budget(policy: &str, desired: i64, current: i64, allowed: i64) -> Value {
    json!({
        "metadata": {"name": "b", "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "unhealthyPodEvictionPolicy": policy},
        "status": {
            "observedGeneration": 2, "desiredHealthy": desired, "currentHealthy": current, "disruptionsAllowed": allowed,
            "expectedPods": 3,
        },
    })
}

fn taken(budget: &Value) -> Result<Value, ApiError> {
    let registry = Registry::builtin();
    let kind: &KindInfo = registry.kind("policy/v1", "PodDisruptionBudget").expect("because the kind is built in");
    take(kind, budget, "p", Timestamp::UNIX_EPOCH)
}

#[test]
fn only_running_pods_are_held_by_a_budget_and_unready_ones_by_its_policy() {
    // phase, ready, policy, desired, current, what happens
    let cases = [
        ("Succeeded", false, "", 2, 0, "delete"),
        ("Failed", false, "", 2, 0, "delete"),
        ("Pending", false, "", 2, 0, "this version"),
        ("Running", true, "", 2, 3, "take"),
        ("Running", true, "AlwaysAllow", 2, 1, "take"),
        ("Running", false, "", 2, 2, "this version"),
        ("Running", false, "IfHealthyBudget", 2, 2, "this version"),
        ("Running", false, "IfHealthyBudget", 2, 1, "take"),
        ("Running", false, "", 0, 0, "take"),
        ("Running", false, "AlwaysAllow", 2, 0, "this version"),
    ];
    for (phase, ready, policy, desired, current, expected) in cases {
        let budgets = [budget(policy, desired, current, 0)];
        let pod = pod(phase, ready);
        let verdict = match judge(&pod, &budgets).expect("because one budget covers it") {
            Verdict::Delete => "delete",
            Verdict::DeleteThisVersion(_) => "this version",
            Verdict::Take(_) => "take",
        };
        assert_eq!(verdict, expected, "{phase} ready={ready} {policy:?} desired={desired} current={current}");
    }
}

#[test]
fn a_pod_on_its_way_out_is_held_by_nothing() {
    let mut pod = pod("Running", true);
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(judge(&pod, &[budget("", 2, 2, 0), budget("", 2, 2, 0)]), Ok(Verdict::Delete));
}

#[test]
fn a_budget_without_selector_covers_nothing_and_an_empty_selector_everything() {
    let (pod, mut one) = (pod("Running", true), budget("", 2, 2, 0));
    one["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    assert_eq!(judge(&pod, std::slice::from_ref(&one)), Ok(Verdict::Delete));
    one["spec"]["selector"] = Value::Null;
    assert_eq!(judge(&pod, std::slice::from_ref(&one)), Ok(Verdict::Delete));
    one["spec"]["selector"] = json!({});
    assert_eq!(judge(&pod, std::slice::from_ref(&one)), Ok(Verdict::Take(&one)));
}

#[test]
fn two_budgets_over_one_pod_are_a_mistake_that_only_people_can_mend() {
    let budgets = [budget("", 1, 3, 2), budget("", 1, 3, 2)];
    let refused = judge(&pod("Running", true), &budgets);
    let error = refused.expect_err("because two budgets cover it");
    assert_eq!(error.code(), 500);
    assert!(error.message.contains("more than one PodDisruptionBudget"), "{error}");
}

#[test]
fn a_disruption_that_is_taken_is_one_less_and_names_its_pod() {
    let after = taken(&budget("", 1, 3, 2)).expect("because two are allowed");
    assert_eq!(after["status"]["disruptionsAllowed"], 1);
    assert_eq!(after["status"]["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z"}));
    assert_eq!(after["status"]["conditions"], Value::Null, "more are allowed, so the condition stays");
    let last = taken(&after).expect("because one is allowed");
    let condition = &last["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("InsufficientPods")));
    assert_eq!(taken(&last).map_err(|error| error.code()), Err(429));
}

#[test]
fn refusals_carry_upstreams_code_cause_and_delay() {
    let mut unseen = budget("", 1, 3, 2);
    unseen["metadata"]["generation"] = json!(3);
    let mut failed = budget("", 1, 3, 0);
    failed["status"]["conditions"] = json!([
        {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "found no controllers"},
    ]);
    let mut crowded = budget("", 1, 3, 2);
    let many: serde_json::Map<String, Value> =
        (0..=DISRUPTED_PODS_MAX).map(|n| (format!("p{n}"), json!("2026-01-01T00:00:00Z"))).collect();
    crowded["status"]["disruptedPods"] = Value::Object(many);
    let cases = [
        (unseen, 429, 10, "The disruption budget b is still being processed by the server."),
        (budget("", 3, 3, 0), 429, 0, "The disruption budget b needs 3 healthy pods and has 3 currently"),
        (
            failed,
            429,
            0,
            "The disruption budget b does not allow evicting pods currently because it failed sync: found no controllers",
        ),
        (
            budget("", 1, 3, -1),
            403,
            0,
            "The disruption budget b does not allow evicting pods currently: pdb disruptions allowed is negative",
        ),
        (
            crowded,
            403,
            0,
            "The disruption budget b does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller",
        ),
    ];
    for (budget, code, delay, message) in cases {
        let error = taken(&budget).expect_err("because it has none to give");
        let details = error.details.as_deref().expect("because it says why").clone();
        let [cause] = &details.causes[..] else { panic!("one cause: {details:?}") };
        assert_eq!((error.code(), details.retry_after_seconds), (code, delay), "{message}");
        assert_eq!((cause.reason, cause.message.as_str()), ("DisruptionBudget", message));
    }
    assert_eq!(still_processing("b").code(), 429);
}
