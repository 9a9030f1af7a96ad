//! The disruption gate: one control-plane machine and one worker at a time may be taken away, drained first, and only while those that
//! are left can decide. `docs/decisions/0011-disruption.md` has the reasons.
//!
//! A machine's wish is an annotation of its Node, written by its own control plane (`controlplane/daemon`, `permits.rs`) for as long as
//! machined asks. Who may go is a Lease for each slot, changed by compare-and-write only: a leader that does not know yet that it
//! was replaced cannot give what the new one gave. The answer is another annotation of the Node. It never restarts anything itself.
//!
//! ```text
//! wish -> Begin (the slot is taken) -> Drain (cordon, evict) -> HandOver (if it leads the store) -> Grant -> End (back, uncordoned)
//!                                           `-> End (expired, cancelled)                             `-> End (expired)
//! ```
//!
//! Woken by: Nodes and pods, and every few seconds while somebody wishes or holds something.

mod execute;
mod plan;
#[cfg(test)]
mod plan_tests;
mod record;

pub use record::{ANSWER, Answer, Phase, WISH, Wish};

use crate::context::{Context, StepError};
use crate::pods::node as node_of;
use controlplane_client::{Cache, Client, Object, ObjectKey, Recorder, spawn_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use machined_reconcile::{Backoff, Outcome, Queue};
use plan::{Machine, Slot, Step, View};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// How often somebody's wish is looked at again.
const PERIOD: Duration = Duration::from_secs(2);

/// The members of the store, as the leader knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voters {
    /// By machine.
    pub members: BTreeMap<String, Voter>,
    /// Whether a change of members is under way.
    pub changing: bool,
    /// The machine that leads.
    pub leader: Option<String>,
}

/// One member of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voter {
    /// Whether it decides; a learner does not.
    pub votes: bool,
    /// Whether it answers the leader.
    pub answers: bool,
}

/// Who keeps the store; implemented by the daemon.
pub trait StoreGroup: Debug + Send + Sync {
    /// The members, now; `None` where this process does not lead, and so does not know who answers.
    fn voters(&self) -> Option<Voters>;
    /// Has another member lead. The error says why none does.
    fn hand_over(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

struct Controller {
    client: Client,
    recorder: Recorder,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    group: Arc<dyn StoreGroup>,
}

pub(crate) fn start(context: &Context) {
    let (nodes, pods) = (context.informers.all::<Node>(), context.informers.all::<Pod>());
    let queue = Queue::new(Backoff::ITEM);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        recorder: context.recorder("disruption-gate"),
        nodes: nodes.cache().clone(),
        pods: pods.cache().clone(),
        group: Arc::clone(&context.settings.group),
    });
    let keys = queue.clone();
    nodes.cache().on_change(move |_| {
        for slot in Slot::ALL {
            keys.add(ObjectKey::cluster(slot.lease()));
        }
    });
    // One worker: a slot is decided by one look at a time.
    spawn_workers(&context.supervisor, "disruption gate", 1, &queue, &[nodes.synced(), pods.synced()], move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key.name).await }
    });
}

impl Controller {
    async fn reconcile(&self, lease: &str) -> Result<Outcome, StepError> {
        let Some(slot) = Slot::ALL.into_iter().find(|slot| slot.lease() == lease) else { return Ok(Outcome::Done) };
        let Some(voters) = self.group.voters() else { return Ok(Outcome::Again(PERIOD)) };
        let machines: Vec<Machine> = self
            .nodes
            .list()
            .iter()
            .filter(|node| slot.has(node.name(), &voters))
            .map(|node| Machine::of(node))
            .collect();
        let held = self.held(slot).await?;
        let pods = match &held.held {
            Some(held) => {
                let mut pods = self.pods.list();
                pods.retain(|pod| node_of(pod) == Some(held.machine.as_str()));
                pods
            }
            None => Vec::new(),
        };
        let view = View { machines: &machines, held: held.held.as_ref(), voters: &voters, pods: &pods };
        let now = Timestamp::now();
        let (mut step, queued) = (plan::plan(&view, now), plan::queued(&view, now));
        if let Step::Grant(held) = &step {
            let pods = self.pods_now(&held.machine).await?;
            step = plan::plan(&View { pods: &pods, ..view }, now);
        }
        let idle = held.held.is_none() && machines.iter().all(|machine| machine.wishes(now).is_none());
        for (machine, answer) in queued {
            self.tell(&machine, Some(&answer)).await?;
        }
        self.carry_out(slot, held, step).await?;
        Ok(if idle { Outcome::Done } else { Outcome::Again(PERIOD) })
    }
}
