//! JSON, merge and strategic merge patches; the strategic ones against upstream's documentation and what kubectl sends.

use controlplane_types::decode::{FieldValidation, parse};
use controlplane_types::patch::{PatchType, checked, patched};
use controlplane_types::{ApiError, Registry};
use serde_json::{Value, json};

fn patch(kind: &str, patch_type: PatchType, old: &Value, change: Value) -> Result<Value, ApiError> {
    let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
    let registry = Registry::builtin();
    let kind = registry.kind(version, kind).expect("because the kind is built in");
    patched(kind, patch_type, old, change)
}

fn check_strategic(kind: &str, old: Value, change: Value, expected: Value) {
    let new = patch(kind, PatchType::Strategic, &old, change.clone()).expect("because the patch is good");
    assert_eq!(new, expected, "{change}");
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

#[test]
fn containers_are_merged_by_name() {
    let old = pod(json!([{"name": "a", "image": "x", "tty": true}, {"name": "b", "image": "y"}]));
    let change = pod(json!([{"name": "a", "image": "z"}, {"name": "c", "image": "w"}]));
    let expected = pod(
        json!([{"name": "a", "image": "z", "tty": true}, {"name": "b", "image": "y"}, {"name": "c", "image": "w"}]),
    );
    check_strategic("Pod", old, change, expected);
}

#[test]
fn the_delete_directive_removes_an_entry() {
    let old = pod(json!([{"name": "a"}, {"name": "b"}]));
    check_strategic("Pod", old, pod(json!([{"name": "a", "$patch": "delete"}])), pod(json!([{"name": "b"}])));
}

#[test]
fn the_replace_directive_replaces_a_list_or_a_map() {
    let old = pod(json!([{"name": "a"}, {"name": "b"}]));
    check_strategic("Pod", old, pod(json!([{"name": "c"}, {"$patch": "replace"}])), pod(json!([{"name": "c"}])));
    let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    let change = json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}});
    check_strategic("Pod", old, change, json!({"metadata": {"labels": {"c": "3"}}}));
}

#[test]
fn lists_without_a_merge_key_are_replaced() {
    let old = json!({"spec": {"tolerations": [{"key": "a"}]}});
    let change = json!({"spec": {"tolerations": [{"key": "b"}]}});
    check_strategic("Pod", old, change.clone(), change);
}

#[test]
fn null_removes_a_field() {
    let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    check_strategic(
        "Pod",
        old,
        json!({"metadata": {"labels": {"a": null}}}),
        json!({"metadata": {"labels": {"b": "2"}}}),
    );
}

#[test]
fn primitive_lists_are_united_and_emptied_by_directive() {
    let old = json!({"metadata": {"finalizers": ["a", "b"]}});
    check_strategic(
        "Pod",
        old.clone(),
        json!({"metadata": {"finalizers": ["c"]}}),
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
    );
    let change = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
    check_strategic("Pod", old, change, json!({"metadata": {"finalizers": ["b"]}}));
}

#[test]
fn retain_keys_drops_the_other_members_of_a_union() {
    let old = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let change = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    check_strategic("Deployment", old, change, json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn set_element_order_sorts_what_the_client_knows() {
    let old = pod(json!([{"name": "a"}, {"name": "server"}, {"name": "b"}]));
    let change = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
        "containers": [{"name": "c", "image": "new"}],
    }});
    let new = patch("Pod", PatchType::Strategic, &old, change).expect("because the patch is good");
    let list = new["spec"]["containers"].as_array().expect("because there are containers");
    let known: Vec<&str> =
        list.iter().filter_map(|item| item["name"].as_str()).filter(|name| *name != "server").collect();
    assert_eq!(known, ["b", "c", "a"]);
    assert_eq!(list.len(), 4);
}

#[test]
fn service_ports_are_merged_by_port() {
    let old = json!({"spec": {"ports": [{"port": 80, "name": "http", "nodePort": 30000}]}});
    let change = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
    let expected = json!({"spec": {"ports": [{"port": 80, "name": "http", "nodePort": 30000, "targetPort": 8080}]}});
    check_strategic("Service", old, change, expected);
}

