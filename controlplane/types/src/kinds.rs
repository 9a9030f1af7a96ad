//! The rows of the built-in kinds. A kind joins by a row here, its schema in [`crate::schema::definitions`] and, where it has
//! manners of its own, a [`Strategy`] in [`crate::strategy`].

use crate::kind::Scope::{Cluster, Namespaced};
use crate::kind::Subresource::{Attach, Binding, Eviction, Exec, Finalize, Log, Scale, Status, Token};
use crate::kind::{KindInfo, Scope, Strategy, Subresource};
use crate::schema;
use crate::strategy as of;

/// User that alone writes the kinds of `cairn.dev`.
pub const GITSYNC_USER: &str = "system:cairn:gitsync";

/// All verbs of an ordinary kind, in discovery's order.
pub const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Verbs of namespaces, which go one at a time.
const ONE_BY_ONE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

/// One kind as data; [`Row::info`] is what the registry keeps.
pub struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    scope: Scope,
    subresources: &'static [Subresource],
    schema: &'static str,
    strategy: &'static Strategy,
}

impl Row {
    /// Returns the kind that the row describes.
    pub fn info(&self) -> KindInfo {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let (storage_group, renames) =
            if self.group == "events.k8s.io" { ("", EVENT_RENAMES) } else { (self.group, &[] as &[_]) };
        KindInfo {
            group: self.group.into(),
            version: self.version.into(),
            kind: self.kind.into(),
            plural: self.plural.into(),
            singular: self.kind.to_lowercase(),
            short_names: owned(self.short_names),
            categories: owned(self.categories),
            scope: self.scope,
            subresources: self.subresources.to_vec(),
            verbs: if self.kind == "Namespace" { ONE_BY_ONE.to_vec() } else { VERBS.to_vec() },
            storage_group: storage_group.into(),
            storage_version: self.version.into(),
            writer: (self.group == "cairn.dev").then(|| GITSYNC_USER.into()),
            renames,
            strategy: self.strategy,
            schema: schema::schema(self.schema),
        }
    }
}

/// `events.k8s.io/v1` as a view of the core event.
const EVENT_RENAMES: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Fills the columns that most rows leave alone.
const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    strategy: &'static Strategy,
    schema: &'static str,
) -> Row {
    Row { group, version, kind, plural, short_names: &[], categories: &[], scope, subresources: &[], schema, strategy }
}

impl Row {
    const fn short(mut self, names: &'static [&'static str]) -> Row {
        self.short_names = names;
        self
    }

    const fn all(mut self) -> Row {
        self.categories = &["all"];
        self
    }

    const fn sub(mut self, subresources: &'static [Subresource]) -> Row {
        self.subresources = subresources;
        self
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// All built-in kinds.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("", "v1", "ConfigMap", "configmaps", Namespaced, &of::CONFIG_MAP, "io.k8s.api.core.v1.ConfigMap").short(&["cm"]),
    row("", "v1", "Endpoints", "endpoints", Namespaced, &of::ENDPOINTS, "io.k8s.api.core.v1.Endpoints").short(&["ep"]),
    row("", "v1", "Event", "events", Namespaced, &of::CORE_EVENT, "io.k8s.api.core.v1.Event").short(&["ev"]),
    row("", "v1", "Namespace", "namespaces", Cluster, &of::NAMESPACE, "io.k8s.api.core.v1.Namespace").short(&["ns"]).sub(&[Finalize, Status]),
    row("", "v1", "Node", "nodes", Cluster, &of::NODE, "io.k8s.api.core.v1.Node").short(&["no"]).sub(&[Status]),
    row("", "v1", "Pod", "pods", Namespaced, &of::POD, "io.k8s.api.core.v1.Pod").short(&["po"]).all().sub(&[Attach, Binding, Eviction, Exec, Log, Status]),
    row("", "v1", "Secret", "secrets", Namespaced, &of::SECRET, "io.k8s.api.core.v1.Secret"),
    row("", "v1", "ServiceAccount", "serviceaccounts", Namespaced, &of::SERVICE_ACCOUNT, "io.k8s.api.core.v1.ServiceAccount").short(&["sa"]).sub(&[Token]),
    row("", "v1", "Service", "services", Namespaced, &of::SERVICE, "io.k8s.api.core.v1.Service").short(&["svc"]).all().sub(&[Status]),
    row("apps", "v1", "ControllerRevision", "controllerrevisions", Namespaced, &of::CONTROLLER_REVISION, "io.k8s.api.apps.v1.ControllerRevision"),
    row("apps", "v1", "Deployment", "deployments", Namespaced, &of::DEPLOYMENT, "io.k8s.api.apps.v1.Deployment").short(&["deploy"]).all().sub(&[Scale, Status]),
    row("apps", "v1", "ReplicaSet", "replicasets", Namespaced, &of::REPLICA_SET, "io.k8s.api.apps.v1.ReplicaSet").short(&["rs"]).all().sub(&[Scale, Status]),
    row("events.k8s.io", "v1", "Event", "events", Namespaced, &of::EVENT, "io.k8s.api.events.v1.Event").short(&["ev"]),
    row("coordination.k8s.io", "v1", "Lease", "leases", Namespaced, &of::LEASE, "io.k8s.api.coordination.v1.Lease"),
    row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", Namespaced, &of::ENDPOINT_SLICE, "io.k8s.api.discovery.v1.EndpointSlice"),
    row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", Namespaced, &of::POD_DISRUPTION_BUDGET, "io.k8s.api.policy.v1.PodDisruptionBudget").short(&["pdb"]).sub(&[Status]),
    row(RBAC, "v1", "ClusterRole", "clusterroles", Cluster, &of::ROLE, "io.k8s.api.rbac.v1.ClusterRole"),
    row(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", Cluster, &of::CLUSTER_ROLE_BINDING, "io.k8s.api.rbac.v1.ClusterRoleBinding"),
    row(RBAC, "v1", "Role", "roles", Namespaced, &of::ROLE, "io.k8s.api.rbac.v1.Role"),
    row(RBAC, "v1", "RoleBinding", "rolebindings", Namespaced, &of::ROLE_BINDING, "io.k8s.api.rbac.v1.RoleBinding"),
    row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", Cluster, &of::PRIORITY_CLASS, "io.k8s.api.scheduling.v1.PriorityClass").short(&["pc"]),
    row("cairn.dev", "v1alpha1", "Commit", "commits", Cluster, &of::COMMIT, "dev.cairn.v1alpha1.Commit").sub(&[Status]),
    row("cairn.dev", "v1alpha1", "Machine", "machines", Cluster, &of::MACHINE, "dev.cairn.v1alpha1.Machine").sub(&[Status]),
];
