//! Who may do what: one table of rules by group. Pure; what depends on stored objects is in [`crate::node_scope`].
//!
//! Never grants anything by name of a person: roles come from the accepted step, this table says what a role means.

use crate::caller::{
    AUTHENTICATED, CONTROLLERS, Caller, GITSYNC, GITSYNC_WORKERS, MASTERS, NODES, OPERATOR, READER, SERVICE_ACCOUNTS,
    UNAUTHENTICATED,
};
use crate::failure::forbidden_path;
use crate::request::{RequestInfo, ResourcePath, Target};
use controlplane_types::{ApiError, Reason};
use serde_json::{Value, json};

/// What is asked, as rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The verb; the HTTP method in lower case for other paths.
    pub(crate) verb: String,
    /// The resource, or `None` and the path.
    pub(crate) resource: Option<ResourcePath>,
    /// The path.
    pub(crate) path: String,
}

impl Attributes {
    /// Those of a request.
    pub(crate) fn of(info: &RequestInfo, method: &http::Method) -> Attributes {
        let (verb, resource) = match &info.target {
            // A WebSocket opens with GET, but running a command in a container is no reading.
            Target::Resource(path) if matches!(path.subresource.as_str(), "exec" | "attach" | "portforward") => {
                ("create".to_owned(), Some(path.clone()))
            }
            Target::Resource(path) => (info.verb.as_str().to_owned(), Some(path.clone())),
            Target::Other => (method.as_str().to_ascii_lowercase(), None),
        };
        Attributes { verb, resource, path: info.path.clone() }
    }
}

/// The API group of Cairn's own kinds; only gitsync writes it.
const CAIRN_GROUP: &str = "cairn.dev";

const ALL: &[&str] = &["*"];
const READ: &[&str] = &["get", "list", "watch"];
const CORE: &[&str] = &[""];

/// Paths open to everybody, so that a load balancer can look and a client can learn the CA.
const OPEN_PATHS: &[&str] =
    &["/livez", "/livez/*", "/readyz", "/readyz/*", "/healthz", "/healthz/*", "/version", "/.well-known/cairn/ca.pem"];

/// Paths open to everybody with an identity.
const DISCOVERY_PATHS: &[&str] = &["/", "/api", "/api/*", "/apis", "/apis/*", "/openapi/*", "/version/*"];

/// One grant.
struct Rule {
    /// The group it is for.
    group: &'static str,
    /// Verbs, or `*`.
    verbs: &'static [&'static str],
    /// What it covers.
    scope: Scope,
}

enum Scope {
    /// Resources: API groups, and `resource` or `resource/subresource`; `*` is all.
    Resources(&'static [&'static str], &'static [&'static str]),
    /// All resources but these of the core group.
    AllBut(&'static [&'static str]),
    /// Other paths; a final `*` is any rest.
    Paths(&'static [&'static str]),
}

use Scope::{AllBut, Paths, Resources};

