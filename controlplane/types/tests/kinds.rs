//! What each kind does on create, update and delete, and how it is printed; expectations are upstream's behaviour.

use controlplane_types::delete::{self, DeleteOptions, DeletePlan, Propagation};
use controlplane_types::object::{self, Object};
use controlplane_types::table::{self, IncludeObject};
use controlplane_types::write::{self, Fresh, Managed, WriteContext};
use controlplane_types::{ApiError, Endpoint, KindInfo, Registry};
use jiff::Timestamp;
use serde_json::{Value, json};

struct Cluster {
    registry: Registry,
    now: Timestamp,
}

const FRESH: Fresh<'static> = Fresh { uid: "0b1c", suffix: "x7k2p" };

impl Cluster {
    fn new() -> Self {
        let now = Timestamp::from_second(1_700_000_000).expect("because the time is in range");
        Cluster { registry: Registry::builtin(), now }
    }

    fn kind(&self, object: &Value) -> &KindInfo {
        self.registry.kind(object.api_version(), object.kind()).expect("because the kind is built in")
    }

    fn context<'a>(&'a self, object: &'a Value, name: &'a str, endpoint: Endpoint) -> WriteContext<'a> {
        let kind = self.kind(object);
        let namespace = if kind.namespaced() { "default" } else { "" };
        WriteContext { kind, namespace, name, endpoint, manager: "test", now: self.now }
    }

    fn create(&self, object: Value) -> Result<Value, ApiError> {
        let context = self.context(&object, "", Endpoint::Main);
        let made = write::begin_create(&context, object.clone(), FRESH, Managed::Track)?;
        write::finish_create(&context, &made)?;
        Ok(made)
    }

    fn created(&self, object: Value) -> Value {
        let mut made = self.create(object).expect("because the object is valid");
        made.set_resource_version(7);
        made
    }

    fn update(&self, old: &Value, new: Value, endpoint: Endpoint) -> Result<Value, ApiError> {
        let context = self.context(old, old.name(), endpoint);
        let made = write::begin_update(&context, old, new, Managed::Track)?;
        write::finish_update(&context, old, &made)?;
        Ok(made)
    }

    /// Refuses to create the object and returns the causes as `field: message`.
    fn causes(&self, object: Value) -> Vec<String> {
        let error = self.create(object).expect_err("because the object is not valid");
        assert_eq!(error.code(), 422, "{error}");
        let details = error.details.expect("because invalid objects have details");
        details.causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let table = table::of_object(self.kind(object), object, IncludeObject::None, self.now);
        table["rows"][0]["cells"].as_array().expect("because a row has cells").clone()
    }
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn simple_pod() -> Value {
    pod(json!({"containers": [{"name": "c", "image": "nginx:1.27"}]}))
}

fn deployment(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]},
            },
        },
    });
    change(&mut object["spec"]);
    object
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
}

#[test]
fn a_pod_gets_the_documented_defaults() {
    let made = Cluster::new().created(pod(json!({
        "containers": [{
            "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "1"}},
        }],
        "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "x"}}, {"name": "s", "secret": {"secretName": "x"}}],
    })));
    let expected = json!({
        "containers": [{
            "name": "c", "image": "nginx", "imagePullPolicy": "Always",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
            "livenessProbe": {
                "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
            },
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        }],
        "volumes": [
            {"name": "e", "emptyDir": {}},
            {"name": "c", "configMap": {"name": "x", "defaultMode": 420}},
            {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
        ],
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true,
    });
    assert_eq!(made["spec"], expected);
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
    assert_eq!(made["metadata"]["generation"], 1);
}

#[test]
fn images_are_pulled_by_their_tag() {
    let cluster = Cluster::new();
    for (image, expected) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("registry:5000/nginx", "Always"),
        ("registry:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0000000000000000000000000000000000000000000000000000000000000000", "IfNotPresent"),
    ] {
        let made = cluster.created(pod(json!({"containers": [{"name": "c", "image": image}]})));
        assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], expected, "{image}");
    }
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let cluster = Cluster::new();
    let all = json!({"cpu": "1", "memory": "1Gi"});
    for (resources, expected) in [
        (json!({}), "BestEffort"),
        (json!({"limits": all}), "Guaranteed"),
        (json!({"limits": all, "requests": {"cpu": "500m"}}), "Burstable"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
    ] {
        let made = cluster.created(pod(json!({"containers": [{"name": "c", "image": "i", "resources": resources}]})));
        assert_eq!(made["status"]["qosClass"], expected, "{resources}");
    }
}

