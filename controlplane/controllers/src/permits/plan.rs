//! Who may take a machine away now: a function of wishes, the slot's holder, the store's members and the holder's pods. Pure.

use super::Voters;
use super::record::{Answer, Phase, REMOVAL, RESET, Wish};
use crate::pods::has_ended;
use controlplane_client::Object;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How long a drain may take: pods have 30 s to end, and a budget waits for replacements that pull and start.
pub(super) const DRAIN_PATIENCE: SignedDuration = SignedDuration::from_mins(15);

/// How long a machine may be away on one permit: longer than the longest deadline of a try that usually is set, and its way back.
pub(super) const GRANT_LIFETIME: SignedDuration = SignedDuration::from_mins(30);

/// How long a wish counts after it was asked for last; machined asks every few seconds.
pub(super) const WISH_LIFETIME: SignedDuration = SignedDuration::from_mins(3);

/// How long others go first after a machine's turn came to nothing.
pub(super) const EXPIRY_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// Names of pods in a message; the rest is a number.
const NAMES_SHOWN: usize = 3;

/// Turns of workers; a class says how many of them its machines may use.
const WORKER_TURNS: [&str; 8] = [
    "disruption-workers",
    "disruption-workers-2",
    "disruption-workers-3",
    "disruption-workers-4",
    "disruption-workers-5",
    "disruption-workers-6",
    "disruption-workers-7",
    "disruption-workers-8",
];

/// One machine has it at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    /// Machines with a member of the store.
    ControlPlane,
    /// All others, by the number of the turn from 0. The first is every worker's.
    Workers(usize),
}

impl Slot {
    pub(super) fn all() -> impl Iterator<Item = Slot> {
        std::iter::once(Slot::ControlPlane).chain((0..WORKER_TURNS.len()).map(Slot::Workers))
    }

    /// Name of its Lease.
    pub(super) fn lease(self) -> &'static str {
        match self {
            Slot::ControlPlane => "disruption-control-plane",
            Slot::Workers(turn) => WORKER_TURNS[turn],
        }
    }

    /// Whether a machine of a class that may have so many away at once may use it. Two leaders for a moment cannot give more turns
    /// than there are: each turn is one Lease.
    pub(super) fn within(self, unavailable: u8) -> bool {
        match self {
            Slot::ControlPlane => true,
            Slot::Workers(turn) => turn < usize::from(unavailable.max(1)),
        }
    }

    /// Whether it is the one through which machines are told what they wait for.
    pub(super) fn tells(self) -> bool {
        matches!(self, Slot::ControlPlane | Slot::Workers(0))
    }

    /// Whether a machine goes through this slot.
    pub(super) fn has(self, machine: &str, voters: &Voters) -> bool {
        voters.members.contains_key(machine) == (self == Slot::ControlPlane)
    }
}

/// A machine as its Node shows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Machine {
    pub(super) name: String,
    /// The boot that runs.
    pub(super) boot: String,
    pub(super) ready: bool,
    pub(super) unschedulable: bool,
    pub(super) wish: Option<Wish>,
    pub(super) answer: Option<Answer>,
}

impl Machine {
    pub(super) fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        Machine {
            name: node.name().to_owned(),
            boot: status.and_then(|it| it.node_info.as_ref()).map(|info| info.boot_id.clone()).unwrap_or_default(),
            ready: conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True"),
            unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true),
            wish: Wish::on(node),
            answer: Answer::on(node),
        }
    }

    /// Its wish, if it is of the boot that runs and still asked for.
    pub(super) fn wishes(&self, now: Timestamp) -> Option<&Wish> {
        let wish = self.wish.as_ref()?;
        (wish.boot == self.boot && !wish.boot.is_empty() && now.duration_since(wish.asked) < WISH_LIFETIME)
            .then_some(wish)
    }

    /// Whether its last turn came to nothing a short while ago.
    fn pauses(&self, now: Timestamp) -> bool {
        let answer = self.answer.as_ref().filter(|answer| answer.phase == Phase::Expired && answer.boot == self.boot);
        answer.and_then(|answer| answer.until).is_some_and(|until| now < until)
    }
}

/// Who has a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) machine: String,
    /// The boot that asked.
    pub(super) boot: String,
    pub(super) reason: String,
    pub(super) since: Timestamp,
    /// Whether the gate cordoned it; somebody else's cordon stays.
    pub(super) cordoned: bool,
    /// Until when it may be away; none while it is drained.
    pub(super) granted_until: Option<Timestamp>,
}