/// The whole policy. Rights of people: admins are in system:masters; operators read everything but Secrets, restart, scale, cordon,
/// drain and run commands in containers; readers see everything but Secrets.
const RULES: &[Rule] = &[
    Rule { group: MASTERS, verbs: ALL, scope: AllBut(&[]) },
    Rule { group: MASTERS, verbs: ALL, scope: Paths(&["*"]) },
    Rule { group: CONTROLLERS, verbs: ALL, scope: AllBut(&[]) },
    Rule { group: CONTROLLERS, verbs: ALL, scope: Paths(&["*"]) },
    Rule { group: GITSYNC, verbs: ALL, scope: AllBut(&[]) },
    Rule { group: GITSYNC_WORKERS, verbs: &["get", "list"], scope: Resources(&[CAIRN_GROUP], &["machines"]) },
    // node_scope narrows it to the object of the machine itself.
    Rule { group: GITSYNC_WORKERS, verbs: &["patch"], scope: Resources(&[CAIRN_GROUP], &["machines/status"]) },
    Rule { group: OPERATOR, verbs: READ, scope: AllBut(&["secrets"]) },
    Rule { group: OPERATOR, verbs: &["get"], scope: Paths(&["/metrics"]) },
    Rule { group: OPERATOR, verbs: &["delete"], scope: Resources(CORE, &["pods"]) },
    Rule {
        group: OPERATOR,
        verbs: &["create"],
        scope: Resources(CORE, &["pods/eviction", "pods/exec", "pods/attach"]),
    },
    Rule { group: OPERATOR, verbs: &["patch", "update"], scope: Resources(CORE, &["nodes"]) },
    Rule {
        group: OPERATOR,
        verbs: &["patch", "update"],
        scope: Resources(
            &["apps"],
            &[
                "deployments",
                "deployments/scale",
                "replicasets/scale",
                "statefulsets",
                "statefulsets/scale",
                "daemonsets",
            ],
        ),
    },
    Rule { group: READER, verbs: READ, scope: AllBut(&["secrets"]) },
    Rule { group: READER, verbs: &["get"], scope: Paths(&["/metrics"]) },
    Rule { group: NODES, verbs: READ, scope: Resources(CORE, &["nodes", "services", "namespaces"]) },
    Rule { group: NODES, verbs: READ, scope: Resources(&["discovery.k8s.io"], &["endpointslices"]) },
    Rule { group: NODES, verbs: READ, scope: Resources(&["networking.k8s.io"], &["networkpolicies"]) },
    // node_scope narrows the rest to the node itself and to what its own pods use.
    Rule { group: NODES, verbs: READ, scope: Resources(CORE, &["pods", "configmaps", "secrets", "serviceaccounts"]) },
    Rule { group: NODES, verbs: &["create", "update", "patch"], scope: Resources(CORE, &["nodes", "nodes/status"]) },
    Rule { group: NODES, verbs: &["update", "patch"], scope: Resources(CORE, &["pods/status"]) },
    Rule { group: NODES, verbs: &["delete"], scope: Resources(CORE, &["pods"]) },
    Rule { group: NODES, verbs: &["create"], scope: Resources(CORE, &["serviceaccounts/token"]) },
    Rule { group: NODES, verbs: &["create", "update", "patch"], scope: Resources(&["", "events.k8s.io"], &["events"]) },
    Rule {
        group: NODES,
        verbs: &["get", "create", "update", "patch", "delete"],
        scope: Resources(&["coordination.k8s.io"], &["leases"]),
    },
    Rule { group: AUTHENTICATED, verbs: &["get", "head"], scope: Paths(DISCOVERY_PATHS) },
    Rule {
        group: AUTHENTICATED,
        verbs: &["create"],
        scope: Resources(
            &["authorization.k8s.io", "authentication.k8s.io"],
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"],
        ),
    },
    Rule { group: AUTHENTICATED, verbs: &["get", "head"], scope: Paths(OPEN_PATHS) },
    Rule { group: UNAUTHENTICATED, verbs: &["get", "head"], scope: Paths(OPEN_PATHS) },
    Rule {
        group: SERVICE_ACCOUNTS,
        verbs: &["get"],
        scope: Paths(&["/.well-known/openid-configuration", "/openid/v1/jwks"]),
    },
];

/// Whether the table allows it.
pub(crate) fn allows(caller: &Caller, asked: &Attributes) -> bool {
    if writes_commits(asked) && !caller.in_group(GITSYNC) && !caller.in_group(GITSYNC_WORKERS) {
        return false;
    }
    RULES.iter().any(|rule| caller.in_group(rule.group) && rule.covers(asked))
}

/// `commits` and `machines` mirror the repository; a write by anybody else would be a lie.
fn writes_commits(asked: &Attributes) -> bool {
    asked.resource.as_ref().is_some_and(|r| r.group == CAIRN_GROUP) && !READ.contains(&asked.verb.as_str())
}

impl Rule {
    fn covers(&self, asked: &Attributes) -> bool {
        let has = |list: &[&str], value: &str| list.iter().any(|item| *item == "*" || *item == value);
        if !has(self.verbs, &asked.verb) {
            return false;
        }
        match (&self.scope, &asked.resource) {
            (Resources(groups, resources), Some(r)) => has(groups, &r.group) && has(resources, &qualified(r)),
            (AllBut(resources), Some(r)) => !(r.group.is_empty() && resources.contains(&r.resource.as_str())),
            (Paths(paths), None) => paths.iter().any(|pattern| path_matches(pattern, &asked.path)),
            (Resources(..) | AllBut(_), None) | (Paths(_), Some(_)) => false,
        }
    }
}

fn qualified(r: &ResourcePath) -> String {
    if r.subresource.is_empty() { r.resource.clone() } else { format!("{}/{}", r.resource, r.subresource) }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern || path.strip_suffix('/') == Some(pattern),
    }
}

/// The 403 (or, for anonymous callers, 401) of a refused request.
pub(crate) fn refusal(caller: &Caller, asked: &Attributes) -> ApiError {
    if caller.is_anonymous() {
        return ApiError::new(
            Reason::Unauthorized,
            "Unauthorized: log in with `cairnctl login` and use its kubeconfig",
        );
    }
    let Some(r) = &asked.resource else {
        let message = format!("forbidden: User \"{}\" cannot {} path \"{}\"", caller.user, asked.verb, asked.path);
        return ApiError::new(Reason::Forbidden, message);
    };
    let place = if r.namespace.is_empty() || (r.group.is_empty() && r.resource == "namespaces") {
        " at the cluster scope".to_owned()
    } else {
        format!(" in the namespace \"{}\"", r.namespace)
    };
    let why = format!(
        "User \"{}\" cannot {} resource \"{}\" in API group \"{}\"{place}",
        caller.user,
        asked.verb,
        qualified(r),
        r.group
    );
    forbidden_path(&r.group, &r.resource, &r.name, &why)
}

