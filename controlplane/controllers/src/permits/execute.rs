//! Carries out the gate's steps, in an order in which each may be cut off and done again.

use super::Controller;
use super::plan::{Held, Slot, Step};
use super::record::{ANSWER, Answer, NAMESPACE, Phase, WISH, held, lease};
use crate::context::{Doing, StepError};
use controlplane_client::{ClientError, EventType, Object, ObjectKey, Optional, Patch, Selection};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A slot as it was read: the Lease whose version the next write names.
#[derive(Default)]
pub(super) struct Holding {
    lease: Option<Lease>,
    pub(super) held: Option<Held>,
}

impl Controller {
    /// Reads the slots from the server: the cache may be behind, and these decide.
    pub(super) async fn slots(&self) -> Result<BTreeMap<Slot, Holding>, StepError> {
        let leases = self.client.namespaced::<Lease>(NAMESPACE).list(&Selection::default()).await;
        let leases = leases.doing(|| format!("list the leases in {NAMESPACE}"))?.items;
        let of = |lease: Lease| {
            let slot = Slot::all().find(|slot| slot.lease() == lease.name())?;
            let held = held(&lease);
            Some((slot, Holding { lease: Some(lease), held }))
        };
        Ok(leases.into_iter().filter_map(of).collect())
    }

    /// The pods on a machine, from the server: a permit is given on these and not on what the cache knew.
    pub(super) async fn pods_now(&self, machine: &str) -> Result<Vec<Arc<Pod>>, StepError> {
        let on = Selection::fields(format!("spec.nodeName={machine}"));
        let list = self.client.all::<Pod>().list(&on).await.doing(|| format!("list the pods of {machine}"))?;
        Ok(list.items.into_iter().map(Arc::new).collect())
    }

    pub(super) async fn carry_out(&self, slot: Slot, holding: Holding, step: Step) -> Result<(), StepError> {
        let current = holding.held.clone();
        let (machine, boot) = current.as_ref().map(|it| (it.machine.clone(), it.boot.clone())).unwrap_or_default();
        let cordoned = current.as_ref().is_some_and(|held| held.cordoned);
        let reason = current.as_ref().map(|it| it.reason.clone()).unwrap_or_default();
        let answer = |phase, message: String| {
            let (boot, reason) = (boot.clone(), reason.clone());
            Answer { boot, reason, phase, message, until: None, cordoned }
        };
        match step {
            Step::Wait(answers) => {
                for (machine, answer) in answers {
                    self.tell(&machine, Some(&answer)).await?;
                }
                Ok(())
            }
            Step::Begin(held) => {
                tracing::info!(machine = held.machine, reason = held.reason, "a machine is drained");
                self.write(slot, &holding, Some(&held)).await
            }
            Step::Cordon => {
                // Written down first: a cordon that nobody remembers would stay for ever.
                if !cordoned {
                    let held = current.map(|held| Held { cordoned: true, ..held });
                    self.write(slot, &holding, held.as_ref()).await?;
                }
                self.cordon(&machine, true).await
            }
            Step::Drain { evict, left } => {
                let mut kept = Vec::new();
                for pod in &evict {
                    kept.extend(self.evict(pod).await?.map(|why| format!("{}: {why}", pod.key())));
                }
                let why = kept.first().map(|why| format!("; {why}")).unwrap_or_default();
                self.tell(&machine, Some(&answer(Phase::Draining, format!("{left} pods are leaving{why}"))))
                    .await
                    .map(drop)
            }
            Step::HandOver => {
                tracing::info!(machine, "another machine is to lead before this one goes");
                if let Err(why) = self.group.hand_over().await {
                    let message = format!("another member of the store has to lead first: {why}");
                    self.tell(&machine, Some(&answer(Phase::Draining, message))).await?;
                }
                Ok(())
            }
            Step::LetLeave => {
                self.group.let_leave(&machine);
                Ok(())
            }
            Step::Grant(held) => {
                // The slot first: an answer that nobody holds the slot for must never be read.
                self.write(slot, &holding, Some(&held)).await?;
                let message = "drained; it may go".to_owned();
                self.tell(&machine, Some(&Answer { until: held.granted_until, ..answer(Phase::Granted, message) }))
                    .await?;
                self.say(&machine, EventType::Normal, "DisruptionGranted", &format!("{} may begin", held.reason));
                Ok(())
            }
            Step::End { uncordon, answer, why } => {
                // The answer goes before the slot does: nobody else may be let go while this machine still reads "granted".
                self.tell(&machine, answer.as_ref()).await?;
                if uncordon {
                    self.cordon(&machine, false).await?;
                }
                let kind = if answer.is_some() { EventType::Warning } else { EventType::Normal };
                let reason = if answer.is_some() { "DisruptionExpired" } else { "DisruptionEnded" };
                self.say(&machine, kind, reason, &why);
                self.write(slot, &holding, None).await
            }
            Step::Uncordon(machine) => {
                self.cordon(&machine, false).await?;
                self.tell(&machine, None).await.map(drop)
            }
        }
    }

