//! Registry, discovery and OpenAPI: what clients learn of the server.

use controlplane_types::{Registry, Scope, discovery, openapi};
use serde_json::{Value, json};

fn find<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    list.as_array().into_iter().flatten().find(|one| one[key] == name).expect("because it is listed")
}

#[test]
fn kinds_are_found_by_path_and_by_name() {
    let registry = Registry::builtin();
    for (group, version, plural, kind, scope) in [
        ("", "v1", "pods", "Pod", Scope::Namespaced),
        ("", "v1", "nodes", "Node", Scope::Cluster),
        ("apps", "v1", "deployments", "Deployment", Scope::Namespaced),
        ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", Scope::Namespaced),
        ("coordination.k8s.io", "v1", "leases", "Lease", Scope::Namespaced),
        ("events.k8s.io", "v1", "events", "Event", Scope::Namespaced),
        ("cairn.dev", "v1alpha1", "commits", "Commit", Scope::Cluster),
        ("cairn.dev", "v1alpha1", "machines", "Machine", Scope::Cluster),
    ] {
        let found = registry.resource(group, version, plural).expect("because the kind is built in");
        assert_eq!((found.kind.as_str(), found.scope), (kind, scope));
        let same = registry.kind(&found.api_version(), kind).expect("because the kind is built in");
        assert_eq!(same.plural, plural);
        assert_ne!(found.schema.shape, controlplane_types::schema::Shape::Any, "{kind} has a schema");
    }
    assert!(registry.resource("", "v1", "deployments").is_none());
    assert!(registry.resource("apps", "v1beta1", "deployments").is_none());
}

#[test]
fn every_merge_rule_names_a_field_that_exists() {
    // A misspelt row would silently turn a merged list into a replaced one.
    let definitions = controlplane_types::schema::definitions();
    let table = include_str!("../src/schema/merge.txt");
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let (name, field) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Some(definition) = definitions.get(&format!("io.k8s.{name}")) else { continue };
        assert!(field == "-" || definition["properties"].get(field).is_some(), "{line}");
    }
}

#[test]
fn only_gitsync_writes_our_own_kinds() {
    for kind in Registry::builtin().kinds() {
        let expected = (kind.group == "cairn.dev").then_some("system:cairn:gitsync");
        assert_eq!(kind.writer.as_deref(), expected, "{}", kind.plural);
    }
}

#[test]
fn classic_discovery_lists_resources_and_subresources() {
    let registry = Registry::builtin();
    let core = discovery::resource_list(&registry, "", "v1").expect("because core is served");
    assert_eq!((&core["kind"], &core["groupVersion"]), (&json!("APIResourceList"), &json!("v1")));
    let pods = find(&core["resources"], "name", "pods");
    assert_eq!(
        (&pods["singularName"], &pods["shortNames"], &pods["categories"]),
        (&json!("pod"), &json!(["po"]), &json!(["all"]))
    );
    let verbs = json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
    assert_eq!(pods["verbs"], verbs);
    assert_eq!(find(&core["resources"], "name", "pods/log")["verbs"], json!(["get"]));
    let apps = discovery::resource_list(&registry, "apps", "v1").expect("because apps is served");
    let scale = find(&apps["resources"], "name", "deployments/scale");
    assert_eq!(
        (&scale["group"], &scale["version"], &scale["kind"]),
        (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
    );
    let groups = discovery::group_list(&registry);
    assert_eq!(
        find(&groups["groups"], "name", "apps")["preferredVersion"],
        json!({"groupVersion": "apps/v1", "version": "v1"})
    );
    assert!(discovery::group(&registry, "batch").is_none());
}

#[test]
fn aggregated_discovery_nests_subresources() {
    let registry = Registry::builtin();
    let core = discovery::aggregated_core(&registry);
    assert_eq!(
        (&core["kind"], &core["apiVersion"]),
        (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
    );
    let version = &core["items"][0]["versions"][0];
    assert_eq!((&version["version"], &version["freshness"]), (&json!("v1"), &json!("Current")));
    let pods = find(&version["resources"], "resource", "pods");
    assert_eq!(pods["responseKind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert_eq!((&pods["scope"], &pods["singularResource"]), (&json!("Namespaced"), &json!("pod")));
    assert_eq!(find(&pods["subresources"], "subresource", "status")["verbs"], json!(["get", "patch", "update"]));
    let groups = discovery::aggregated_groups(&registry);
    let apps = groups["items"].as_array().into_iter().flatten().find(|one| one["metadata"]["name"] == "apps");
    assert!(apps.is_some());
}

#[test]
fn patches_declare_what_kubectl_looks_for() {
    let registry = Registry::builtin();
    let document = openapi::document(&registry, "apps", "v1").expect("because apps is served");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
        assert_eq!(find(&patch["parameters"], "name", name)["in"], "query");
    }
    let schema = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(schema["x-kubernetes-group-version-kind"], json!([gvk]));
}

#[test]
fn schemas_carry_merge_keys_and_close_over_their_references() {
    let registry = Registry::builtin();
    for (group, version) in [("", "v1"), ("apps", "v1"), ("cairn.dev", "v1alpha1")] {
        let document = openapi::document(&registry, group, version).expect("because the version is served");
        let schemas = &document["components"]["schemas"];
        let text = document.to_string();
        for target in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = target.split('"').next().unwrap_or_default();
            assert!(schemas.get(name).is_some(), "{name} is referred to and not there");
        }
    }
    let core = openapi::document(&registry, "", "v1").expect("because core is served");
    let properties = &core["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"];
    let containers = &properties["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(properties["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(properties["nodeSelector"]["x-kubernetes-map-type"], "atomic");
    assert_eq!(
        properties["securityContext"]["allOf"],
        json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSecurityContext"}])
    );
}

#[test]
fn the_index_points_at_every_version_with_a_hash() {
    let registry = Registry::builtin();
    let index = openapi::index(&registry);
    for path in ["api/v1", "apis/apps/v1", "apis/cairn.dev/v1alpha1"] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap_or_default();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
    }
    assert_eq!(index, openapi::index(&Registry::builtin()), "the hash is stable");
}
