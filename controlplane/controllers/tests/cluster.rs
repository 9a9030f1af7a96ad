//! Controllers against the real API server: what people see when they deploy, roll, scale and delete.

mod support;

use controlplane_client::{ClientError, Object, Patch, Selection};
use controlplane_controllers::{ANSWER, Answer, Phase, WISH, Wish};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde_json::{Value, json};
use support::{Cluster, deployment, key};

fn is_rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let counts = [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas];
    let progressing = status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing");
    status.observed_generation == deployment.metadata.generation
        && counts == [Some(replicas); 4]
        && progressing.and_then(|it| it.reason.as_deref()) == Some("NewReplicaSetAvailable")
}

fn revision(object: &impl Object) -> Option<&str> {
    object.annotation("deployment.kubernetes.io/revision")
}

#[tokio::test]
async fn a_deployment_and_a_service_become_pods_and_ready_endpoints() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.create::<Deployment>(deployment("web", 2, "web:1")).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    cluster.create::<Service>(service).await;

    let rolled = cluster.until_one::<Deployment>(&key("web"), "it is rolled out", |it| is_rolled_out(it, 2)).await;
    assert_eq!(revision(&*rolled), Some("1"));
    let ready = |slice: &EndpointSlice| {
        let endpoints = slice.endpoints.iter().flatten();
        endpoints.filter(|one| one.conditions.as_ref().and_then(|it| it.ready) == Some(true)).count()
    };
    let of_web = |slice: &EndpointSlice| slice.label("kubernetes.io/service-name") == Some("web");
    cluster
        .until::<EndpointSlice>("two endpoints are ready", |all| {
            all.iter().filter(|slice| of_web(slice)).map(|slice| ready(slice)).sum::<usize>() == 2
        })
        .await;
    let reasons = |events: &[std::sync::Arc<Event>]| {
        let seen: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
        ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"].iter().all(|reason| seen.iter().any(|it| it == reason))
    };
    cluster.until::<Event>("events tell what was done", reasons).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_new_image_rolls_within_bounds_and_scaling_follows() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.create::<Deployment>(deployment("web", 3, "web:1")).await;
    cluster.until_one::<Deployment>(&key("web"), "it is rolled out", |it| is_rolled_out(it, 3)).await;

    let containers = json!([{"name": "c", "image": "web:2"}]);
    cluster
        .merge::<Deployment>("default", "web", json!({"spec": {"template": {"spec": {"containers": containers}}}}))
        .await;
    cluster
        .until_one::<Deployment>(&key("web"), "revision 2 is rolled out", |it| {
            revision(it) == Some("2") && is_rolled_out(it, 3)
        })
        .await;
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
    let all_new =
        |pods: &[std::sync::Arc<Pod>]| pods.len() == 3 && pods.iter().all(|pod| image(pod).as_deref() == Some("web:2"));
    cluster.until::<Pod>("only new pods are there", all_new).await;
    let sizes = |sets: &[std::sync::Arc<ReplicaSet>]| {
        let mut sizes: Vec<_> = sets.iter().filter_map(|set| set.spec.as_ref()?.replicas).collect();
        sizes.sort_unstable();
        sizes == [0, 3]
    };
    cluster.until::<ReplicaSet>("the old ReplicaSet is kept, empty", sizes).await;

    cluster.merge::<Deployment>("default", "web", json!({"spec": {"replicas": 1}})).await;
    cluster.until_one::<Deployment>(&key("web"), "it is scaled down", |it| is_rolled_out(it, 1)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_deleted_is_replaced() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.create::<Deployment>(deployment("web", 1, "web:1")).await;
    cluster.until_one::<Deployment>(&key("web"), "it is rolled out", |it| is_rolled_out(it, 1)).await;
    let first = cluster.until::<Pod>("one pod is there", |pods| pods.len() == 1).await;
    let (name, uid) = (first[0].name().to_owned(), first[0].uid().to_owned());
    let deleted = cluster.client.namespaced::<Pod>("default").delete(&name, &DeleteOptions::default()).await;
    deleted.expect("because the server deletes pods");
    cluster.until::<Pod>("another pod is there", |pods| pods.len() == 1 && pods[0].uid() != uid).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_without_a_place_says_why_and_gets_one_when_a_node_comes() {
    let cluster = Cluster::start().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "c"}]}});
    cluster.create::<Pod>(pod).await;
    let refused = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|it| it.message.as_deref() == Some("no nodes available to schedule pods"))
    };
    cluster.until_one::<Pod>(&key("x"), "it says why it has no place", refused).await;
    cluster.add_node("n1").await;
    let runs = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    cluster.until_one::<Pod>(&key("x"), "it runs", runs).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_namespace_is_furnished_when_it_is_made_and_emptied_when_it_goes() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.create::<Namespace>(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})).await;
    cluster.until_one::<ServiceAccount>("team/default", "it has an account", |_| true).await;
    let authority = |map: &ConfigMap| map.data.iter().flatten().any(|(key, value)| key == "ca.crt" && value == "PEM");
    cluster.until_one::<ConfigMap>("team/kube-root-ca.crt", "it has the authority", authority).await;
    let mut web = deployment("web", 2, "web:1");
    web["metadata"]["namespace"] = json!("team");
    cluster.create::<Deployment>(web).await;
    cluster.until_one::<Deployment>("team/web", "it is rolled out", |it| is_rolled_out(it, 2)).await;

    let deleted = cluster.client.all::<Namespace>().delete("team", &DeleteOptions::default()).await;
    deleted.expect("because the server deletes namespaces");
    cluster.until::<Namespace>("it is gone", |all| all.iter().all(|one| one.name() != "team")).await;
    cluster.until::<Pod>("its pods are gone", |pods| pods.is_empty()).await;
    cluster.stop().await;
}

