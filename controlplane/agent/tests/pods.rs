//! Pods on a real containerd, driven through a real API server in this process.

mod support;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::json;
use support::{PATIENCE, TestNode, create, is_ready, log_when, phase, pod_when, programs};

async fn http(address: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect((address, 8080)).await?;
    connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
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
        log_when(&node, &pod, "first", 0, "stdout F blue\n").await;
        log_when(&node, &pod, "web", 0, "stdout F hello web listens\n").await;
        assert_eq!(node.shims(), 1, "the pod's sandbox and containers share one");

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
        let uid = pod.metadata.uid.unwrap_or_default();
        assert!(!node.config.folders.pods.join(&uid).exists());
        assert!(node.cgroups_of(&uid).is_empty());
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
        log_when(&node, &crash, "c", 0, "goodbye\n").await;
        pod_when(&node, "noimage", |pod| waits("ErrImagePull")(pod) || waits("ImagePullBackOff")(pod)).await;

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

        node.remove_all_pods().await;
    });
}
