//! What a Deployment needs next: ReplicaSets to adopt, make, resize and delete; revisions; status.

use super::proportion::{DESIRED, MAX, scaled, sizes, was_scaled};
use super::rollout::{Strategy, new_size, old_sizes, strategy, wanted};
use super::status::{Sets, deadline_left, name_of, status};
use super::template::{HASH_LABEL, current, hash};
use crate::ownership::Claimed;
use controlplane_client::{Kind, Object};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The annotation by which `kubectl rollout` counts.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";

/// Annotations of a Deployment that its ReplicaSets do not get: they are about the Deployment itself.
const OWN_ANNOTATIONS: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    DESIRED,
    MAX,
];

/// Old ReplicaSets kept for going back, when the Deployment does not say.
const HISTORY_LIMIT: i32 = 10;

/// What to write.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) adopt: Vec<Arc<ReplicaSet>>,
    pub(crate) release: Vec<Arc<ReplicaSet>>,
    /// The ReplicaSet of a template that has none.
    pub(crate) create: Option<ReplicaSet>,
    /// Annotations that the new ReplicaSet should have and has not.
    pub(crate) annotate: Option<(Arc<ReplicaSet>, BTreeMap<String, String>)>,
    /// New sizes.
    pub(crate) scale: Vec<Scale>,
    pub(crate) delete: Vec<Arc<ReplicaSet>>,
    /// The Deployment's own revision, if it differs.
    pub(crate) revision: Option<String>,
    /// The status, if it differs.
    pub(crate) status: Option<DeploymentStatus>,
    /// When the progress deadline passes.
    pub(crate) again: Option<Duration>,
}

/// A ReplicaSet's new size.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    pub(crate) set: Arc<ReplicaSet>,
    pub(crate) to: i32,
}

/// Plans. `has_pods` tells whether any pod of a set is still there.
pub(crate) fn plan(
    deployment: &Deployment,
    claimed: &Claimed<ReplicaSet>,
    has_pods: &dyn Fn(&ReplicaSet) -> bool,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan { adopt: claimed.orphans.clone(), release: claimed.strays.clone(), ..Plan::default() };
    let mut sets: Vec<Arc<ReplicaSet>> = claimed.owned.iter().chain(&claimed.orphans).cloned().collect();
    sets.sort_by_key(|set| (set.meta().creation_timestamp.as_ref().map(|time| time.0), set.name().to_owned()));
    let new = current(deployment, &sets);
    let old: Vec<Arc<ReplicaSet>> =
        sets.iter().filter(|set| new.as_ref().is_none_or(|new| new.uid() != set.uid())).cloned().collect();
    if deployment.is_terminating() {
        plan.write_status(deployment, new.as_ref(), &sets, now);
        return plan;
    }
    if deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true) || was_scaled(deployment, &sets) {
        plan.scale_only(deployment, new.as_ref(), &old);
    } else {
        plan.roll(deployment, new.as_ref(), &old, has_pods);
        plan.clean_up(deployment, &old);
    }
    plan.write_status(deployment, new.as_ref(), &sets, now);
    plan
}

impl Plan {
    fn roll(
        &mut self,
        deployment: &Deployment,
        new: Option<&Arc<ReplicaSet>>,
        old: &[Arc<ReplicaSet>],
        has_pods: &dyn Fn(&ReplicaSet) -> bool,
    ) {
        if strategy(deployment) == Strategy::Recreate {
            let before = self.scale.len();
            old.iter().filter(|set| wanted(set) > 0).for_each(|set| self.resize(set, 0));
            if self.scale.len() > before || old.iter().any(|set| has_pods(set)) {
                return;
            }
        }
        let revision = next_revision(new, old);
        if deployment.annotation(REVISION) != Some(&revision) {
            self.revision = Some(revision.clone());
        }
        let Some(new) = new else {
            self.create = Some(new_set(deployment, &revision, new_size(deployment, 0, old)));
            return;
        };
        let annotations = set_annotations(deployment, &revision);
        let has = |(key, value): (&String, &String)| new.annotation(key) == Some(value);
        if !annotations.iter().all(has) {
            self.annotate = Some((Arc::clone(new), annotations));
        }
        let size = new_size(deployment, wanted(new), old);
        if size != wanted(new) {
            // Old ones follow when this is seen: each plan is made on numbers that are known.
            self.resize(new, size);
            return;
        }
        for (set, size) in old.iter().zip(old_sizes(deployment, new, old)) {
            if size != wanted(set) {
                self.resize(set, size);
            }
        }
    }

    /// A Deployment that is paused, or was scaled in the middle of a rollout, first gets its size. Its template waits.
    fn scale_only(&mut self, deployment: &Deployment, new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) {
        let remember = sizes(deployment);
        for (set, size) in scaled(deployment, new, old) {
            let remembers = remember.iter().all(|(key, value)| set.annotation(key) == Some(value));
            if size != wanted(&set) || !remembers {
                self.scale.push(Scale { set, to: size });
            }
        }
    }

    fn clean_up(&mut self, deployment: &Deployment, old: &[Arc<ReplicaSet>]) {
        let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(HISTORY_LIMIT);
        let mut idle: Vec<&Arc<ReplicaSet>> = old
            .iter()
            .filter(|set| {
                let pods = set.status.as_ref().map_or(0, |status| status.replicas);
                let observed = set.status.as_ref().and_then(|status| status.observed_generation);
                wanted(set) == 0 && pods == 0 && observed >= set.metadata.generation && !set.is_terminating()
            })
            .collect();
        idle.sort_by_key(|set| revision_of(set));
        let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        self.delete = idle[..surplus].iter().map(|set| Arc::clone(set)).collect();
    }

    fn resize(&mut self, set: &Arc<ReplicaSet>, to: i32) {
        self.scale.push(Scale { set: Arc::clone(set), to });
    }

    fn write_status(
        &mut self,
        deployment: &Deployment,
        new: Option<&Arc<ReplicaSet>>,
        all: &[Arc<ReplicaSet>],
        now: Timestamp,
    ) {
        let created = self.create.as_ref().map(|set| set.name().to_owned());
        let name = created.unwrap_or_else(|| name_of(new));
        let sets = Sets { new: new.map(|set| &**set), all, new_name: &name, creating: self.create.is_some() };
        let status = status(deployment, &sets, now);
        self.again = deadline_left(deployment, &status, now);
        self.status = (deployment.status.as_ref() != Some(&status)).then_some(status);
    }
}

fn revision_of(set: &ReplicaSet) -> i64 {
    set.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The new ReplicaSet's revision: one more than all old ones, also when it was an old one that people went back to.
fn next_revision(new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) -> String {
    let before = old.iter().map(|set| revision_of(set)).max().unwrap_or_default();
    let own = new.map(|set| revision_of(set)).unwrap_or_default();
    own.max(before + 1).to_string()
}

fn set_annotations(deployment: &Deployment, revision: &str) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    annotations.insert(REVISION.to_owned(), revision.to_owned());
    annotations.extend(sizes(deployment));
    annotations
}

fn new_set(deployment: &Deployment, revision: &str, size: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or_default();
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(set_annotations(deployment, revision)),
            owner_references: Some(vec![deployment.controller_reference()]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}