async fn delete_web(cluster: &Cluster, policy: &str) {
    let options = DeleteOptions { propagation_policy: Some(policy.to_owned()), ..DeleteOptions::default() };
    let deleted = cluster.client.namespaced::<Deployment>("default").delete("web", &options).await;
    deleted.expect("because the server deletes deployments");
}

async fn rolled_out_web() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.create::<Deployment>(deployment("web", 2, "web:1")).await;
    cluster.until_one::<Deployment>(&key("web"), "it is rolled out", |it| is_rolled_out(it, 2)).await;
    cluster
}

#[tokio::test]
async fn what_a_deployment_made_goes_with_it() {
    for policy in ["Background", "Foreground"] {
        let cluster = rolled_out_web().await;
        delete_web(&cluster, policy).await;
        cluster.until::<Pod>("its pods are gone", |pods| pods.is_empty()).await;
        cluster.until::<ReplicaSet>("its ReplicaSet is gone", |sets| sets.is_empty()).await;
        cluster.until::<Deployment>("it is gone", |all| all.is_empty()).await;
        cluster.stop().await;
    }
}

#[tokio::test]
async fn what_an_orphaning_deletion_leaves_is_adopted_by_the_next() {
    let cluster = rolled_out_web().await;
    let before = cluster.until::<ReplicaSet>("there is one", |sets| sets.len() == 1).await;
    delete_web(&cluster, "Orphan").await;
    cluster.until::<Deployment>("it is gone", |all| all.is_empty()).await;
    cluster.until::<ReplicaSet>("its ReplicaSet is an orphan", |sets| sets[0].controller().is_none()).await;

    cluster.create::<Deployment>(deployment("web", 2, "web:1")).await;
    cluster.until_one::<Deployment>(&key("web"), "it is rolled out", |it| is_rolled_out(it, 2)).await;
    let after = cluster.until::<ReplicaSet>("it has an owner", |sets| sets[0].controller().is_some()).await;
    assert_eq!((after.len(), after[0].uid()), (1, before[0].uid()));
    cluster.stop().await;
}

#[tokio::test]
async fn the_pods_of_a_node_that_is_not_ready_get_no_traffic_and_new_ones_go_elsewhere() {
    let cluster = rolled_out_web().await;
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let nodes = cluster.client.all::<Node>();
    nodes.patch_status("n1", Patch::Strategic(&not_ready)).await.expect("because the server takes it");
    let tainted = |node: &Node| node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).count() == 2;
    cluster.until_one::<Node>("n1", "it is tainted", tainted).await;
    let ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
    };
    cluster.until::<Pod>("no pod is ready", |pods| pods.len() == 2 && !pods.iter().any(|pod| ready(pod))).await;

    cluster.add_node("n2").await;
    cluster.merge::<Deployment>("default", "web", json!({"spec": {"replicas": 4}})).await;
    let on = |pods: &[std::sync::Arc<Pod>], node: &str| {
        let node_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        pods.iter().filter(|pod| node_of(pod).as_deref() == Some(node)).count()
    };
    cluster.until::<Pod>("the new ones are on n2", |pods| on(pods, "n1") == 2 && on(pods, "n2") == 2).await;
    cluster.stop().await;
}

