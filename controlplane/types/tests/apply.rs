//! Server-side apply, against what KEP-555 and upstream's documentation say of ownership, conflicts and removal.

use controlplane_types::write::WriteContext;
use controlplane_types::{ApiError, Endpoint, KindInfo, Registry, apply};
use jiff::Timestamp;
use serde_json::{Value, json};

struct Cluster {
    registry: Registry,
}

impl Cluster {
    fn new() -> Self {
        Cluster { registry: Registry::builtin() }
    }

    fn kind(&self, api_version: &str, kind: &str) -> &KindInfo {
        self.registry.kind(api_version, kind).expect("because the kind is built in")
    }

    fn context<'a>(&'a self, object: &'a Value, manager: &'a str) -> WriteContext<'a> {
        let text = |value: &'a Value| value.as_str().unwrap_or_default();
        WriteContext {
            kind: self.kind(text(&object["apiVersion"]), text(&object["kind"])),
            namespace: "default",
            name: text(&object["metadata"]["name"]),
            endpoint: Endpoint::Main,
            manager,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn apply(&self, old: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, ApiError> {
        apply::apply(&self.context(config, manager), old, config.clone(), force)
    }

    fn applied(&self, old: Option<&Value>, config: &Value, manager: &str) -> Value {
        self.apply(old, config, manager, false).expect("because nothing conflicts")
    }

    fn updated(&self, old: &Value, mut new: Value, manager: &str) -> Value {
        apply::track(&self.context(old, manager), Some(old), &mut new);
        new
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn containers(list: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": list}}}))
}

fn fields_of<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().expect("because something is managed");
    &entries.iter().find(|entry| entry["manager"] == manager).expect("because the manager owns something")["fieldsV1"]
}

fn managers(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array();
    entries.into_iter().flatten().filter_map(|entry| entry["manager"].as_str()).collect()
}

#[test]
fn applied_fields_are_owned_by_key_and_without_identity() {
    let config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"spec": {
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}],
                "nodeSelector": {"zone": "a"},
            }},
        },
    });
    let object = Cluster::new().applied(None, &config, "kubectl");
    let expected = json!({
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {"f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:image": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }},
                "f:nodeSelector": {},
            }},
        },
    });
    assert_eq!(fields_of(&object, "kubectl"), &expected);
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["operation"], &entry["apiVersion"], &entry["fieldsType"], &entry["time"]),
        (&json!("Apply"), &json!("apps/v1"), &json!("FieldsV1"), &json!("1970-01-01T00:00:00Z")),
    );
}

#[test]
fn created_fields_are_owned_with_their_maps() {
    let cluster = Cluster::new();
    let mut object = config_map(json!({"a": "1"}));
    apply::track(&cluster.context(&object.clone(), "kubectl-create"), None, &mut object);
    assert_eq!(fields_of(&object, "kubectl-create"), &json!({"f:data": {".": {}, "f:a": {}}}));
    assert_eq!(object["metadata"]["managedFields"][0]["operation"], json!("Update"));
}

#[test]
fn a_field_of_another_manager_conflicts() {
    let cluster = Cluster::new();
    let old = cluster.applied(None, &config_map(json!({"a": "1", "b": "1"})), "one");
    let error =
        cluster.apply(Some(&old), &config_map(json!({"a": "2"})), "two", false).expect_err("because a is owned");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let status = error.status();
    assert_eq!((&status["code"], &status["reason"]), (&json!(409), &json!("Conflict")));
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.a"});
    assert_eq!(status["details"]["causes"], json!([cause]));
}

#[test]
fn several_conflicts_are_listed_by_manager_with_the_version_of_updates() {
    let cluster = Cluster::new();
    let old = cluster.applied(None, &config_map(json!({})), "one");
    let mut new = old.clone();
    new["data"] = json!({"a": "1", "b": "1"});
    let old = cluster.updated(&old, new, "editor");
    let error = cluster.apply(Some(&old), &config_map(json!({"a": "2", "b": "2"})), "two", false);
    let text = "Apply failed with 2 conflicts: conflicts with \"editor\" using v1:\n- .data.a\n- .data.b";
    assert_eq!(error.expect_err("because both are owned").message, text);
}