#[test]
fn a_deployment_gets_the_documented_defaults() {
    let made = Cluster::new().created(deployment(|_| {}));
    let spec = &made["spec"];
    assert_eq!(spec["replicas"], 1);
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}});
    assert_eq!(spec["strategy"], rolling);
    assert_eq!((&spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]), (&json!(10), &json!(600)));
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
    assert_eq!(spec["template"]["spec"].get("enableServiceLinks"), None, "that one is for pods only");
}

#[test]
fn a_service_gets_the_documented_defaults() {
    let cluster = Cluster::new();
    let made = cluster.created(service(json!({"ports": [{"port": 80}]})));
    let expected = json!({
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "ClusterIP", "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
    });
    assert_eq!(made["spec"], expected);
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    let port = cluster.created(service(json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": "http"}]})));
    assert_eq!(port["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(port["spec"]["ports"][0]["targetPort"], "http");
}

#[test]
fn other_kinds_get_their_defaults() {
    let cluster = Cluster::new();
    let namespace = cluster.created(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    assert_eq!(
        (&namespace["spec"], &namespace["status"]),
        (&json!({"finalizers": ["kubernetes"]}), &json!({"phase": "Active"}))
    );
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}});
    let secret = cluster.created(secret);
    assert_eq!((&secret["type"], &secret["data"]), (&json!("Opaque"), &json!({"a": "Yg=="})));
    assert_eq!(secret.get("stringData"), None);
}

#[test]
fn a_name_is_generated_from_its_base() {
    let mut object = simple_pod();
    object["metadata"] = json!({"generateName": "web-"});
    let made = Cluster::new().created(object);
    assert_eq!(made.name(), "web-x7k2p");
    assert_eq!((made.uid(), made.namespace()), ("0b1c", "default"));
    assert_eq!(made["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
}

#[test]
fn broken_rules_are_named_with_their_fields() {
    let cluster = Cluster::new();
    let check = |object: Value, expected: &[&str]| {
        let causes = cluster.causes(object.clone());
        for one in expected {
            assert!(causes.iter().any(|cause| cause.starts_with(one)), "{one} is not in {causes:#?}");
        }
        assert_eq!(causes.len(), expected.len(), "{causes:#?}");
    };
    check(pod(json!({})), &["spec.containers: Required value"]);
    let containers = json!([{"name": "A", "image": "x"}, {"name": "b"}, {"name": "b", "image": "x"}]);
    check(
        pod(json!({"containers": containers})),
        &[
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of",
            "spec.containers[1].image: Required value",
            "spec.containers[2].name: Duplicate value: \"b\"",
        ],
    );
    let container = json!({
        "name": "c", "image": "x", "volumeMounts": [{"name": "missing", "mountPath": "/a"}],
        "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
        "readinessProbe": {"periodSeconds": 3},
    });
    check(
        pod(json!({"containers": [container], "restartPolicy": "Sometimes"})),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"missing\"",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ],
    );
    check(
        deployment(|spec| spec["selector"] = json!({"matchLabels": {"app": "db"}})),
        &[
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ],
    );
    check(
        deployment(|spec| spec["replicas"] = json!(-1)),
        &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    );
    check(
        deployment(|spec| spec["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}})),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    check(service(json!({})), &["spec.ports: Required value"]);
    check(
        service(json!({"ports": [{"port": 80}, {"port": 80}]})),
        &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value", "spec.ports[1]: Duplicate value"],
    );
    check(
        service(json!({"ports": [{"port": 70000, "targetPort": 80}]})),
        &["spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
    );
    let bad_key = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a/b": "x"}});
    check(bad_key, &["data[a/b]: Invalid value: \"a/b\": a valid config key must consist of"]);
    let bad_label = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"a": "b c"}}});
    check(bad_label, &["metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist of"]);
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    check(nameless, &["metadata.name: Required value: name or generateName is required"]);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0}});
    check(lease, &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]);
}