/// The caller's rules, as `kubectl auth can-i --list` shows them.
pub(crate) fn rules_of(caller: &Caller) -> Value {
    let (mut resources, mut paths) = (vec![], vec![]);
    for rule in RULES.iter().filter(|rule| caller.in_group(rule.group)) {
        match &rule.scope {
            Resources(groups, names) => {
                resources.push(json!({"verbs": rule.verbs, "apiGroups": groups, "resources": names}));
            }
            AllBut(_) => resources.push(json!({"verbs": rule.verbs, "apiGroups": ["*"], "resources": ["*"]})),
            Paths(list) => paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": list})),
        }
    }
    let incomplete = caller.groups.iter().any(|g| g == NODES || g == OPERATOR || g == READER);
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(kind: &str) -> Caller {
        match kind {
            "anonymous" => Caller::anonymous(),
            "admin" => Caller::authenticated("ada", ["cairn:role:admin".into(), MASTERS.into()], "SHA256:a"),
            "node" => Caller::node("cp1", ""),
            "gitsync" => Caller::gitsync(""),
            "worker" => Caller::gitsync_of_worker("w1", ""),
            "controllers" => Caller::controllers(),
            right => Caller::authenticated("bob", [format!("cairn:access:{right}")], "SHA256:b"),
        }
    }

    fn asked(verb: &str, what: &str) -> Attributes {
        if what.starts_with('/') {
            return Attributes { verb: verb.into(), resource: None, path: what.into() };
        }
        let (group, rest) = what.split_once(':').expect("because cases are written group:resource[/sub]");
        let (resource, subresource) = rest.split_once('/').unwrap_or((rest, ""));
        let resource = ResourcePath {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            ..ResourcePath::default()
        };
        Attributes { verb: verb.into(), resource: Some(resource), path: String::new() }
    }

    #[test]
    fn each_group_may_do_what_its_role_says_and_no_more() {
        let cases = [
            ("anonymous", "get", "/livez", true),
            ("anonymous", "get", "/readyz/store", true),
            ("anonymous", "get", "/version", true),
            ("anonymous", "get", "/.well-known/cairn/ca.pem", true),
            ("anonymous", "get", "/api", false),
            ("anonymous", "get", "/metrics", false),
            ("anonymous", "list", ":pods", false),
            ("admin", "delete", ":secrets", true),
            ("admin", "get", "/metrics", true),
            ("admin", "create", ":pods/exec", true),
            ("admin", "update", "cairn.dev:commits", false),
            ("admin", "list", "cairn.dev:commits", true),
            ("operator", "get", ":secrets", false),
            ("operator", "delete", ":pods", true),
            ("operator", "patch", "apps:deployments/scale", true),
            ("operator", "create", ":pods/exec", true),
            ("operator", "create", "apps:deployments", false),
            ("operator", "delete", ":namespaces", false),
            ("reader", "list", ":pods", true),
            ("reader", "get", ":pods/log", true),
            ("reader", "get", ":secrets", false),
            ("reader", "delete", ":pods", false),
            ("reader", "create", "authorization.k8s.io:selfsubjectaccessreviews", true),
            ("node", "patch", ":pods/status", true),
            ("node", "create", ":pods", false),
            ("node", "list", "apps:deployments", false),
            ("node", "create", ":pods/binding", false),
            ("gitsync", "patch", "cairn.dev:machines", true),
            ("gitsync", "patch", "apps:deployments", true),
            ("worker", "get", "cairn.dev:machines", true),
            ("worker", "list", "cairn.dev:machines", true),
            ("worker", "patch", "cairn.dev:machines/status", true),
            ("worker", "patch", "cairn.dev:machines", false),
            ("worker", "update", "cairn.dev:machines/status", false),
            ("worker", "delete", "cairn.dev:machines", false),
            ("worker", "list", "cairn.dev:commits", false),
            ("worker", "patch", "cairn.dev:commits/status", false),
            ("worker", "get", ":secrets", false),
            ("worker", "list", ":nodes", false),
            ("worker", "patch", "apps:deployments", false),
            ("controllers", "create", ":pods/binding", true),
            ("controllers", "update", "cairn.dev:machines", false),
            ("stranger", "list", ":pods", false),
            ("stranger", "get", "/apis/apps/v1", true),
        ];
        for (who, verb, what, expected) in cases {
            assert_eq!(allows(&caller(who), &asked(verb, what)), expected, "{who} {verb} {what}");
        }
    }
}
