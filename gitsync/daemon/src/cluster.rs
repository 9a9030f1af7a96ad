//! From machined to the cluster: one gitsync, the one that holds the Lease, applies the objects of what its machine runs.
//!
//! Server-side apply under one field manager, an inventory beside the objects, pruning of what left the repository. Repeated by
//! period against drift. Whatever fails is tried again; what was half done is found again by the inventory.

use crate::book::Book;
use crate::health::is_healthy;
use crate::lease::{Held, LeaseHolder};
use crate::objects;
use controlplane_client::{Client, ClientError, DynamicObject, Optional, ResourceKind};
use gitsync_plan::{DesiredObject, DesiredState, Entry, Inventory, ObjectKey, SyncPlan, diff};
use gitsync_verify::{Reason, Refusal, SignedMark};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use machined_config::Role;
use machined_ids::{Epoch, Fingerprint, MachineName, Seq, StepId};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The field manager of everything that gitsync applies.
pub(crate) const MANAGER: &str = "cairn-gitsync";

/// Where gitsync keeps what is its own.
pub(crate) const NAMESPACE: &str = "cairn-system";

const INVENTORY: &str = "gitsync-inventory";

/// How often everything is applied again although nothing changed: drift lasts at most this long.
const DRIFT_PERIOD: Duration = Duration::from_secs(60);

/// How often a step that is applied and not healthy yet is looked at (and applied) again.
const HEALTH_PERIOD: Duration = Duration::from_secs(5);

/// What should be in the cluster, and what the book says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) desired: Arc<DesiredState>,
    /// How far this machine has come: of two, the one that is further decides what runs, also when it runs an older step.
    pub(crate) accepted: (Epoch, Seq),
    pub(crate) machine: MachineName,
    /// The newest order of people that it was computed from.
    pub(crate) orders: u64,
    pub(crate) role: Role,
    pub(crate) identity: Fingerprint,
    /// This machine's signed report of what it accepted, for the others.
    pub(crate) mark: Option<SignedMark>,
    /// The statements that it accepted with, for the others.
    pub(crate) statements: Vec<String>,
    pub(crate) book: Book,
}

/// What the cluster's side came to, for the source's book.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ClusterNews {
    /// Which step it is about.
    pub(crate) step: Option<StepId>,
    /// Everything of it runs.
    pub(crate) healthy: bool,
    /// Another machine's gitsync applies it, and knows.
    pub(crate) elsewhere: bool,
    /// It cannot be done as it is.
    pub(crate) refusal: Option<Refusal>,
}

/// What a round came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Synced {
    /// Another gitsync does it.
    NotHolder,
    /// Nothing was due.
    Unchanged,
    /// All of it is applied.
    Done(ClusterNews),
    /// The plan is not allowed.
    Refused(ClusterNews),
}

/// A round could not be finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{failed} of {all} objects were not taken; first: {key}: {source}")]
    Objects {
        failed: usize,
        all: usize,
        key: ObjectKey,
        #[source]
        source: ClientError,
    },
}

/// The cluster's side.
#[derive(Default)]
pub(crate) struct Cluster {
    lease: LeaseHolder,
    /// The step that was applied last as a whole, and when.
    done: Option<(StepId, Instant)>,
    /// The last healthy step.
    healthy: Option<StepId>,
    published: objects::Published,
}

impl Cluster {
    /// One round.
    ///
    /// # Errors
    /// [`ClusterError`]; the next round tries again.
    pub(crate) async fn round(
        &mut self,
        client: &Client,
        target: &Target,
        newest_order: impl Fn() -> u64,
        now: Instant,
    ) -> Result<Synced, ClusterError> {
        self.ensure_namespace(client).await?;
        match self.lease.hold(client, target.machine.as_str(), now).await? {
            Held::Ours => {}
            Held::Others => {
                self.done = None;
                return Ok(Synced::NotHolder);
            }
        }
        let synced = self.sync(client, target, newest_order, now).await;
        // What was judged is shown also while applying fails; that is when people look.
        self.published.publish(client, target).await?;
        synced
    }

    async fn ensure_namespace(&self, client: &Client) -> Result<(), ClusterError> {
        if self.done.is_none() {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
            client
                .dynamic(kind("", "v1", "namespaces", "Namespace", false), None)
                .apply(NAMESPACE, &namespace, HOW)
                .await?;
        }
        Ok(())
    }

    async fn sync(
        &mut self,
        client: &Client,
        target: &Target,
        newest_order: impl Fn() -> u64,
        now: Instant,
    ) -> Result<Synced, ClusterError> {
        let (desired, place) = (&target.desired, target.accepted);
        let step = desired.source.step;
        let due = match &self.done {
            Some((done, at)) => {
                let period = if self.healthy == Some(step) { DRIFT_PERIOD } else { HEALTH_PERIOD };
                *done != step || now.duration_since(*at) >= period
            }
            None => true,
        };
        if !due {
            return Ok(Synced::Unchanged);
        }
        let (known, newest) = read_inventory(client).await?;
        if newest > place {
            // A machine that is further has decided what runs; this one catches up first.
            return Ok(Synced::NotHolder);
        }
        let refused =
            |refusal: Refusal| ClusterNews { step: Some(step), refusal: Some(refusal), ..ClusterNews::default() };
        let plan = match diff(&desired.objects, &known, &desired.policy) {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Synced::Refused(refused(refusal))),
        };
        if newest_order() > target.orders {
            // Right before the first write: the source reads the order, and tells what to do then.
            return Ok(Synced::Unchanged);
        }
        let healthy = execute(client, &plan, &known, place).await?;
        self.done = Some((step, now));
        self.healthy = healthy.then_some(step);
        Ok(Synced::Done(ClusterNews { step: Some(step), healthy, ..ClusterNews::default() }))
    }
}