/// What a slot is decided on.
pub(super) struct View<'a> {
    /// Those that go through this slot.
    pub(super) machines: &'a [Machine],
    pub(super) held: Option<&'a Held>,
    pub(super) voters: &'a Voters,
    /// Whose member of the store is to leave, where that goes through this slot.
    pub(super) leaving: Option<&'a str>,
    /// On the holder.
    pub(super) pods: &'a [Arc<Pod>],
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing but saying who waits for what.
    Wait(Vec<(String, Answer)>),
    /// Give the slot to this machine.
    Begin(Held),
    /// Keep new pods away.
    Cordon,
    /// Ask these to go; `left` are still there, those that were asked before among them.
    Drain { evict: Vec<Arc<Pod>>, left: usize },
    /// Have another member of the store lead.
    HandOver,
    /// It may go.
    Grant(Held),
    /// Its member of the store may leave.
    LetLeave,
    /// The slot is free again.
    End { uncordon: bool, answer: Option<Answer>, why: String },
    /// A machine that came back after its permit was over.
    Uncordon(String),
}

/// The next step.
pub(super) fn plan(view: &View<'_>, now: Timestamp) -> Step {
    if let Some(late) = view.machines.iter().find(|machine| came_back_late(machine, view.held)) {
        return Step::Uncordon(late.name.clone());
    }
    match view.held {
        Some(held) if held.reason == REMOVAL => leave(held, view),
        Some(held) => match view.machines.iter().find(|machine| machine.name == held.machine) {
            Some(machine) if held.granted_until.is_some() => away(held, machine, now),
            Some(machine) => drain(held, machine, view, now),
            // Its Node is gone, so it is no machine of the cluster any more, or goes through the other slot now.
            None => Step::End { uncordon: held.cordoned, answer: None, why: "the machine left".to_owned() },
        },
        None => choose(view, now),
    }
}

fn came_back_late(machine: &Machine, held: Option<&Held>) -> bool {
    let holds = held.is_some_and(|held| held.machine == machine.name);
    let late = machine.answer.as_ref().is_some_and(|answer| answer.cordoned && answer.boot != machine.boot);
    late && machine.ready && !holds
}

/// Whether the store's members that are left without this machine decide. The error is for people.
pub(super) fn keeps_quorum(voters: &Voters, machine: &str) -> Result<(), String> {
    let votes = || voters.members.iter().filter(|(_, voter)| voter.votes);
    let total = votes().count();
    if !voters.members.get(machine).is_some_and(|voter| voter.votes) || total == 1 {
        // A worker decides nothing, and a store of one has nothing that could go on without it.
        return Ok(());
    }
    if voters.changing {
        return Err("the store's members are being changed".to_owned());
    }
    let left = votes().filter(|(name, voter)| *name != machine && voter.answers).count();
    let needed = total / 2 + 1;
    if left < needed {
        return Err(format!("{left} of {total} members of the store would be left, and {needed} have to agree"));
    }
    Ok(())
}

/// Whether a machine may go for this reason, as far as the store is concerned. The error is for people.
fn store_permits(voters: &Voters, machine: &str, reason: &str) -> Result<(), String> {
    if reason == RESET && voters.members.contains_key(machine) && voters.members.len() > 1 {
        return Err(format!(
            "it is a member of the store, and a reset would take its copy away for good: take machines/{machine}.kdl out of the \
             repository, and reset it once it has left (docs/operating/reset.md)"
        ));
    }
    keeps_quorum(voters, machine)
}

/// A member has the turn for as long as it is to leave. Whether it can be taken out, and when it is, the store's members decide.
fn leave(held: &Held, view: &View<'_>) -> Step {
    match view.leaving {
        Some(machine) if machine == held.machine => Step::LetLeave,
        Some(_) | None => {
            Step::End { uncordon: false, answer: None, why: "it is to leave the store no more, or has left".to_owned() }
        }
    }
}

fn choose(view: &View<'_>, now: Timestamp) -> Step {
    // It goes before whoever comes back: the repository does not name it any more.
    if let Some(machine) = view.leaving.filter(|machine| keeps_quorum(view.voters, machine).is_ok()) {
        return Step::Begin(Held {
            machine: machine.to_owned(),
            boot: String::new(),
            reason: REMOVAL.to_owned(),
            since: now,
            cordoned: false,
            granted_until: None,
        });
    }
    let mut candidates: Vec<(&Machine, &Wish)> =
        view.machines.iter().filter_map(|machine| Some((machine, machine.wishes(now)?))).collect();
    candidates.sort_by_key(|(machine, _)| (machine.pauses(now), machine.name.clone()));
    let mut waiting = Vec::new();
    for (machine, wish) in candidates {
        let why = match store_permits(view.voters, &machine.name, &wish.reason) {
            Ok(()) if machine.pauses(now) => continue,
            Ok(()) => {
                return Step::Begin(Held {
                    machine: machine.name.clone(),
                    boot: machine.boot.clone(),
                    reason: wish.reason.clone(),
                    since: now,
                    cordoned: false,
                    granted_until: None,
                });
            }
            Err(why) => why,
        };
        waiting.push((machine.name.clone(), waits(machine, why)));
    }
    Step::Wait(waiting)
}

