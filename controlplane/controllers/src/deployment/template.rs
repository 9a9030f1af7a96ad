//! Which ReplicaSet is of the Deployment's template, and what a new one is called.

use controlplane_client::Object;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The label that keeps the pods of a Deployment's ReplicaSets apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Letters of a hash: no vowels, so that no words come out; upstream's alphabet.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Letters of a hash: 27^10 values.
const LENGTH: usize = 10;

/// Whether the two are the same but for the hash label.
pub(crate) fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let bare = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        template
    };
    bare(a) == bare(b)
}

/// The ReplicaSet of the Deployment's present template: the oldest, should there be several.
///
/// By content and not by hash: what goes into the hash may change with a release, and must not start a rollout.
pub(crate) fn current(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let wanted = &deployment.spec.as_ref()?.template;
    let matching = sets.iter().filter(|set| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.is_some_and(|template| same(template, wanted))
    });
    let created = |set: &Arc<ReplicaSet>| set.meta().creation_timestamp.as_ref().map(|time| time.0);
    matching.min_by_key(|set| (created(set), set.name().to_owned())).cloned()
}

/// A name for the template, other for another `collisions`.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let text = serde_json::to_vec(template).expect("because a template is plain data");
    let mut digest = Sha256::new();
    digest.update(&text);
    digest.update(collisions.to_be_bytes());
    let bytes = digest.finalize();
    bytes.iter().take(LENGTH).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}
