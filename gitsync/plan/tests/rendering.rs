//! Files to desired state and to plans: what is refused, with which place, and in which order things happen.

use gitsync_plan::{DesiredObject, Inventory, ObjectKey, Origin, diff, lint};
use gitsync_verify::{Files, Policy, Reason, Refusal};
use serde_json::json;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
const IDENTITY: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

/// A repository whose rule `web` may touch Deployments, Services and ConfigMaps of namespace web, and may lose two at once.
fn files(more: &[(&str, &str)]) -> Files {
    let policy = format!(
        "version 1\nroot threshold=1 {{ member \"ada\"; }}\nprincipal \"ada\" {{ key \"{KEY}\" {{ use \"commit\"; }}; }}\n\
         role \"dev\" {{ member \"ada\"; }}\n\
         rule \"web\" {{\n    owns \"apps/**\"\n    approval role=\"dev\" threshold=1\n\
         \x20   reach {{ namespace \"web\"; kind \"*\"; }}\n    budget deletions=2 {{ protect \"Secret\"; }}\n}}\n"
    );
    let cluster = "cluster {\n    id \"00112233445566778899aabbccddeeff\"\n    name \"demo\"\n    bootstrap \"cp1\"\n    endpoint \"10.0.0.1\"\n}\n";
    let base = [("trust/root.kdl", policy.as_str()), ("cluster.kdl", cluster)];
    let all = base.iter().chain(more).map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
    Files(all.collect())
}

fn refused(more: &[(&str, &str)]) -> Refusal {
    lint(&files(more)).expect_err("because the files have mistakes")
}

fn config_map(namespace: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  namespace: {namespace}\ndata: {{a: b}}\n")
}

#[test]
fn good_files_pass_and_notes_for_people_are_let_be() {
    let more = [("apps/web/a.yaml", config_map("web")), ("apps/README.md", "not: [yaml".to_owned())];
    let more: Vec<_> = more.iter().map(|(path, text)| (*path, text.as_str())).collect();
    assert_eq!(lint(&files(&more)), Ok(()));
}

#[test]
fn every_mistake_of_every_file_is_said_at_once() {
    let refusal = refused(&[
        ("apps/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  nmae: a\n"),
        ("apps/b.yaml", "apiVersion: apps/v2\nkind: Deployment\nmetadata:\n  name: b\n---\nkind: Pod\n"),
        ("apps/c.yaml", "a: [1\n"),
        (
            "apps/d.yaml",
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: d\n  namespace: web\nspec:\n  ports:\n  - port: eighty\n",
        ),
        ("machines/m.kdl", "machine \"other\" {\n    identity \"x\"\n    role \"worker\"\n}\n"),
    ]);
    assert_eq!(refusal.reason, Reason::Parse);
    let said: Vec<_> = refusal.mistakes.iter().map(ToString::to_string).collect();
    for start in [
        "apps/a.yaml:3:1: metadata.name is missing",
        "apps/b.yaml:2:1: there is no Deployment in apps/v2 (expected apps/v1)",
        "apps/b.yaml:6:1: apiVersion is missing",
        "apps/c.yaml:",
        "apps/d.yaml:8:5: Service in version \"v1\" cannot be handled as a Service",
        "machines/m.kdl:1:1: the machine is called other",
        "machines/m.kdl:2:14: `identity`",
    ] {
        assert!(said.iter().any(|mistake| mistake.starts_with(start)), "{start} is not in {said:#?}");
    }
}

#[test]
fn one_object_has_one_definition() {
    let text = config_map("web");
    let refusal = refused(&[("apps/a.yaml", &text), ("apps/b.yaml", &text)]);
    assert!(
        refusal.message.contains("apps/b.yaml:1:1: ConfigMap web/a is already defined at apps/a.yaml:1"),
        "{refusal}"
    );
}

#[test]
fn t57_an_object_outside_its_rules_reach_is_refused() {
    let refusal = refused(&[("apps/a.yaml", &config_map("kube-system"))]);
    assert_eq!(
        (refusal.reason, refusal.path.as_deref(), refusal.rule.as_deref()),
        (Reason::OutOfReach, Some("apps/a.yaml"), Some("web"))
    );
    let refusal = refused(&[("apps/a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n")]);
    assert_eq!(refusal.reason, Reason::OutOfReach);
    let own = "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n";
    assert_eq!(lint(&files(&[("apps/a.yaml", own)])), Ok(()), "its own namespace is not beyond it");
}

#[test]
fn t66_cluster_scoped_objects_are_out_of_reach_unless_the_rule_says_so() {
    let text = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: mine}\n\
                roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\n";
    assert_eq!(refused(&[("apps/a.yaml", text)]).reason, Reason::OutOfReach);
}