    /// Writes the slot at the version that was read.
    async fn write(&self, slot: Slot, holding: &Holding, held: Option<&Held>) -> Result<(), StepError> {
        let leases = self.client.namespaced::<Lease>(NAMESPACE);
        let new = lease(slot, holding.lease.as_ref(), held);
        let written = match &holding.lease {
            Some(_) => leases.update(&new).await,
            None => leases.create(&new).await,
        };
        written.doing(|| format!("write lease {}", slot.lease())).map(drop)
    }

    /// Writes the answer on the Node, where it differs; none takes the wish away too. Says whether it wrote.
    pub(super) async fn tell(&self, machine: &str, answer: Option<&Answer>) -> Result<bool, StepError> {
        let annotations = match answer {
            Some(answer) => json!({ANSWER: serde_json::to_string(answer).expect("because it is plain data")}),
            None => json!({ANSWER: null, WISH: null}),
        };
        let known = self.nodes.get(&ObjectKey::cluster(machine));
        let known = known.as_ref().and_then(|node| node.annotation(ANSWER));
        if answer.is_some() && known == annotations[ANSWER].as_str() {
            return Ok(false);
        }
        self.patch(machine, json!({"metadata": {"annotations": annotations}}), "answer").await?;
        Ok(true)
    }

    async fn cordon(&self, machine: &str, cordoned: bool) -> Result<(), StepError> {
        let unschedulable = if cordoned { json!(true) } else { Value::Null };
        let what = if cordoned { "cordon" } else { "uncordon" };
        self.patch(machine, json!({"spec": {"unschedulable": unschedulable}}), what).await
    }

    pub(super) async fn patch(&self, machine: &str, patch: Value, what: &str) -> Result<(), StepError> {
        let patched = self.client.all::<Node>().patch(machine, Patch::Merge(&patch)).await.optional();
        patched.doing(|| format!("{what} node {machine}")).map(drop)
    }

    /// Evicts a pod like anybody would; says why it stays, if it does.
    async fn evict(&self, pod: &Arc<Pod>) -> Result<Option<String>, StepError> {
        let namespace = pod.namespace().unwrap_or_default();
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.name(), "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid()}},
        });
        let pods = self.client.namespaced::<Pod>(namespace);
        match pods.create_subresource::<_, Value>(pod.name(), "eviction", &body).await {
            Ok(_) => Ok(None),
            Err(ClientError::Refused { status, .. }) if status.code == 404 || status.code == 409 => Ok(None),
            Err(ClientError::Refused { status, .. }) => {
                let cause = status.causes.first().map(|(_, message)| message.clone());
                Ok(Some(cause.filter(|text| !text.is_empty()).unwrap_or(status.message)))
            }
            Err(error) => Err(error).doing(|| format!("evict pod {}", pod.key())),
        }
    }

    pub(super) fn say(&self, machine: &str, kind: EventType, reason: &'static str, message: &str) {
        tracing::info!(machine, reason, message, "disruption gate");
        if let Some(node) = self.nodes.get(&ObjectKey::cluster(machine)) {
            self.recorder.record(&*node, kind, reason, message.to_owned());
        }
    }
}