#[test]
fn an_entry_without_its_key_is_refused() {
    let error = patch("Pod", PatchType::Strategic, &pod(json!([{"name": "a"}])), pod(json!([{"image": "x"}])));
    let error = error.expect_err("because the key is missing");
    assert_eq!(error.code(), 400);
    assert!(error.message.contains("does not contain declared merge key: name"), "{}", error.message);
}

#[test]
fn json_patch_operations_run_in_order() {
    let old = json!({"data": {"a": "1"}});
    let change = json!([
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "add", "path": "/data/b", "value": "2"},
        {"op": "remove", "path": "/data/a"},
    ]);
    let new = patch("ConfigMap", PatchType::Json, &old, change).expect("because the patch is good");
    assert_eq!(new, json!({"data": {"b": "2"}}));
}

#[test]
fn a_failed_test_operation_is_invalid() {
    let change = json!([{"op": "test", "path": "/data/a", "value": "2"}]);
    let error = patch("ConfigMap", PatchType::Json, &json!({"data": {"a": "1"}}), change);
    assert_eq!(error.expect_err("because the test fails").code(), 422);
}

#[test]
fn too_many_json_operations_are_refused() {
    let change: Vec<Value> = (0..10_001).map(|_| json!({"op": "remove", "path": "/x"})).collect();
    let error = patch("ConfigMap", PatchType::Json, &json!({}), json!(change));
    assert_eq!(error.expect_err("because the limit is 10000").code(), 413);
}

#[test]
fn copies_beyond_the_limit_are_refused() {
    let old = json!({"data": {"a": "x".repeat(1024 * 1024)}});
    let change: Vec<Value> =
        (0..8).map(|at| json!({"op": "copy", "from": "/data/a", "path": format!("/data/copy{at}")})).collect();
    let error = patch("ConfigMap", PatchType::Json, &old, json!(change));
    assert_eq!(error.expect_err("because the copies add up").code(), 413);
}

#[test]
fn merge_patch_replaces_lists_and_removes_nulls() {
    let old = json!({"spec": {"containers": [{"name": "a"}], "hostname": "h"}});
    let change = json!({"spec": {"containers": [{"name": "b"}], "hostname": null}});
    let new = patch("Pod", PatchType::Merge, &old, change).expect("because the patch is good");
    assert_eq!(new, json!({"spec": {"containers": [{"name": "b"}]}}));
}

#[test]
fn a_patch_cannot_give_an_object_the_wrong_shape() {
    for (patch_type, change) in [
        (PatchType::Json, json!([{"op": "add", "path": "/spec", "value": {"replicas": "two"}}])),
        (PatchType::Merge, json!({"spec": {"replicas": "two"}})),
        (PatchType::Strategic, json!({"spec": "two"})),
    ] {
        let error = patch("Deployment", patch_type, &json!({}), change).expect_err("because the type is wrong");
        assert!(error.message.contains("cannot unmarshal string into Go struct field spec"), "{}", error.message);
    }
}

#[test]
fn unknown_fields_of_a_patch_are_refused_when_the_client_is_strict() {
    let registry = Registry::builtin();
    let kind = registry.kind("apps/v1", "Deployment").expect("because the kind is built in");
    let change = || parse(br#"{"spec":{"replicas":1,"replicas":2,"unknown":1}}"#).expect("because it is JSON");
    let run = |validation| checked(kind, PatchType::Merge, &json!({}), change(), validation);
    let error = run(FieldValidation::Strict).expect_err("because a field is unknown");
    let text = "strict decoding error: unknown field \"spec.unknown\", duplicate field \"spec.replicas\"";
    assert!(error.message.ends_with(text), "{}", error.message);
    let decoded = run(FieldValidation::Warn).expect("because warnings do not refuse");
    assert_eq!((decoded.object, decoded.warnings.len()), (json!({"spec": {"replicas": 2}}), 2));
}