#[test]
fn t92_two_machines_with_one_fingerprint_are_refused() {
    let machine = |name: &str| format!("machine \"{name}\" {{\n    identity \"{IDENTITY}\"\n    role \"worker\"\n}}\n");
    let refusal = refused(&[("machines/a.kdl", &machine("a")), ("machines/b.kdl", &machine("b"))]);
    assert!(refusal.message.contains("machines/b.kdl:1:1: the identity is already that of machine a"), "{refusal}");
}

#[test]
fn an_unknown_class_and_mistakes_in_a_class_are_refused_where_they_stand() {
    let machine = |class: &str| {
        format!("machine \"a\" {{\n    identity \"{IDENTITY}\"\n    role \"worker\"\n    class \"{class}\"\n}}\n")
    };
    let classes = ("machines/classes.kdl", "class \"workers\" { time { server \"192.0.2.1\"; }; }\n");
    assert_eq!(lint(&files(&[classes, ("machines/a.kdl", &machine("workers"))])), Ok(()));
    let refusal = refused(&[classes, ("machines/a.kdl", &machine("wrokers"))]);
    assert!(refusal.message.contains("machines/a.kdl:4:5: class wrokers is in no file of machines/"), "{refusal}");
    let wrong = ("machines/classes.kdl", "class \"workers\" {\n    role \"control-plane\"\n}\n");
    let refusal = refused(&[wrong, ("machines/a.kdl", &machine("workers"))]);
    assert!(refusal.message.contains("machines/classes.kdl:2:5: `role` is not a class's to say"), "{refusal}");
}

#[test]
fn kinds_that_cairn_writes_itself_are_not_for_manifests() {
    let text = "apiVersion: cairn.dev/v1alpha1\nkind: Machine\nmetadata: {name: a}\n";
    assert!(refused(&[("apps/a.yaml", text)]).message.contains("written by Cairn itself"));
}

fn object(kind: &str, name: &str) -> DesiredObject {
    DesiredObject {
        key: ObjectKey { group: String::new(), kind: kind.into(), namespace: "web".into(), name: name.into() },
        version: "v1".into(),
        plural: format!("{}s", kind.to_lowercase()),
        origin: Origin { path: format!("apps/{name}.yaml"), line: 1 },
        manifest: json!({}),
    }
}

fn policy() -> Policy {
    Policy::parse(&files(&[])).expect("because it is well formed")
}

#[test]
fn what_others_lie_in_comes_first_and_goes_last() {
    let desired = [object("Pod", "a"), object("Service", "b"), object("Namespace", "c"), object("ConfigMap", "d")];
    let plan = diff(&desired, &Inventory::default(), &policy()).expect("because nothing is deleted");
    let order: Vec<_> = plan.apply.iter().map(|object| object.key.kind.as_str()).collect();
    assert_eq!(order, ["Namespace", "ConfigMap", "Service", "Pod"]);
    let plan = diff(&desired[..2], &plan.inventory, &policy()).expect("because the budget is two");
    let gone: Vec<_> = plan.prune.iter().map(|(key, _)| key.kind.as_str()).collect();
    assert_eq!(gone, ["ConfigMap", "Namespace"]);
    assert_eq!(
        plan.to_string(),
        "apply Service web/b (apps/b.yaml:1)\napply Pod web/a (apps/a.yaml:1)\n\
         prune ConfigMap web/d (apps/d.yaml)\nprune Namespace web/c (apps/c.yaml)\n"
    );
}

#[test]
fn t56_a_commit_that_prunes_more_than_the_budget_is_refused() {
    let known = Inventory::of(&[object("Pod", "a"), object("Pod", "b"), object("Pod", "c")]);
    let refusal = diff(&[], &known, &policy()).expect_err("because three are more than two");
    assert_eq!((refusal.reason, refusal.rule.as_deref()), (Reason::Budget, Some("web")));
    let refusal = diff(&[], &Inventory::of(&[object("Secret", "a")]), &policy()).expect_err("because it is protected");
    assert_eq!(refusal.reason, Reason::Budget);
}

#[test]
fn an_inventory_is_read_as_it_is_written_and_a_newer_one_is_said_to_be_newer() {
    let inventory = Inventory::of(&[object("Pod", "a"), object("Service", "b")]);
    assert_eq!(Inventory::from_json(&inventory.to_json()), Ok(inventory.clone()));
    let newer = inventory.to_json().replace("\"version\":1,", "\"version\":2,");
    assert_eq!(Inventory::from_json(&newer).map_err(|refusal| refusal.reason), Err(Reason::NewerState));
    assert_eq!(Inventory::from_json("{").map_err(|refusal| refusal.reason), Err(Reason::Parse));
}
