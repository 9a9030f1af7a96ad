//! Objects beyond what their file's rule may touch, act as, or read.

use crate::{lint_of, refused, refused_for, taken};
use gitsync_verify::Reason;

fn config_map(namespace: &str, name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\n")
}

/// A Deployment of namespace web whose pod has these fields besides a container, which has those.
fn deployment(pod: &str, container: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d, namespace: web}}\nspec:\n  selector: {{matchLabels: {{a: b}}}}\n  \
         template:\n    metadata: {{labels: {{a: b}}}}\n    spec:\n      {pod}\n      containers:\n        - name: c\n          image: x:1\n          {container}\n"
    )
}

#[test]
fn t57_no_path_and_no_namespace_field_leads_into_another_namespace() {
    // The folder says web; only what the object says counts.
    refused_for(Reason::OutOfReach, "apps/web/kube-system/a.yaml", &config_map("kube-system", "a"));
    refused_for(Reason::OutOfReach, "apps/web/a.yaml", &config_map("shop", "a"));
    refused_for(Reason::OutOfReach, "apps/web/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n");
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a, namespace: shop}\n";
    refused_for(Reason::OutOfReach, "apps/web/a.yaml", list);
    for crooked in ["web/../shop", "../shop", "\"web\\0\"", "[shop]"] {
        refused_for(Reason::Parse, "apps/web/a.yaml", &config_map(crooked, "a"));
    }
    taken(&[("apps/web/a.yaml", &config_map("web", "a"))]);
}

#[test]
fn t66_objects_that_grant_rights_are_for_privileged_rules() {
    let binding = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: mine}\n\
                   roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\n";
    let message = refused_for(Reason::OutOfReach, "apps/web/a.yaml", binding);
    assert!(message.contains("grants rights") && message.contains("privileged #true"), "{message}");
    let own =
        binding.replace("ClusterRoleBinding", "RoleBinding").replace("{name: mine}", "{name: mine, namespace: web}");
    refused_for(Reason::OutOfReach, "apps/web/a.yaml", &own);
    let token = "apiVersion: v1\nkind: Secret\nmetadata: {name: t, namespace: web, annotations: {kubernetes.io/service-account.name: x}}\n\
                 type: kubernetes.io/service-account-token\n";
    refused_for(Reason::OutOfReach, "apps/web/a.yaml", token);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: web}\nspec: {externalIPs: [10.0.0.1], ports: [{port: 80}]}\n";
    refused_for(Reason::OutOfReach, "apps/web/a.yaml", service);
    taken(&[("apps/infra/a.yaml", binding)]);
}

#[test]
fn t66_pods_that_can_take_over_a_machine_are_for_privileged_rules() {
    let container = |fields: &str| deployment("restartPolicy: Always", fields);
    for text in [
        deployment("hostNetwork: true", ""),
        deployment("hostPID: true", ""),
        deployment("hostIPC: true", ""),
        deployment("volumes: [{name: v, hostPath: {path: /}}]", ""),
        deployment("securityContext: {sysctls: [{name: kernel.msgmax, value: \"1\"}]}", ""),
        deployment("securityContext: {seccompProfile: {type: Unconfined}}", ""),
        deployment("initContainers: [{name: i, image: \"x:1\", securityContext: {privileged: true}}]", ""),
        container("securityContext: {privileged: true}"),
        container("securityContext: {capabilities: {add: [SYS_ADMIN]}}"),
        container("securityContext: {capabilities: {add: [CAP_SYS_PTRACE]}}"),
        container("securityContext: {capabilities: {add: [ALL]}}"),
        container("securityContext: {procMount: Unmasked}"),
        container("ports: [{containerPort: 80, hostPort: 80}]"),
    ] {
        refused_for(Reason::OutOfReach, "apps/web/a.yaml", &text);
        taken(&[("apps/infra/a.yaml", &text)]);
    }
    taken(&[(
        "apps/web/a.yaml",
        &container("securityContext: {capabilities: {add: [NET_BIND_SERVICE], drop: [ALL]}}"),
    )]);
    taken(&[("apps/web/a.yaml", &deployment("hostNetwork: false", "ports: [{containerPort: 80}]"))]);
}