#[test]
fn an_invalid_object_is_named_in_the_message() {
    let error = Cluster::new().create(pod(json!({}))).expect_err("because there are no containers");
    assert_eq!(error.message, "Pod \"p\" is invalid: spec.containers: Required value");
    let error =
        Cluster::new().create(deployment(|spec| spec["replicas"] = json!(-1))).expect_err("because -1 is refused");
    let text =
        "Deployment.apps \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!(error.message, text);
}

#[test]
fn some_fields_never_change() {
    let cluster = Cluster::new();
    let check = |object: Value, change: &dyn Fn(&mut Value), expected: &str| {
        let old = cluster.created(object);
        let mut new = old.clone();
        change(&mut new);
        let error = cluster.update(&old, new, Endpoint::Main).expect_err("because the field is immutable");
        assert!(error.message.contains(expected), "{}", error.message);
    };
    check(
        deployment(|_| {}),
        &|new| {
            new["spec"]["selector"] = json!({"matchLabels": {"app": "x"}});
            new["spec"]["template"]["metadata"]["labels"] = json!({"app": "x"});
        },
        "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable",
    );
    check(
        simple_pod(),
        &|new| new["spec"]["nodeName"] = json!("elsewhere"),
        "spec: Forbidden: pod updates may not change fields other than",
    );
    check(
        service(json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]})),
        &|new| new["spec"]["clusterIP"] = json!("10.96.0.10"),
        "spec.clusterIP: Invalid value: \"10.96.0.10\": field is immutable",
    );
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    check(secret, &|new| new["type"] = json!("x"), "type: Invalid value: \"x\": field is immutable");
    let frozen = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "immutable": true});
    check(
        frozen,
        &|new| new["data"] = json!({"a": "b"}),
        "data: Forbidden: field is immutable when `immutable` is set",
    );
}

#[test]
fn the_image_of_a_pod_may_change() {
    let cluster = Cluster::new();
    let old = cluster.created(simple_pod());
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("nginx:1.28");
    let made = cluster.update(&old, new, Endpoint::Main).expect("because images may change");
    assert_eq!(made["spec"]["containers"][0]["image"], "nginx:1.28");
    assert_eq!(made["metadata"]["generation"], 2);
}

#[test]
fn spec_and_status_are_written_apart() {
    let cluster = Cluster::new();
    let old = cluster.created(deployment(|_| {}));
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(3);
    new["status"] = json!({"replicas": 3});
    let main = cluster.update(&old, new.clone(), Endpoint::Main).expect("because the change is valid");
    assert_eq!((&main["spec"]["replicas"], &main["status"]), (&json!(3), &json!({})));
    assert_eq!(main["metadata"]["generation"], 2);
    let status = cluster.update(&old, new, Endpoint::Status).expect("because the change is valid");
    assert_eq!((&status["spec"]["replicas"], &status["status"]), (&json!(1), &json!({"replicas": 3})));
    assert_eq!(status["metadata"]["generation"], 1);
}