#[test]
fn force_takes_the_field_from_its_owner() {
    let cluster = Cluster::new();
    let old = cluster.applied(None, &config_map(json!({"a": "1", "b": "1"})), "one");
    let new = cluster.apply(Some(&old), &config_map(json!({"a": "2"})), "two", true).expect("because it is forced");
    assert_eq!(new["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(fields_of(&new, "one"), &json!({"f:data": {"f:b": {}}}));
    assert_eq!(fields_of(&new, "two"), &json!({"f:data": {"f:a": {}}}));
}

#[test]
fn the_same_value_is_owned_together() {
    let cluster = Cluster::new();
    let old = cluster.applied(None, &config_map(json!({"a": "1"})), "one");
    let both = cluster.applied(Some(&old), &config_map(json!({"a": "1"})), "two");
    assert_eq!(managers(&both), ["one", "two"]);
    // The field stays as long as one of them wants it.
    let mut nothing = config_map(json!({}));
    nothing.as_object_mut().expect("because it is an object").remove("data");
    let left = cluster.applied(Some(&both), &nothing, "one");
    assert_eq!(left["data"], json!({"a": "1"}));
    assert_eq!(managers(&left), ["two"]);
    let gone = cluster.applied(Some(&left), &nothing, "two");
    assert_eq!(gone.get("data"), None);
}

#[test]
fn what_the_manager_no_longer_applies_is_removed() {
    let cluster = Cluster::new();
    let check = |before: Value, after: Value, expected: Value| {
        let old = cluster.applied(None, &before, "kubectl");
        let new = cluster.applied(Some(&old), &after, "kubectl");
        assert_eq!(new["spec"], expected["spec"], "{after}");
        assert_eq!(new["data"], expected["data"], "{after}");
    };
    check(config_map(json!({"a": "1", "b": "1"})), config_map(json!({"a": "1"})), config_map(json!({"a": "1"})));
    check(
        deployment(json!({"replicas": 2, "paused": true})),
        deployment(json!({"paused": true})),
        deployment(json!({"paused": true})),
    );
    let (a, b) = (json!({"name": "a", "image": "x"}), json!({"name": "b", "image": "x"}));
    check(containers(json!([a, b])), containers(json!([b])), containers(json!([b])));
    let with_env =
        json!({"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "1"}]});
    let less_env = json!({"name": "a", "image": "x", "env": [{"name": "F", "value": "1"}]});
    check(containers(json!([with_env])), containers(json!([less_env])), containers(json!([less_env])));
    check(containers(json!([with_env])), containers(json!([a])), containers(json!([a])));
}

#[test]
fn metadata_stays_when_the_manager_no_longer_wants_labels() {
    // Nobody owns name and UID; the whole of metadata once went with the last label.
    let cluster = Cluster::new();
    let mut config = config_map(json!({"a": "1"}));
    config["metadata"]["labels"] = json!({"app": "web"});
    let mut live = cluster.applied(None, &config, "kubectl");
    live["metadata"]["uid"] = json!("0b1c");
    live["metadata"]["ownerReferences"] = json!([{"uid": "x"}]);
    let new = cluster.applied(Some(&live), &config_map(json!({"a": "1"})), "kubectl");
    let mut metadata = new["metadata"].clone();
    metadata.as_object_mut().expect("because metadata is an object").remove("managedFields");
    assert_eq!(metadata, json!({"name": "settings", "uid": "0b1c", "ownerReferences": [{"uid": "x"}]}));
}

#[test]
fn what_others_added_stays() {
    let cluster = Cluster::new();
    let config = containers(json!([{"name": "a", "image": "x"}]));
    let old = cluster.applied(None, &config, "kubectl");
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"] = json!("/dev/log");
    let list = new["spec"]["template"]["spec"]["containers"].as_array_mut().expect("because there are containers");
    list.push(json!({"name": "side", "image": "y"}));
    let old = cluster.updated(&old, new, "injector");
    let again = cluster.applied(Some(&old), &config, "kubectl");
    let expected =
        json!([{"name": "a", "image": "x", "terminationMessagePath": "/dev/log"}, {"name": "side", "image": "y"}]);
    assert_eq!(again["spec"]["template"]["spec"]["containers"], expected);
}

#[test]
fn an_entry_whose_other_fields_others_own_keeps_its_key() {
    let cluster = Cluster::new();
    let old = cluster.applied(None, &containers(json!([{"name": "a", "image": "x"}])), "kubectl");
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["containers"][0]["workingDir"] = json!("/srv");
    let old = cluster.updated(&old, new, "editor");
    let left = cluster.applied(Some(&old), &deployment(json!({"replicas": 1})), "kubectl");
    assert_eq!(left["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "workingDir": "/srv"}]));
}

#[test]
fn entries_follow_the_applied_order_and_foreign_ones_keep_their_place() {
    let cluster = Cluster::new();
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().expect("because there are containers");
        list.iter().map(|item| item["name"].as_str().unwrap_or_default().to_string()).collect()
    };
    let list = |names: &[&str]| containers(names.iter().map(|name| json!({"name": name})).collect());
    for (live, config, expected) in [
        (&["x", "a", "y", "b", "z"][..], &["a", "b"][..], &["x", "a", "y", "b", "z"][..]),
        (&["a", "b"], &["b", "a"], &["b", "a"]),
        (&["a", "x"], &["new", "a"], &["new", "a", "x"]),
        (&["x", "a"], &["new"], &["x", "a", "new"]),
    ] {
        let new = cluster.apply(Some(&list(live)), &list(config), "m", true);
        assert_eq!(names(&new.expect("because it is forced")), expected, "{config:?} on {live:?}");
    }
}

#[test]
fn an_atomic_list_is_replaced_as_a_whole() {
    let cluster = Cluster::new();
    let with = |args: Value| containers(json!([{"name": "a", "args": args}]));
    let old = cluster.applied(None, &with(json!(["1", "2"])), "kubectl");
    let new = cluster.applied(Some(&old), &with(json!(["3"])), "kubectl");
    assert_eq!(new["spec"]["template"]["spec"]["containers"][0]["args"], json!(["3"]));
    let error = cluster.apply(Some(&new), &with(json!(["4"])), "other", false).expect_err("because args are owned");
    let path = ".spec.template.spec.containers[name=\"a\"].args";
    assert_eq!(error.message, format!("Apply failed with 1 conflict: conflict with \"kubectl\": {path}"));
}

#[test]
fn a_set_holds_entries_of_several_managers() {
    let cluster = Cluster::new();
    let with =
        |list: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s", "finalizers": list}});
    let old = cluster.applied(None, &with(json!(["a.dev/x"])), "one");
    let both = cluster.applied(Some(&old), &with(json!(["b.dev/y"])), "two");
    assert_eq!(both["metadata"]["finalizers"], json!(["a.dev/x", "b.dev/y"]));
    assert_eq!(fields_of(&both, "two"), &json!({"f:metadata": {"f:finalizers": {"v:\"b.dev/y\"": {}}}}));
    let left = cluster.applied(Some(&both), &with(json!([])), "one");
    assert_eq!(left["metadata"]["finalizers"], json!(["b.dev/y"]));
}

#[test]
fn an_entry_twice_in_a_configuration_is_refused() {
    let twice = containers(json!([{"name": "a"}, {"name": "a"}]));
    let error = Cluster::new().apply(None, &twice, "kubectl", false).expect_err("because a occurs twice");
    assert!(error.message.contains(".spec.template.spec.containers: duplicate entries for key"), "{}", error.message);
}

#[test]
fn kubectl_takes_over_what_client_side_apply_set() {
    let cluster = Cluster::new();
    let sent = config_map(json!({"a": "1"}));
    let mut object = sent.clone();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": sent.to_string()});
    apply::track(&cluster.context(&sent, "kubectl-client-side-apply"), None, &mut object);
    let next = config_map(json!({"a": "2"}));
    let new = cluster.apply(Some(&object), &next, "kubectl", false).expect("because kubectl takes over from itself");
    assert_eq!(new["data"], json!({"a": "2"}));
    let annotation = &new["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    let kept: Value = serde_json::from_str(annotation.as_str().unwrap_or_default()).expect("because it is JSON");
    assert_eq!(kept, next, "the annotation says what was applied last");
    let error = cluster.apply(Some(&object), &next, "someone", false).expect_err("because only kubectl may");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a"
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let cluster = Cluster::new();
    let config = config_map(json!({"a": "1"}));
    let old = cluster.applied(None, &config, "kubectl");
    let mut context = cluster.context(&config, "kubectl");
    context.now = Timestamp::from_second(1_000_000).expect("because the time is in range");
    let again = apply::apply(&context, Some(&old), config.clone(), false).expect("because nothing conflicts");
    assert_eq!(again, old);
}

#[test]
fn managed_fields_in_a_configuration_are_refused() {
    let mut config = config_map(json!({}));
    config["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let error = Cluster::new().apply(None, &config, "kubectl", true).expect_err("because managedFields are ours");
    assert_eq!(error.message, "metadata.managedFields must be nil");
}

#[test]
fn a_single_empty_entry_resets_managed_fields() {
    let cluster = Cluster::new();
    let old = cluster.applied(None, &config_map(json!({"a": "1"})), "kubectl");
    let mut new = old.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(cluster.updated(&old, new, "editor")["metadata"].get("managedFields"), None);
}

#[test]
fn status_belongs_to_the_status_endpoint() {
    let cluster = Cluster::new();
    let mut config = deployment(json!({"replicas": 1}));
    config["status"] = json!({"replicas": 5});
    let main = cluster.applied(None, &config, "kubectl");
    assert_eq!(main.get("status"), None);
    let mut context = cluster.context(&config, "controller");
    context.endpoint = Endpoint::Status;
    let status = apply::apply(&context, Some(&main), config.clone(), false).expect("because nothing conflicts");
    assert_eq!(fields_of(&status, "controller"), &json!({"f:status": {"f:replicas": {}}}));
    let entries = status["metadata"]["managedFields"].as_array().expect("because something is managed");
    assert!(entries.iter().any(|entry| entry["subresource"] == "status" && entry["manager"] == "controller"));
}