#[test]
fn t66_a_unit_acts_only_as_an_account_of_its_own_rule() {
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: strong, namespace: web}\n";
    let unit = deployment("serviceAccountName: strong", "");
    // Nobody's, as far as the repository knows; then the admins' own; then the tenant's own.
    refused_for(Reason::OutOfReach, "apps/web/a.yaml", &unit);
    let refusal = refused(&[("apps/web/a.yaml", &unit), ("apps/infra/account.yaml", account)]);
    assert_eq!((refusal.reason, refusal.rule.as_deref()), (Reason::OutOfReach, Some("web")), "{refusal}");
    refused_for(Reason::OutOfReach, "apps/web/a.yaml", &unit.replace("serviceAccountName", "serviceAccount"));
    taken(&[("apps/web/a.yaml", &unit), ("apps/web/account.yaml", account)]);
    taken(&[("apps/web/a.yaml", &deployment("serviceAccountName: default", ""))]);
}

#[test]
fn t66_the_clusters_own_namespaces_are_for_privileged_rules_even_where_any_namespace_is_in_reach() {
    let wide =
        |namespace: &str| lint_of("namespace \"*\"; kind \"*\"; cluster-scoped #true", &config_map(namespace, "a"));
    for namespace in ["cairn-system", "kube-system"] {
        let refusal = wide(namespace).expect_err("because the cluster's own objects lie there");
        assert_eq!(refusal.reason, Reason::OutOfReach, "{refusal}");
    }
    assert_eq!(wide("anything"), Ok(()));
}

/// Ways in which a pod uses a ConfigMap or a Secret called `shared`.
const USES: [(&str, &str, &str); 7] = [
    ("ConfigMap", "volumes: [{name: v, configMap: {name: shared}}]", ""),
    ("Secret", "volumes: [{name: v, secret: {secretName: shared}}]", ""),
    ("ConfigMap", "volumes: [{name: v, projected: {sources: [{configMap: {name: shared}}]}}]", ""),
    ("Secret", "imagePullSecrets: [{name: shared}]", ""),
    ("ConfigMap", "", "envFrom: [{configMapRef: {name: shared}}]"),
    ("Secret", "", "env: [{name: A, valueFrom: {secretKeyRef: {name: shared, key: a}}}]"),
    ("ConfigMap", "", "env: [{name: A, valueFrom: {configMapKeyRef: {name: shared, key: a}}}]"),
];

#[test]
fn t65_a_unit_uses_a_shared_file_only_where_its_rule_reads_it() {
    for (kind, pod, container) in USES {
        let shared = config_map("common", "shared").replace("ConfigMap", kind);
        let pod = if pod.is_empty() { "restartPolicy: Always" } else { pod };
        let unit = deployment(pod, container).replace("namespace: web", "namespace: common");
        let undeclared = refused(&[("apps/web/d.yaml", &unit), ("apps/common/s.yaml", &shared)]);
        assert_eq!(
            (undeclared.reason, undeclared.path.as_deref(), undeclared.rule.as_deref()),
            (Reason::ReadsUndeclared, Some("apps/web/d.yaml"), Some("web")),
            "{pod} {container}: {undeclared}"
        );
        assert!(undeclared.message.contains("apps/common/s.yaml"), "{}", undeclared.message);
        // shop's rule reads apps/common/**, so that nobody changes it without shop's approval.
        taken(&[("apps/shop/d.yaml", &unit), ("apps/common/s.yaml", &shared)]);
    }
}

#[test]
fn what_is_not_in_the_repository_is_not_read_from_it() {
    let (_, pod, _) = USES[0];
    taken(&[("apps/web/d.yaml", &deployment(pod, ""))]);
}

#[test]
fn a_name_in_another_namespace_is_another_object() {
    let (_, pod, _) = USES[0];
    taken(&[("apps/web/d.yaml", &deployment(pod, "")), ("apps/common/s.yaml", &config_map("common", "shared"))]);
}