#[test]
fn a_stale_version_conflicts() {
    let cluster = Cluster::new();
    let old = cluster.created(simple_pod());
    let mut stale = old.clone();
    stale.set_resource_version(6);
    let error = cluster.update(&old, stale, Endpoint::Main).expect_err("because the version is old");
    let text = "Operation cannot be fulfilled on pods \"p\": the object has been modified; please apply your changes to the latest version and try again";
    assert_eq!((error.code(), error.message.as_str()), (409, text));
    let lease =
        cluster.created(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}}));
    let mut blind = lease.clone();
    object::remove(&mut blind, &["metadata"], "resourceVersion");
    let error = cluster.update(&lease, blind, Endpoint::Main).expect_err("because leases want the version");
    assert!(error.message.contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"));
}

#[test]
fn an_update_without_a_difference_changes_nothing() {
    let cluster = Cluster::new();
    for object in [simple_pod(), deployment(|_| {}), service(json!({"ports": [{"port": 80}]}))] {
        let old = cluster.created(object);
        let made = cluster.update(&old, old.clone(), Endpoint::Main).expect("because nothing changes");
        assert!(write::is_unchanged(&old, &made), "{old:#}\n{made:#}");
    }
}

#[test]
fn pods_are_deleted_with_grace() {
    let cluster = Cluster::new();
    let kind = cluster.kind(&simple_pod());
    let mut pod = cluster.created(simple_pod());
    let plan = |pod: &Value, grace: Option<i64>| {
        let options = DeleteOptions { grace_seconds: grace, ..DeleteOptions::default() };
        delete::plan(kind, pod, &options, cluster.now).expect("because there are no preconditions")
    };
    assert!(matches!(plan(&pod, None), DeletePlan::Remove(_)), "a pod that never started goes at once");
    pod["spec"]["nodeName"] = json!("cp1");
    let DeletePlan::Mark(marked) = plan(&pod, None) else { panic!("a running pod is marked") };
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2023-11-14T22:13:50Z");
    assert!(!delete::is_complete(kind, &marked));
    assert_eq!(plan(&marked, None), DeletePlan::Pending);
    assert_eq!(plan(&marked, Some(60)), DeletePlan::Pending, "grace only becomes shorter");
    let DeletePlan::Mark(sooner) = plan(&marked, Some(5)) else { panic!("grace becomes shorter") };
    assert_eq!(sooner["metadata"]["deletionTimestamp"], "2023-11-14T22:13:25Z");
    assert!(matches!(plan(&marked, Some(0)), DeletePlan::Remove(_)), "the node's last word");
}

#[test]
fn finalizers_and_propagation_keep_an_object() {
    let cluster = Cluster::new();
    let object = cluster.created(deployment(|_| {}));
    let kind = cluster.kind(&object);
    let plan = |object: &Value, propagation| {
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        delete::plan(kind, object, &options, cluster.now).expect("because there are no preconditions")
    };
    assert!(matches!(plan(&object, None), DeletePlan::Remove(_)));
    assert!(matches!(plan(&object, Some(Propagation::Background)), DeletePlan::Remove(_)));
    for (propagation, finalizer) in [(Propagation::Foreground, "foregroundDeletion"), (Propagation::Orphan, "orphan")] {
        let DeletePlan::Mark(marked) = plan(&object, Some(propagation)) else { panic!("the finalizer keeps it") };
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(plan(&marked, None), DeletePlan::Pending);
        let mut released = marked;
        object::remove(&mut released, &["metadata"], "finalizers");
        assert!(delete::is_complete(kind, &released));
    }
    let options = DeleteOptions { uid: Some("other".into()), ..DeleteOptions::default() };
    assert_eq!(delete::plan(kind, &object, &options, cluster.now).expect_err("because the UID differs").code(), 409);
}

#[test]
fn a_namespace_stays_until_it_is_finalized() {
    let cluster = Cluster::new();
    let namespace = cluster.created(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}));
    let kind = cluster.kind(&namespace);
    let plan = delete::plan(kind, &namespace, &DeleteOptions::default(), cluster.now);
    let DeletePlan::Mark(mut marked) = plan.expect("because there are no preconditions") else {
        panic!("it is marked")
    };
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert!(!delete::is_complete(kind, &marked));
    marked["spec"]["finalizers"] = json!([]);
    assert!(delete::is_complete(kind, &marked));
}