fn budget(name: &str, spec: serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn allows(budget: &PodDisruptionBudget, disruptions: i32) -> bool {
    let status = budget.status.as_ref();
    status.is_some_and(|status| {
        status.disruptions_allowed == Some(disruptions) && status.observed_generation == budget.metadata.generation
    })
}

#[tokio::test]
async fn a_budget_follows_its_pods_and_evictions_stay_within_it() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.create::<Deployment>(deployment("web", 3, "web:1")).await;
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    cluster.create::<PodDisruptionBudget>(budget("web", spec)).await;
    cluster.until_one::<PodDisruptionBudget>(&key("web"), "one may go", |it| allows(it, 1)).await;

    // New pods have no place, so what goes is missing.
    let cordoned = json!({"spec": {"unschedulable": true}});
    cluster.client.all::<Node>().patch("n1", Patch::Merge(&cordoned)).await.expect("because the server takes it");
    let pods = cluster.until::<Pod>("three are there", |pods| pods.len() == 3).await;
    let api = cluster.client.namespaced::<Pod>("default");
    let mut refused = 0;
    for pod in &pods {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.name()}});
        match api.create_subresource::<_, serde_json::Value>(pod.name(), "eviction", &body).await {
            Ok(_) => {}
            Err(ClientError::Refused { status, .. }) if status.code == 429 => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 2, "one of three may go");
    cluster.until_one::<PodDisruptionBudget>(&key("web"), "none may go", |it| allows(it, 0)).await;

    let again = json!({"spec": {"unschedulable": null}});
    cluster.client.all::<Node>().patch("n1", Patch::Merge(&again)).await.expect("because the server takes it");
    cluster.until_one::<PodDisruptionBudget>(&key("web"), "one may go again", |it| allows(it, 1)).await;
    cluster.merge::<Deployment>("default", "web", json!({"spec": {"replicas": 2}})).await;
    cluster
        .until_one::<PodDisruptionBudget>(&key("web"), "it follows the scale", |it| {
            it.status
                .as_ref()
                .is_some_and(|status| status.expected_pods == Some(2) && status.desired_healthy == Some(1))
        })
        .await;
    cluster.stop().await;
}

fn gate_answer(node: &Node) -> Option<Answer> {
    serde_json::from_str(node.annotation(ANSWER)?).ok()
}

async fn boots(cluster: &Cluster, node: &str, boot: &str) {
    let status = json!({"status": {"nodeInfo": {"bootID": boot}}});
    let nodes = cluster.client.all::<Node>();
    nodes.patch_status(node, Patch::Merge(&status)).await.expect("because the server takes it");
}

async fn wishes(cluster: &Cluster, node: &str, boot: &str) {
    let wish = Wish { boot: boot.to_owned(), reason: "reboot".to_owned(), asked: Timestamp::now(), image: None };
    write_wish(cluster, node, &wish).await;
}

async fn write_wish(cluster: &Cluster, node: &str, wish: &Wish) {
    let text = serde_json::to_string(&wish).expect("because it is plain data");
    let patch = json!({"metadata": {"annotations": {WISH: text}}});
    cluster.as_node(node).all::<Node>().patch(node, Patch::Merge(&patch)).await.expect("because the server takes it");
}

fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

#[tokio::test]
async fn the_gate_drains_a_machine_lets_it_go_and_takes_it_back_one_at_a_time() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    boots(&cluster, "n1", "b1").await;
    cluster.create::<Deployment>(deployment("web", 2, "web:1")).await;
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    cluster.create::<PodDisruptionBudget>(budget("web", spec)).await;
    cluster.until_one::<PodDisruptionBudget>(&key("web"), "one may go", |it| allows(it, 1)).await;
    cluster.add_node("n2").await;
    boots(&cluster, "n2", "c1").await;

    wishes(&cluster, "n1", "b1").await;
    let granted = |node: &Node| gate_answer(node).is_some_and(|answer| answer.phase == Phase::Granted);
    let node = cluster.until_one::<Node>("n1", "it may go", granted).await;
    assert!(is_cordoned(&node));
    let pods = cluster.client.namespaced::<Pod>("default").list(&Selection::default()).await;
    let on_n1 = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some("n1");
    assert_eq!(pods.expect("because the server lists").items.iter().filter(on_n1).count(), 0, "granted means drained");

    wishes(&cluster, "n2", "c1").await;
    let waits = |node: &Node| gate_answer(node).is_some_and(|answer| answer.message.contains("n1 goes first"));
    let second = cluster.until_one::<Node>("n2", "it is told to wait", waits).await;
    assert!(!is_cordoned(&second));

    boots(&cluster, "n1", "b2").await;
    let back = |node: &Node| !is_cordoned(node) && node.annotation(ANSWER).is_none() && node.annotation(WISH).is_none();
    cluster.until_one::<Node>("n1", "it is back and uncordoned", back).await;
    cluster.until_one::<Node>("n2", "it is its turn", granted).await;
    cluster.stop().await;
}