fn waits(machine: &Machine, message: String) -> Answer {
    let reason = machine.wish.as_ref().map(|wish| wish.reason.clone()).unwrap_or_default();
    Answer { boot: machine.boot.clone(), reason, phase: Phase::Waiting, message, until: None, cordoned: false }
}

/// What everybody else is told while one has the slot.
pub(super) fn queued(view: &View<'_>, now: Timestamp) -> Vec<(String, Answer)> {
    let Some(held) = view.held else { return Vec::new() };
    let others = view.machines.iter().filter(|machine| machine.name != held.machine && machine.wishes(now).is_some());
    let others = others.filter(|machine| !machine.pauses(now));
    others.map(|one| (one.name.clone(), waits(one, format!("{} goes first ({})", held.machine, held.reason)))).collect()
}

fn drain(held: &Held, machine: &Machine, view: &View<'_>, now: Timestamp) -> Step {
    if machine.boot != held.boot {
        return Step::End { uncordon: held.cordoned, answer: None, why: "it restarted by itself".to_owned() };
    }
    match machine.wishes(now) {
        Some(wish) if wish.reason == held.reason => {}
        // What was drained for a restart may have been refused for a reset: its turn begins anew.
        Some(_) | None => {
            return Step::End {
                uncordon: held.cordoned,
                answer: None,
                why: "its wish does not stand any more".to_owned(),
            };
        }
    }
    let pods: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| must_go(pod)).collect();
    let quorum = store_permits(view.voters, &machine.name, &held.reason);
    if now.duration_since(held.since) >= DRAIN_PATIENCE {
        let why = quorum.err().unwrap_or_else(|| named(&pods));
        return expired(held, machine, format!("not drained in {} minutes: {why}", DRAIN_PATIENCE.as_mins()), now);
    }
    // By what the Node says: a cordon that was noted and not written, or taken away meanwhile, is written again.
    if !machine.unschedulable {
        return Step::Cordon;
    }
    if !pods.is_empty() {
        let evict = pods.iter().filter(|pod| !pod.is_terminating()).map(|pod| Arc::clone(pod)).collect();
        return Step::Drain { evict, left: pods.len() };
    }
    if let Err(why) = quorum {
        let answer = Answer { phase: Phase::Draining, cordoned: held.cordoned, ..waits(machine, why) };
        return Step::Wait(vec![(machine.name.clone(), answer)]);
    }
    let votes = view.voters.members.values().filter(|voter| voter.votes).count();
    if votes > 1 && view.voters.leader.as_deref() == Some(&*machine.name) {
        return Step::HandOver;
    }
    let until = now.saturating_add(GRANT_LIFETIME).unwrap_or(now);
    Step::Grant(Held { granted_until: Some(until), ..held.clone() })
}

fn away(held: &Held, machine: &Machine, now: Timestamp) -> Step {
    if machine.boot == held.boot && machine.wishes(now).is_some_and(|wish| wish.reason != held.reason) {
        return Step::End { uncordon: held.cordoned, answer: None, why: "something else is asked for".to_owned() };
    }
    if machine.boot != held.boot && machine.ready {
        return Step::End { uncordon: held.cordoned, answer: None, why: "it is back and ready".to_owned() };
    }
    if held.granted_until.is_some_and(|until| now >= until) {
        return expired(held, machine, format!("not back in {} minutes", GRANT_LIFETIME.as_mins()), now);
    }
    Step::Wait(Vec::new())
}

/// A machine that is there gets its pods back; one that is away keeps its cordon until it is.
fn expired(held: &Held, machine: &Machine, message: String, now: Timestamp) -> Step {
    let uncordon = held.cordoned && machine.ready;
    let answer = Answer {
        boot: held.boot.clone(),
        reason: held.reason.clone(),
        phase: Phase::Expired,
        message: message.clone(),
        until: now.saturating_add(EXPIRY_PAUSE).ok(),
        cordoned: held.cordoned && !uncordon,
    };
    Step::End { uncordon, answer: Some(answer), why: message }
}

/// Pods that have to leave: not those of the machine itself (mirrors), those that belong on each machine, and those that have ended.
fn must_go(pod: &Pod) -> bool {
    let mirror = pod.annotation("kubernetes.io/config.mirror").is_some();
    let stays = pod.controller().is_some_and(|owner| owner.kind == "DaemonSet" || owner.kind == "Node");
    !mirror && !stays && !has_ended(pod)
}

fn named(pods: &[&Arc<Pod>]) -> String {
    let mut names: Vec<String> = pods.iter().take(NAMES_SHOWN).map(|pod| pod.key().to_string()).collect();
    if pods.len() > NAMES_SHOWN {
        names.push(format!("{} more", pods.len() - NAMES_SHOWN));
    }
    format!("still there: {}", names.join(", "))
}