#[test]
fn a_change_of_service_type_takes_its_node_ports_back() {
    let cluster = Cluster::new();
    let old = cluster.created(service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]})));
    let mut new = old.clone();
    new["spec"]["type"] = json!("ClusterIP");
    let made = cluster.update(&old, new, Endpoint::Main).expect("because the type may change");
    assert_eq!(made["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(made["spec"].get("externalTrafficPolicy"), None);
}

#[test]
fn pods_are_printed_by_their_state() {
    let cluster = Cluster::new();
    let running = json!({"name": "c", "ready": true, "restartCount": 2, "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": "2023-11-14T22:08:20Z"}}});
    let crashing = json!({"name": "c", "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    let exited = json!({"name": "c", "state": {"terminated": {"exitCode": 3}}});
    let check = |status: Value, ready: &str, state: &str, restarts: &str| {
        let mut pod = simple_pod();
        pod["metadata"]["creationTimestamp"] = json!("2023-11-14T21:13:20Z");
        pod["status"] = status;
        let cells = cluster.cells(&pod);
        assert_eq!(cells[..5], [json!("p"), json!(ready), json!(state), json!(restarts), json!("60m")]);
    };
    check(json!({"phase": "Pending"}), "0/1", "Pending", "0");
    check(json!({"phase": "Running", "containerStatuses": [running]}), "1/1", "Running", "2 (5m ago)");
    check(json!({"phase": "Running", "containerStatuses": [crashing]}), "0/1", "CrashLoopBackOff", "5");
    check(json!({"phase": "Failed", "containerStatuses": [exited]}), "0/1", "ExitCode:3", "0");
    check(json!({"phase": "Failed", "reason": "Evicted"}), "0/1", "Evicted", "0");
}

#[test]
fn tables_have_kubectls_columns() {
    let cluster = Cluster::new();
    let check = |object: Value, columns: &[&str], cells: Value| {
        let kind = cluster.kind(&object);
        let table = table::of_object(kind, &object, IncludeObject::Metadata, cluster.now);
        let list = |value: &Value| value.as_array().expect("because it is a list").clone();
        let all = list(&table["columnDefinitions"]).into_iter().zip(list(&table["rows"][0]["cells"]));
        let (titles, row): (Vec<Value>, Vec<Value>) =
            all.filter(|(one, _)| one["priority"] == 0).map(|(one, cell)| (one["name"].clone(), cell)).unzip();
        assert_eq!((json!(titles), json!(row)), (json!(columns), cells));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    };
    let mut web = deployment(|spec| spec["replicas"] = json!(2));
    web["metadata"]["creationTimestamp"] = json!("2023-11-14T22:13:15Z");
    web["status"] = json!({"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1});
    check(web, &["Name", "Ready", "Up-to-date", "Available", "Age"], json!(["web", "1/2", 2, 1, "5s"]));
    let mut web = service(
        json!({"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}),
    );
    web["metadata"]["creationTimestamp"] = json!("2023-11-14T22:13:15Z");
    let columns = ["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age"];
    check(web, &columns, json!(["web", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP", "5s"]));
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "cp1", "creationTimestamp": "2023-11-14T22:13:15Z", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}},
    });
    let cells = json!(["cp1", "Ready,SchedulingDisabled", "control-plane", "5s", "v1.36.0"]);
    check(node, &["Name", "Status", "Roles", "Age", "Version"], cells);
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "p.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "Started",
        "message": "Started container c", "lastTimestamp": "2023-11-14T22:13:10Z",
    });
    let columns = ["Last Seen", "Type", "Reason", "Object", "Message"];
    check(event, &columns, json!(["10s", "Normal", "Started", "pod/p", "Started container c"]));
}

#[test]
fn both_versions_of_events_share_their_storage() {
    let registry = Registry::builtin();
    let kind = registry.kind("events.k8s.io/v1", "Event").expect("because the kind is built in");
    let sent = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"kind": "Pod"}});
    let mut stored = sent.clone();
    kind.to_storage(&mut stored);
    assert_eq!(stored, json!({"apiVersion": "v1", "kind": "Event", "message": "n", "involvedObject": {"kind": "Pod"}}));
    kind.from_storage(&mut stored);
    assert_eq!(stored, sent);
    assert_eq!(kind.storage_prefix(), "core/events");
}