const NEW_IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A worker whose document names the new image, as gitsync writes it, and which asks to go to it.
async fn wants_the_new_image(cluster: &Cluster, name: &str, more: Value) {
    cluster.add_node(name).await;
    boots(cluster, name, "b1").await;
    let mut spec = json!({"role": "worker", "image": {"digest": NEW_IMAGE, "attempt": 1}});
    spec.as_object_mut().expect("because it is one").extend(more.as_object().cloned().unwrap_or_default());
    cluster.write_machine(name, spec).await;
    let (boot, reason) = ("b1".to_owned(), "upgrade".to_owned());
    let wish = Wish { boot, reason, asked: Timestamp::now(), image: Some(NEW_IMAGE.to_owned()) };
    write_wish(cluster, name, &wish).await;
}

async fn reports(cluster: &Cluster, name: &str, report: Value) {
    let patch = json!({"metadata": {"annotations": {"rollout.cairn.dev/image": report.to_string()}}});
    cluster.as_node(name).all::<Node>().patch(name, Patch::Merge(&patch)).await.expect("because it is its own Node");
}

#[tokio::test]
async fn an_image_goes_to_the_canary_first_and_to_nobody_else_once_it_failed_there() {
    let cluster = Cluster::start().await;
    let granted = |node: &Node| gate_answer(node).is_some_and(|answer| answer.phase == Phase::Granted);
    let says =
        |text: &'static str| move |node: &Node| gate_answer(node).is_some_and(|answer| answer.message.contains(text));
    // By name w1 would be first.
    wants_the_new_image(&cluster, "w1", json!({})).await;
    wants_the_new_image(&cluster, "w2", json!({"canary": {"pauseSeconds": 0}})).await;
    cluster.until_one::<Node>("w2", "the canary may go", granted).await;
    let first = cluster.until_one::<Node>("w1", "it is told whom it waits for", says("canary w2 goes first")).await;
    assert!(!is_cordoned(&first));

    boots(&cluster, "w2", "b2").await;
    let failed = json!({"failed": {"digest": NEW_IMAGE, "attempt": 1, "reason": "no heartbeat"}});
    reports(&cluster, "w2", failed).await;
    let stopped = cluster.until_one::<Node>("w1", "it is told why it stays", says("failed on w2: no heartbeat")).await;
    assert!(!is_cordoned(&stopped));
    let said = |event: &Event| event.reason.as_deref() == Some("RolloutStopped");
    cluster.until::<Event>("the stop is an event", |events| events.iter().any(|event| said(event))).await;

    // It is tried again there, and good.
    reports(&cluster, "w2", json!({"good": NEW_IMAGE})).await;
    cluster.until_one::<Node>("w1", "the others follow", granted).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_class_says_how_many_of_its_workers_may_be_away_at_once() {
    let cluster = Cluster::start().await;
    let class = || json!({"class": "workers", "rollout": {"unavailable": 2, "waves": []}});
    for name in ["w1", "w2", "w3"] {
        wants_the_new_image(&cluster, name, class()).await;
    }
    let granted = |node: &Node| gate_answer(node).is_some_and(|answer| answer.phase == Phase::Granted);
    cluster.until_one::<Node>("w1", "the first may go", granted).await;
    cluster.until_one::<Node>("w2", "the second may go with it", granted).await;
    let waits = |node: &Node| gate_answer(node).is_some_and(|answer| answer.message.contains("goes first"));
    let third = cluster.until_one::<Node>("w3", "the third waits", waits).await;
    assert!(!is_cordoned(&third));
    boots(&cluster, "w1", "b2").await;
    cluster.until_one::<Node>("w3", "it is its turn", granted).await;
    cluster.stop().await;
}
