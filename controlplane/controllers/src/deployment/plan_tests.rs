//! A Deployment's plan, decision by decision.

use super::plan::{Plan, REVISION, plan};
use super::proportion::{DESIRED, MAX};
use super::template::HASH_LABEL;
use crate::ownership::claim;
use controlplane_client::Object;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, ReplicaSet};
use serde_json::{Value, json};
use std::sync::Arc;

fn deployment(more: Value) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:2"}]}},
        },
    });
    for (key, value) in more.as_object().expect("because the test wrote an object") {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).expect("because the test wrote a deployment")
}

/// A ReplicaSet of an image, with all its pods available.
fn set(name: &str, image: &str, replicas: i32, revision: &str) -> Arc<ReplicaSet> {
    let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true});
    let labels = json!({"app": "web", HASH_LABEL: name});
    let object = json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "generation": 1, "labels": labels,
            "annotations": {REVISION: revision, DESIRED: "2", MAX: "3"}, "ownerReferences": [owner]},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}}},
        "status": {"replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas, "observedGeneration": 1},
    });
    Arc::new(serde_json::from_value(object).expect("because the test wrote a set"))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("because it is a time")
}

fn planned(deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>, pods_left: bool) -> Plan {
    let selector = &deployment.spec.as_ref().expect("because the test wrote one").selector;
    plan(deployment, &claim(deployment, selector, sets), &|_| pods_left, at(0))
}

fn sizes(plan: &Plan) -> Vec<(&str, i32)> {
    plan.scale.iter().map(|step| (step.set.name(), step.to)).collect()
}

fn progressing(plan: &Plan) -> Option<&DeploymentCondition> {
    let conditions = plan.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Progressing")
}

#[test]
fn the_first_template_gets_a_set_with_all_replicas_and_revision_one() {
    let plan = planned(&deployment(json!({})), vec![], false);
    let set = plan.create.as_ref().expect("because there is none");
    assert_eq!(set.spec.as_ref().and_then(|spec| spec.replicas), Some(2));
    assert_eq!((set.annotation(REVISION), plan.revision.as_deref()), (Some("1"), Some("1")));
    let hash = set.label(HASH_LABEL).expect("because every set has one");
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    assert_eq!(selector.get(HASH_LABEL).map(String::as_str), Some(hash));
    assert_eq!(set.name(), format!("web-{hash}"));
    assert_eq!(progressing(&plan).and_then(|it| it.reason.as_deref()), Some("NewReplicaSetCreated"));
}

#[test]
fn a_set_is_recognised_by_its_template_whatever_its_hash_is_called() {
    let plan = planned(&deployment(json!({})), vec![set("other-hash", "web:2", 2, "1")], false);
    assert!(plan.create.is_none() && plan.scale.is_empty());
    assert_eq!(progressing(&plan).and_then(|it| it.reason.as_deref()), Some("NewReplicaSetAvailable"));
}

#[test]
fn going_back_makes_an_old_set_the_newest_revision() {
    let sets = vec![set("back", "web:2", 0, "1"), set("left", "web:3", 2, "2")];
    let plan = planned(&deployment(json!({})), sets, false);
    assert!(plan.create.is_none());
    let (set, annotations) = plan.annotate.as_ref().expect("because its revision is old");
    assert_eq!((set.name(), annotations[REVISION].as_str(), plan.revision.as_deref()), ("back", "3", Some("3")));
    assert_eq!(sizes(&plan), [("back", 1)]);
}

#[test]
fn recreate_waits_until_no_old_pod_is_left() {
    let recreate = deployment(json!({"strategy": {"type": "Recreate"}}));
    let first = planned(&recreate, vec![set("old", "web:1", 2, "1")], true);
    assert!(first.create.is_none());
    assert_eq!(sizes(&first), [("old", 0)]);
    let waiting = planned(&recreate, vec![set("old", "web:1", 0, "1")], true);
    assert!(waiting.create.is_none() && waiting.scale.is_empty());
    let last = planned(&recreate, vec![set("old", "web:1", 0, "1")], false);
    assert_eq!(last.create.as_ref().and_then(|set| set.spec.as_ref()?.replicas), Some(2));
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled() {
    let paused = deployment(json!({"paused": true, "replicas": 5}));
    let plan = planned(&paused, vec![set("old", "web:1", 2, "1")], false);
    assert!(plan.create.is_none());
    assert_eq!(sizes(&plan), [("old", 5)]);
}

#[test]
fn old_empty_sets_go_beyond_the_history_limit_the_oldest_revision_first() {
    let sets = vec![
        set("new", "web:2", 2, "9"),
        set("a", "web:a", 0, "7"),
        set("b", "web:b", 0, "3"),
        set("c", "web:c", 0, "8"),
    ];
    let plan = planned(&deployment(json!({"revisionHistoryLimit": 2})), sets, false);
    assert_eq!(plan.delete.iter().map(|set| set.name()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_rollout_without_progress_is_looked_at_when_its_deadline_passes_and_fails_then() {
    let mut stuck = deployment(json!({"progressDeadlineSeconds": 60}));
    let mut broken = (*set("new", "web:2", 2, "1")).clone();
    broken.status.as_mut().expect("because the test wrote one").available_replicas = Some(0);
    let sets = vec![Arc::new(broken)];
    let selector = stuck.spec.as_ref().expect("because the test wrote one").selector.clone();
    let first = plan(&stuck, &claim(&stuck, &selector, sets.clone()), &|_| true, at(0));
    assert_eq!(first.again.map(|again| again.as_secs()), Some(60));
    stuck.status = first.status;
    let later = plan(&stuck, &claim(&stuck, &selector, sets), &|_| true, at(60));
    let said = progressing(&later).expect("because the deadline passed");
    assert_eq!((said.status.as_str(), said.reason.as_deref()), ("False", Some("ProgressDeadlineExceeded")));
    assert_eq!(later.again, None);
}

#[test]
fn nothing_to_do_is_an_empty_plan() {
    let mut done = deployment(json!({}));
    let sets = || vec![set("new", "web:2", 2, "1")];
    done.metadata.annotations = Some([(REVISION.to_owned(), "1".to_owned())].into());
    done.status = planned(&done, sets(), false).status;
    let plan = planned(&done, sets(), false);
    assert!(plan.status.is_none() && plan.annotate.is_none() && plan.revision.is_none() && plan.again.is_none());
}
