//! All JSON schemas of the crate by definition name, as k8s-openapi has them (plus our own kinds).

use std::collections::BTreeMap;

use k8s_openapi::schemars::generate::SchemaSettings;
use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use k8s_openapi::api::{
    apps::v1 as apps, coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
};
use k8s_openapi::api::{
    authentication::v1 as authentication, autoscaling::v1 as autoscaling, events::v1 as events, policy::v1 as policy,
    rbac::v1 as rbac, scheduling::v1 as scheduling,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

/// Schemas by definition name.
pub type Definitions = BTreeMap<String, Value>;

/// Makes all definitions, some megabytes of them: they are made when asked for and not kept. References are
/// `#/components/schemas/<name>`.
pub fn definitions() -> Definitions {
    let mut settings = SchemaSettings::openapi3();
    settings.transforms.clear();
    let mut generator = settings.into_generator();
    add_builtin(&mut generator);
    let mut all: Definitions = generator.take_definitions(false).into_iter().collect();
    for (name, schema) in own() {
        all.insert(name.to_string(), schema);
    }
    all
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

fn add_builtin(generator: &mut SchemaGenerator) {
    add::<core::Namespace>(generator);
    add::<core::Node>(generator);
    add::<core::Pod>(generator);
    add::<core::PodTemplate>(generator);
    add::<core::ConfigMap>(generator);
    add::<core::Secret>(generator);
    add::<core::Service>(generator);
    add::<core::ServiceAccount>(generator);
    add::<core::Endpoints>(generator);
    add::<core::Event>(generator);
    add::<core::Binding>(generator);
    add::<events::Event>(generator);
    add::<discovery::EndpointSlice>(generator);
    add::<coordination::Lease>(generator);
    add::<apps::Deployment>(generator);
    add::<apps::ReplicaSet>(generator);
    add::<apps::ControllerRevision>(generator);
    add::<autoscaling::Scale>(generator);
    add::<policy::Eviction>(generator);
    add::<policy::PodDisruptionBudget>(generator);
    add::<authentication::TokenRequest>(generator);
    add::<scheduling::PriorityClass>(generator);
    add::<rbac::Role>(generator);
    add::<rbac::RoleBinding>(generator);
    add::<rbac::ClusterRole>(generator);
    add::<rbac::ClusterRoleBinding>(generator);
    add::<meta::DeleteOptions>(generator);
    add::<meta::Status>(generator);
    add::<meta::ListMeta>(generator);
}

/// Our own kinds. Spec and status are written by gitsync alone, in shapes that grow with it: they stay open.
fn own() -> [(&'static str, Value); 2] {
    let kind = |what: &str, spec: &str, status: &str| {
        let text = |description: &str| json!({"type": "string", "description": description});
        let open = |description: &str| json!({"type": "object", "description": description, "x-kubernetes-preserve-unknown-fields": true});
        json!({
            "type": "object", "description": what,
            "properties": {
                "apiVersion": text("Group and version of this representation."),
                "kind": text("Kind of this object."),
                "metadata": {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
                "spec": open(spec),
                "status": open(status),
            },
        })
    };
    [
        (
            "dev.cairn.v1alpha1.Commit",
            kind(
                "Commit is one commit of the configuration repository, as the machines of this cluster judged it.",
                "What the commit says: parents, signer, target.",
                "What became of it: accepted, applied or refused, and why.",
            ),
        ),
        (
            "dev.cairn.v1alpha1.Machine",
            kind(
                "Machine is one machine of the cluster as the accepted commit describes it.",
                "What the commit asks of the machine.",
                "What the machine reported.",
            ),
        ),
    ]
}
