//! Pods on a real containerd, driven through a real API server in this process.

mod support;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::json;
use std::path::{Path, PathBuf};
use support::{PATIENCE, TestNode};

fn programs() -> (PathBuf, PathBuf) {
    let (web, pause) = (env!("CARGO_BIN_EXE_pod-test-program"), env!("CARGO_BIN_EXE_pause"));
    (web.into(), pause.into())
}

/// Waits until the pod satisfies `holds`, and returns it.
async fn pod_when(node: &TestNode, name: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
    let pods = node.admin().namespaced::<Pod>("default");
    let mut last = None;
    let wait = async {
        loop {
            if let Ok(pod) = pods.get(name).await {
                if holds(&pod) {
                    return pod;
                }
                last = Some(pod);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("pod {name} did not get there: {:#?}", last.and_then(|pod| pod.status)))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

async fn create(node: &TestNode, name: &str, spec: serde_json::Value) {
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" }, "spec": spec });
    pod["spec"]["nodeName"] = "n1".into();
    pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    pod["spec"]["automountServiceAccountToken"] = false.into();
    let pod: Pod = serde_json::from_value(pod).expect("because the test's pod is well formed");
    node.admin().namespaced::<Pod>("default").create(&pod).await.expect("because the API accepts the pod");
}

async fn http(address: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect((address, 8080)).await?;
    connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn log_of(node: &TestNode, pod: &Pod, container: &str, attempt: u32) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let path = node.config.folders.logs.join(format!("default_{name}_{uid}/{container}/{attempt}.log"));
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_pods_life_from_archive_to_deletion() {
    support::on_a_machine(async {
        let (web, pause) = programs();
        let node = TestNode::start(&web, &pause).await;
        node.run_agent(&node.supervisor.clone()).await;
        let map: ConfigMap =
            serde_json::from_value(json!({ "metadata": { "name": "settings" }, "data": { "color": "blue" } }))
                .expect("because the test's object is well formed");
        node.admin().namespaced::<ConfigMap>("default").create(&map).await.expect("because the API accepts it");
        create(
            &node,
            "web",
            json!({
                "initContainers": [{ "name": "first", "image": "demo/web:1", "args": ["file", "/config/color"],
                    "volumeMounts": [{ "name": "config", "mountPath": "/config" }] }],
                "containers": [{ "name": "web", "image": "demo/web:1",
                    "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
                    "livenessProbe": { "exec": { "command": ["/web", "env", "HOME"] }, "periodSeconds": 1 },
                    "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } } }],
                "volumes": [{ "name": "config", "configMap": { "name": "settings" } }],
            }),
        )
        .await;
        let pod = pod_when(&node, "web", is_ready).await;
        let status = pod.status.clone().unwrap_or_default();
        assert_eq!(phase(&pod), "Running");
        assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
        let address = status.pod_ip.expect("because a ready pod has an address");
        assert!(http(&address).await.expect("because it is ready").ends_with("web"));
        assert!(log_of(&node, &pod, "first", 0).ends_with("stdout F blue\n"));
        assert!(log_of(&node, &pod, "web", 0).ends_with("stdout F hello web listens\n"));

        let n1 = node.admin().all::<Node>().get("n1").await.expect("because the agent registered");
        assert_eq!(n1.metadata.labels.unwrap_or_default()["kubernetes.io/os"], "linux");

        node.admin()
            .namespaced::<Pod>("default")
            .delete("web", &Default::default())
            .await
            .expect("because it is there");
        let pods = node.admin().namespaced::<Pod>("default");
        let gone = async {
            while pods.get("web").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("because the agent ends and removes it");
        assert!(node.network.pods().await.is_empty());
        assert!(!Path::new(&node.config.folders.pods.join(pod.metadata.uid.unwrap_or_default())).exists());
        node.supervisor.stop(PATIENCE).await;
    });
}

#[test]
fn containers_end_restart_and_outlive_the_agent() {
    support::on_a_machine(async {
        let (web, pause) = programs();
        let node = TestNode::start(&web, &pause).await;
        let first_agent = machined_reconcile::Supervisor::new();
        node.run_agent(&first_agent).await;
        let one = |args: serde_json::Value| json!([{ "name": "c", "image": "demo/web:1", "args": args }]);
        create(&node, "done", json!({ "restartPolicy": "Never", "containers": one(json!(["exit", "0"])) })).await;
        create(&node, "bad", json!({ "restartPolicy": "Never", "containers": one(json!(["exit", "3"])) })).await;
        create(&node, "crash", json!({ "containers": one(json!(["exit", "1"])) })).await;
        create(&node, "stay", json!({ "containers": one(json!([])) })).await;
        create(&node, "noimage", json!({ "containers": [{ "name": "c", "image": "localhost:1/none:1" }] })).await;

        pod_when(&node, "done", |pod| phase(pod) == "Succeeded").await;
        let bad = pod_when(&node, "bad", |pod| phase(pod) == "Failed").await;
        let state = |pod: &Pod| {
            let statuses = pod.status.clone().and_then(|status| status.container_statuses).unwrap_or_default();
            statuses.into_iter().next().unwrap_or_default()
        };
        let ended = state(&bad).state.and_then(|state| state.terminated).map(|ended| ended.exit_code);
        assert_eq!(ended, Some(3));
        let waits = |reason: &'static str| {
            move |pod: &Pod| {
                let waiting = state(pod).state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason);
                waiting.as_deref() == Some(reason)
            }
        };
        let crash = pod_when(&node, "crash", waits("CrashLoopBackOff")).await;
        assert_eq!(state(&crash).restart_count, 1, "the first restart is at once, the second waits");
        assert!(log_of(&node, &crash, "c", 0).ends_with("goodbye\n"));
        pod_when(&node, "noimage", waits("ErrImagePull")).await;

        let stay = pod_when(&node, "stay", is_ready).await;
        let id = state(&stay).container_id;
        first_agent.stop(PATIENCE).await;
        let address = stay.status.clone().and_then(|status| status.pod_ip).expect("because it runs");
        http(&address).await.expect("because a container does not end with the agent");
        node.run_agent(&node.supervisor.clone()).await;
        pod_when(&node, "done", |pod| phase(pod) == "Succeeded").await;
        let after = pod_when(&node, "stay", is_ready).await;
        assert_eq!(
            (state(&after).container_id, state(&after).restart_count),
            (id, 0),
            "it was taken over, not restarted"
        );

        for name in ["done", "bad", "crash", "stay", "noimage"] {
            node.admin()
                .namespaced::<Pod>("default")
                .delete(name, &Default::default())
                .await
                .expect("because it is there");
        }
        let pods = node.admin().namespaced::<Pod>("default");
        let gone = async {
            while pods.list(&Default::default()).await.is_ok_and(|list| !list.items.is_empty()) {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("because the agent ends and removes them");
        node.supervisor.stop(PATIENCE).await;
    });
}