fn budget(spec: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": spec})
}

#[test]
fn a_budget_has_one_bound_and_it_is_a_number_or_a_percentage_of_at_most_100() {
    let cluster = Cluster::new();
    for good in [
        json!({"minAvailable": 2}),
        json!({"minAvailable": "100%"}),
        json!({"maxUnavailable": 0, "selector": {}}),
        json!({"maxUnavailable": "25%", "unhealthyPodEvictionPolicy": "AlwaysAllow"}),
        json!({}),
    ] {
        let made = cluster.created(budget(good));
        let zero = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
        assert_eq!((&made["status"], &made["metadata"]["generation"]), (&zero, &json!(1)));
    }
    let cases = [
        (json!({"minAvailable": 1, "maxUnavailable": 1}), "spec: Invalid value: "),
        (json!({"minAvailable": -1}), "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"),
        (json!({"minAvailable": "101%"}), "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"),
        (
            json!({"maxUnavailable": "101%"}),
            "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ),
        (json!({"maxUnavailable": "many"}), "spec.maxUnavailable: Invalid value: \"many\": a valid percent string"),
        (
            json!({"minAvailable": 1, "selector": {"matchLabels": {"a b": "c"}}}),
            "spec.selector.matchLabels: Invalid value: \"a b\"",
        ),
        (
            json!({"minAvailable": 1, "unhealthyPodEvictionPolicy": "Never"}),
            "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
        ),
    ];
    for (spec, expected) in cases {
        let causes = cluster.causes(budget(spec.clone()));
        assert!(causes.iter().any(|cause| cause.starts_with(expected)), "{spec}: {causes:?}");
    }
}

#[test]
fn a_budgets_spec_may_change_its_status_only_to_what_makes_sense_and_never_without_a_version() {
    let cluster = Cluster::new();
    let old = cluster.created(budget(json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}})));
    let mut new = old.clone();
    new["spec"] = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "other"}}});
    let changed = cluster.update(&old, new, Endpoint::Main).expect("because the selector is mutable, as upstream");
    assert_eq!(changed["metadata"]["generation"], 2);

    for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        let mut new = old.clone();
        new["status"][key] = json!(-1);
        let refused = cluster.update(&old, new, Endpoint::Status).expect_err("because it is below zero");
        assert_eq!(refused.code(), 422, "{key}");
    }
    let mut new = old.clone();
    new["status"]["conditions"] = json!([{"type": "DisruptionAllowed", "status": "Perhaps"}]);
    assert_eq!(cluster.update(&old, new, Endpoint::Status).map_err(|error| error.code()), Err(422));

    let mut new = old.clone();
    object::remove(&mut new, &["metadata"], "resourceVersion");
    assert_eq!(cluster.update(&old, new, Endpoint::Status).map_err(|error| error.code()), Err(422));
}

#[test]
fn budgets_are_printed_with_both_bounds_and_what_they_allow() {
    let cluster = Cluster::new();
    let made = cluster.created(budget(json!({"maxUnavailable": "25%"})));
    assert_eq!(cluster.cells(&made)[..4], [json!("web"), json!("N/A"), json!("25%"), json!(0)]);
    let made = cluster.created(budget(json!({"minAvailable": 3})));
    assert_eq!(cluster.cells(&made)[..4], [json!("web"), json!("3"), json!("N/A"), json!(0)]);
}
