//! Empties a namespace that is being deleted, pods first, and lets it go when nothing is left.

use crate::context::{Doing, StepError};
use crate::discovery::discover;
use controlplane_client::{Client, Object, Optional, ResourceKind, Selection};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use machined_reconcile::Outcome;
use std::time::Duration;

/// The finalizer that stands for the contents.
const FINALIZER: &str = "kubernetes";

/// When to look again while something is left: it goes on its own, and nothing here is told when.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn remove(client: &Client, namespace: &Namespace) -> Result<Outcome, StepError> {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Outcome::Done);
    }
    let name = namespace.name();
    let doing = || format!("empty namespace {name}");
    let mut kinds: Vec<ResourceKind> = discover(client)
        .await
        .doing(doing)?
        .into_iter()
        .filter(|found| found.kind.namespaced && found.is_collectable())
        .map(|found| found.kind)
        .collect();
    // Events of other groups are the same objects under another name; they go with the core ones.
    kinds.retain(|kind| kind.group != "events.k8s.io");
    let pods = kinds.iter().position(|kind| kind.plural == "pods" && kind.group.is_empty());
    if let Some(index) = pods {
        // While pods run, what they use stays.
        let pods = kinds.swap_remove(index);
        if delete_all(client, &pods, name).await? > 0 {
            return Ok(Outcome::Again(AGAIN));
        }
    }
    let mut left = 0;
    for kind in &kinds {
        left += delete_all(client, kind, name).await?;
    }
    if left > 0 {
        return Ok(Outcome::Again(AGAIN));
    }
    let mut finalized = namespace.clone();
    if let Some(spec) = &mut finalized.spec {
        spec.finalizers = Some(finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect());
    }
    let api = client.all::<Namespace>();
    let done = api.update_subresource::<_, serde_json::Value>(name, "finalize", &finalized).await.optional();
    done.doing(|| format!("finalize namespace {name}"))?;
    Ok(Outcome::Done)
}

/// Asks for the deletion of all objects of a kind in the namespace, and says how many are still there.
async fn delete_all(client: &Client, kind: &ResourceKind, namespace: &str) -> Result<usize, StepError> {
    let api = client.dynamic(kind.clone(), Some(namespace));
    let doing = || format!("delete all {kind} of namespace {namespace}");
    let list = api.list(&Selection::default()).await.doing(doing)?;
    for object in list.items.iter().filter(|object| !object.is_terminating()) {
        let preconditions = Preconditions { uid: object.metadata.uid.clone(), resource_version: None };
        let options = DeleteOptions {
            preconditions: Some(preconditions),
            propagation_policy: Some("Background".to_owned()),
            ..DeleteOptions::default()
        };
        api.delete_if_there(object.name(), &options).await.doing(doing)?;
    }
    if list.items.is_empty() {
        return Ok(0);
    }
    // Most kinds are gone with the request; only those that end gracefully, or have finalizers, are not.
    Ok(api.list(&Selection::default()).await.doing(doing)?.items.len())
}