pub(crate) const HOW: controlplane_client::Apply<'static> =
    controlplane_client::Apply { manager: MANAGER, force: true, dry_run: false };

pub(crate) fn kind(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> ResourceKind {
    let text = Cow::Borrowed;
    ResourceKind { group: text(group), version: text(version), plural: text(plural), kind: text(kind), namespaced }
}

fn config_maps() -> ResourceKind {
    kind("", "v1", "configmaps", "ConfigMap", true)
}

/// What was applied so far, and how far the machine had come that did it.
async fn read_inventory(client: &Client) -> Result<(Inventory, (Epoch, Seq)), ClusterError> {
    let found = client.dynamic(config_maps(), Some(NAMESPACE)).get(INVENTORY).await.optional()?;
    let Some(found) = found else { return Ok((Inventory::default(), (Epoch(0), Seq(0)))) };
    let text = |name: &str| found.rest.get("data").and_then(|data| data.get(name)).and_then(Value::as_str);
    let number = |name: &str| text(name).and_then(|number| number.parse().ok()).unwrap_or_default();
    let place = (Epoch(number("epoch")), Seq(number("seq")));
    let inventory = Inventory::from_json(text("inventory").unwrap_or_default()).unwrap_or_else(|refusal| {
        // Without it nothing is pruned once; that is the safe side.
        tracing::warn!(%refusal, "the inventory is begun afresh");
        Inventory::default()
    });
    Ok((inventory, place))
}

async fn write_inventory(
    client: &Client,
    inventory: &Inventory,
    (epoch, seq): (Epoch, Seq),
) -> Result<(), ClusterError> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": INVENTORY, "namespace": NAMESPACE},
        "data": {"epoch": epoch.to_string(), "seq": seq.to_string(), "inventory": inventory.to_json()},
    });
    client.dynamic(config_maps(), Some(NAMESPACE)).apply(INVENTORY, &map, HOW).await?;
    Ok(())
}

/// Does the plan: first the inventory of everything that is or will be there, then apply, prune, and the final inventory.
async fn execute(
    client: &Client,
    plan: &SyncPlan,
    known: &Inventory,
    place: (Epoch, Seq),
) -> Result<bool, ClusterError> {
    let all = known.with(&plan.inventory);
    if all != *known {
        write_inventory(client, &all, place).await?;
    }
    let (mut failed, mut first, mut healthy) = (0, None, true);
    for object in &plan.apply {
        match apply(client, object).await {
            Ok(answer) => healthy &= is_healthy(&object.key, &answer),
            // One that is not taken does not hold back the others; which one it was is said.
            Err(error) => {
                failed += 1;
                first.get_or_insert((object.key.clone(), error));
            }
        }
    }
    if let Some((key, source)) = first {
        return Err(ClusterError::Objects { failed, all: plan.apply.len(), key, source });
    }
    for (key, entry) in &plan.prune {
        prune(client, key, entry).await?;
    }
    if plan.inventory != *known {
        write_inventory(client, &plan.inventory, place).await?;
    }
    Ok(healthy)
}

fn resource(key: &ObjectKey, version: &str, plural: &str) -> ResourceKind {
    ResourceKind {
        group: Cow::Owned(key.group.clone()),
        version: Cow::Owned(version.to_owned()),
        plural: Cow::Owned(plural.to_owned()),
        kind: Cow::Owned(key.kind.clone()),
        namespaced: !key.namespace.is_empty(),
    }
}

fn place(key: &ObjectKey) -> Option<&str> {
    Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty())
}

async fn apply(client: &Client, object: &DesiredObject) -> Result<DynamicObject, ClientError> {
    let api = client.dynamic(resource(&object.key, &object.version, &object.plural), place(&object.key));
    api.apply(&object.key.name, &object.manifest, HOW).await
}

async fn prune(client: &Client, key: &ObjectKey, entry: &Entry) -> Result<(), ClientError> {
    let api = client.dynamic(resource(key, &entry.version, &entry.plural), place(key));
    let options = DeleteOptions { propagation_policy: Some("Background".to_owned()), ..DeleteOptions::default() };
    tracing::info!(%key, path = entry.path, "an object left the repository and is deleted");
    api.delete_if_there(&key.name, &options).await
}

impl ClusterError {
    /// One word for the condition.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            ClusterError::Objects { .. } => "ApplyFailed",
            ClusterError::Client(ClientError::Refused { .. }) => "Refused",
            ClusterError::Client(_) => "Unreachable",
        }
    }
}

impl ClusterNews {
    /// One word for the condition.
    pub(crate) fn reason(&self) -> &'static str {
        self.refusal.as_ref().map_or("", |refusal| Reason::as_str(refusal.reason))
    }
}
