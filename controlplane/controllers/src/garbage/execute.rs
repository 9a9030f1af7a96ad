//! Asks the server about owners, and writes what the planner wants.

use super::Collector;
use super::graph::{Item, ORPHAN, Uid};
use super::plan::{Plan, Propagation};
use crate::context::{Doing, StepError};
use controlplane_client::{Api, DynamicObject, MetadataOnly, Object, Optional, Patch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, OwnerReference, Preconditions};
use serde_json::json;
use std::collections::BTreeSet;

impl Collector {
    fn api(&self, item: &Item) -> Api<DynamicObject> {
        self.client.dynamic((*item.kind).clone(), item.key.namespace.as_deref())
    }

    /// Which of the suspects are gone: there is no such object, or another one has its name.
    ///
    /// An owner of a kind that nobody knows counts as there: its server may be away, and what it owns must not pay for that.
    pub(super) async fn verify(&self, item: &Item, suspects: Vec<OwnerReference>) -> Result<BTreeSet<Uid>, StepError> {
        let mut gone = BTreeSet::new();
        for owner in suspects {
            let Some(kind) = self.kind(&owner.api_version, &owner.kind) else {
                tracing::debug!(object = %item.key, owner = owner.name, kind = owner.kind, "an owner's kind is not known");
                continue;
            };
            // An owner in a namespace owns inside it only.
            let namespace = item.key.namespace.as_deref();
            if kind.namespaced && namespace.is_none() {
                continue;
            }
            let found = self.client.dynamic((*kind).clone(), namespace).get(&owner.name).await.optional();
            let found = found.doing(|| format!("look up {} {} that owns {}", owner.kind, owner.name, item.key))?;
            if found.is_none_or(|found| found.uid() != owner.uid) {
                gone.insert(Uid(owner.uid));
            }
        }
        Ok(gone)
    }
}

pub(super) async fn execute(collector: &Collector, item: &Item, plan: Plan) -> Result<(), StepError> {
    match plan {
        Plan::Keep => Ok(()),
        Plan::Orphan(dependents) => {
            for dependent in &dependents {
                let owners: Vec<_> = dependent.owners.iter().filter(|one| one.uid != item.uid.0).collect();
                set_owners(collector, dependent, &owners).await?;
            }
            finish(collector, item, ORPHAN).await
        }
        Plan::WaitFor(dependents) => {
            // Each is judged by its own owners: one with another is let go of instead of deleted.
            dependents.iter().for_each(|dependent| collector.queue.add(dependent.uid.clone()));
            Ok(())
        }
        Plan::Finish(finalizer) => finish(collector, item, finalizer).await,
        Plan::Detach(owners) => set_owners(collector, item, &owners.iter().collect::<Vec<_>>()).await,
        Plan::Delete(propagation) => delete(collector, item, propagation).await,
    }
}

async fn set_owners(collector: &Collector, item: &Item, owners: &[&OwnerReference]) -> Result<(), StepError> {
    let patch = json!({"metadata": {"uid": item.uid.0, "resourceVersion": item.version, "ownerReferences": owners}});
    let patched = collector.api(item).patch(&item.key.name, Patch::Merge(&patch)).await.optional();
    patched.doing(|| format!("change the owners of {} {}", item.kind, item.key)).map(drop)
}

async fn finish(collector: &Collector, item: &Item, finalizer: &str) -> Result<(), StepError> {
    let doing = || format!("remove finalizer {finalizer} of {} {}", item.kind, item.key);
    let api = collector.api(item);
    // Read anew: others add and remove finalizers, too, and a version older than theirs would be refused anyway.
    let Some(object) = api.get(&item.key.name).await.optional().doing(doing)? else { return Ok(()) };
    if object.uid() != item.uid.0 {
        return Ok(());
    }
    let meta = MetadataOnly { metadata: object.metadata };
    let left: Vec<_> = meta.metadata.finalizers.iter().flatten().filter(|one| *one != finalizer).collect();
    let patch = json!({"metadata": {
        "uid": item.uid.0, "resourceVersion": meta.metadata.resource_version, "finalizers": left,
    }});
    api.patch(&item.key.name, Patch::Merge(&patch)).await.optional().doing(doing).map(drop)
}

async fn delete(collector: &Collector, item: &Item, propagation: Propagation) -> Result<(), StepError> {
    let doing = || format!("delete {} {}", item.kind, item.key);
    let api = collector.api(item);
    // The graph may be behind: an object whose owner let go of it a moment ago must not follow it.
    let Some(object) = api.get(&item.key.name).await.optional().doing(doing)? else { return Ok(()) };
    if object.uid() != item.uid.0 || object.metadata.owner_references.as_deref().unwrap_or_default() != item.owners {
        return Ok(());
    }
    let preconditions = Preconditions { uid: object.metadata.uid, resource_version: object.metadata.resource_version };
    let options = DeleteOptions {
        preconditions: Some(preconditions),
        propagation_policy: Some(propagation.as_str().to_owned()),
        ..DeleteOptions::default()
    };
    api.delete_if_there(&item.key.name, &options).await.doing(doing)
}
