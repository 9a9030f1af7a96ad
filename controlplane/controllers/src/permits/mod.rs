//! The disruption gate: one control-plane machine and one worker at a time (or as many as a class says) may be taken away, drained first,
//! and only while those that are left can decide. `docs/decisions/0011-disruption.md` has the reasons. Whose turn it is for an image, and
//! that nobody's is once it failed, is `waves.rs`' word (`0016-rollout.md`).
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

#[cfg(test)]
mod dice;
mod execute;
mod plan;
#[cfg(test)]
mod plan_tests;
mod record;
mod rollout;
mod waves;
#[cfg(test)]
mod waves_tests;

pub use record::{ANSWER, Answer, Phase, RESET, WISH, Wish};

use crate::context::{Context, StepError};
use crate::pods::node as node_of;
use controlplane_client::{Cache, Client, ObjectKey, Recorder, spawn_workers};
use execute::Holding;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use machined_reconcile::{Backoff, Outcome, Queue, Restart, Stop};
use plan::{Machine, Slot, Step, View};
use rollout::{Holders, Rollout};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

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
    /// The machine whose member is to leave the store for good; it waits for its turn.
    fn leaving(&self) -> watch::Receiver<Option<String>>;
    /// That machine's member may leave now: it has the turn.
    fn let_leave(&self, machine: &str);
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
    nodes.cache().on_change(move |_| keys.add(slots()));
    let (group, keys) = (Arc::clone(&context.settings.group), queue.clone());
    context.supervisor.spawn("disruption gate departures", Restart::Always, move |stop| {
        look_when_one_leaves(group.leaving(), keys.clone(), stop)
    });
    // One worker: the slots are decided by one look at a time.
    spawn_workers(&context.supervisor, "disruption gate", 1, &queue, &[nodes.synced(), pods.synced()], move |_| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile().await }
    });
}

/// The one thing that is looked at.
fn slots() -> ObjectKey {
    ObjectKey::cluster("slots")
}

/// Has the slots looked at whenever a member of the store is to leave.
async fn look_when_one_leaves(
    mut leaving: watch::Receiver<Option<String>>,
    queue: Queue<ObjectKey>,
    mut stop: Stop,
) -> Result<(), Infallible> {
    loop {
        queue.add(slots());
        tokio::select! {
            Ok(()) = leaving.changed() => {}
            () = stop.requested() => return Ok(()),
        }
    }
}

impl Controller {
    /// Looks at every slot once.
    async fn reconcile(&self) -> Result<Outcome, StepError> {
        let Some(voters) = self.group.voters() else { return Ok(Outcome::Again(PERIOD)) };
        let now = Timestamp::now();
        let machines: Vec<Machine> = self.nodes.list().iter().map(|node| Machine::of(node)).collect();
        let mut slots = self.slots().await?;
        let mut holders = Holders::of(&slots);
        let leaving = self.group.leaving().borrow().clone();
        let busy =
            leaving.is_some() || !holders.is_empty() || machines.iter().any(|machine| machine.wishes(now).is_some());
        let left = machines.iter().any(|machine| machine.answer.as_ref().is_some_and(|answer| answer.cordoned));
        if !busy && !left {
            return Ok(Outcome::Done);
        }
        let rollout = self.rollout(&machines, now).await?;
        let mut failed = None;
        for slot in Slot::all() {
            // A turn that no class uses any more is looked at until its holder is back.
            if !slots.contains_key(&slot) && !rollout.uses(slot) {
                continue;
            }
            let holding = slots.remove(&slot).unwrap_or_default();
            // What cannot be written for one slot is no reason to keep the others waiting.
            match self.look(slot, holding, &machines, &voters, (&rollout, &holders), now).await {
                Ok(Some(begun)) => drop(holders.insert(slot, begun)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None if busy => Ok(Outcome::Again(PERIOD)),
            None => Ok(Outcome::Done),
        }
    }

    /// Does the next step of a slot; returns the machine that begins its turn with it.
    async fn look(
        &self,
        slot: Slot,
        holding: Holding,
        all: &[Machine],
        voters: &Voters,
        (rollout, holders): (&Rollout, &Holders),
        now: Timestamp,
    ) -> Result<Option<String>, StepError> {
        let mut machines = all.to_vec();
        // Who holds another slot is that slot's.
        machines.retain(|one| slot.has(&one.name, voters) && !holders.elsewhere(slot, &one.name));
        let waits = rollout.hold_back(slot, holders, &mut machines, now);
        let pods = match &holding.held {
            Some(held) => {
                let mut pods = self.pods.list();
                pods.retain(|pod| node_of(pod) == Some(held.machine.as_str()));
                pods
            }
            None => Vec::new(),
        };
        let leaving = self.group.leaving().borrow().clone().filter(|_| slot == Slot::ControlPlane);
        let leaving = leaving.as_deref();
        let view = View { machines: &machines, held: holding.held.as_ref(), voters, leaving, pods: &pods };
        let (mut step, queued) = (plan::plan(&view, now), plan::queued(&view, now));
        if let Step::Grant(held) = &step {
            let pods = self.pods_now(&held.machine).await?;
            step = plan::plan(&View { pods: &pods, ..view }, now);
        }
        if slot.tells() {
            self.tell_held_back(waits).await?;
            for (machine, answer) in queued {
                self.tell(&machine, Some(&answer)).await?;
            }
        }
        let begun = match &step {
            Step::Begin(held) => Some(held.machine.clone()),
            _going_on => None,
        };
        self.carry_out(slot, holding, step).await?;
        Ok(begun)
    }
}
