//! Brings `waves.rs`, which is pure, together with what the server says: Machines and Nodes in, held wishes and notes out.

use super::Controller;
use super::execute::Holding;
use super::plan::{Machine, Slot};
use super::record::{Answer, Phase, annotation};
use super::waves::{self, Hold, Member};
use crate::context::{Doing, StepError};
use controlplane_client::{EventType, Object, ObjectKey, ResourceKind, Selection};
use controlplane_types::rollout::{IMAGE, MachineSpec, SEEN};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Who holds which slot.
#[derive(Debug, Default)]
pub(super) struct Holders(BTreeMap<Slot, String>);

impl Holders {
    pub(super) fn of(slots: &BTreeMap<Slot, Holding>) -> Self {
        let held = slots.iter().filter_map(|(slot, holding)| Some((*slot, holding.held.as_ref()?.machine.clone())));
        Holders(held.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, slot: Slot, machine: String) -> Option<String> {
        self.0.insert(slot, machine)
    }

    /// Whether a machine holds another slot than this one.
    pub(super) fn elsewhere(&self, slot: Slot, machine: &str) -> bool {
        self.0.iter().any(|(other, holder)| *other != slot && holder == machine)
    }
}

/// The machines of the repository, and the images that the machines of the cluster wish for.
pub(super) struct Rollout {
    members: Vec<Member>,
    /// Also of machines that are away: a wish is taken away when its machine is back.
    images: BTreeMap<String, String>,
}

fn machines() -> ResourceKind {
    ResourceKind {
        group: "cairn.dev".into(),
        version: "v1alpha1".into(),
        plural: "machines".into(),
        kind: "Machine".into(),
        namespaced: false,
    }
}

impl Controller {
    /// What the repository says, and what the Nodes do; notes what it sees for the first time.
    pub(super) async fn rollout(&self, all: &[Machine], now: Timestamp) -> Result<Rollout, StepError> {
        let listed = self.client.dynamic(machines(), None).list(&Selection::default()).await;
        let listed = listed.doing(|| "list the machines of the repository".to_owned())?.items;
        let mut members = Vec::new();
        for machine in &listed {
            let value = serde_json::to_value(machine).unwrap_or_default();
            // What is not understood says nothing of images: the machine goes like one without a class.
            let spec: MachineSpec = serde_json::from_value(value["spec"].clone()).unwrap_or_default();
            let node = self.nodes.get(&ObjectKey::cluster(machine.name()));
            members.push(Member {
                name: machine.name().to_owned(),
                spec,
                ready: all.iter().any(|one| one.name == machine.name() && one.ready),
                report: node.as_ref().and_then(|node| annotation(&**node, IMAGE)).unwrap_or_default(),
                seen: node.as_ref().and_then(|node| annotation(&**node, SEEN)),
            });
        }
        let image = |one: &Machine| Some((one.name.clone(), one.wish.as_ref()?.image.clone()?));
        let images: BTreeMap<String, String> = all.iter().filter_map(image).collect();
        if !images.is_empty() {
            self.note(&mut members, now).await?;
        }
        Ok(Rollout { members, images })
    }

    async fn note(&self, members: &mut [Member], now: Timestamp) -> Result<(), StepError> {
        for member in members {
            let Some(seen) = waves::noted(member, now) else { continue };
            let text = seen.as_ref().map(|seen| serde_json::to_string(seen).expect("because it is plain data"));
            let annotations: Value = json!({SEEN: text});
            self.patch(&member.name, json!({"metadata": {"annotations": annotations}}), "note the image of").await?;
            member.seen = seen;
        }
        Ok(())
    }

    /// Tells those whose wish is held back, and says once that a rollout stopped.
    pub(super) async fn tell_held_back(&self, waits: Vec<(Answer, String, Hold)>) -> Result<(), StepError> {
        for (answer, machine, hold) in waits {
            let news = self.tell(&machine, Some(&answer)).await?;
            if let (true, Hold::Stopped { message, .. }) = (news, &hold) {
                self.say(&machine, EventType::Warning, "RolloutStopped", message);
            }
        }
        Ok(())
    }
}

impl Rollout {
    /// Whether some class may use a slot.
    pub(super) fn uses(&self, slot: Slot) -> bool {
        slot.within(1) || self.members.iter().any(|member| slot.within(unavailable(member)))
    }

    /// Takes the wishes away that have to wait, and says why; and those of machines that may not use this slot. The holder of the slot
    /// keeps its wish, unless its image failed elsewhere before it went.
    pub(super) fn hold_back(
        &self,
        slot: Slot,
        holders: &Holders,
        machines: &mut [Machine],
        now: Timestamp,
    ) -> Vec<(Answer, String, Hold)> {
        let holder = holders.0.get(&slot).map(String::as_str);
        let mut waits = Vec::new();
        for machine in machines {
            let name = machine.name.clone();
            let unavailable = self.members.iter().find(|member| member.name == name).map_or(1, unavailable);
            let image = machine.wishes(now).and_then(|wish| wish.image.clone());
            let holds = holder == Some(&*name);
            let hold = image.and_then(|image| match holds {
                true => waves::stopped(&self.members, &name, &image),
                false => {
                    let same = |other: &&String| **other != name && self.images.get(*other) == Some(&image);
                    let going: Vec<&str> = holders.0.values().filter(same).map(String::as_str).collect();
                    waves::held_back(&self.members, &name, &image, &going, now)
                }
            });
            let reason = machine.wish.as_ref().map(|wish| wish.reason.clone()).unwrap_or_default();
            if hold.is_some() || !(holds || slot.within(unavailable)) {
                machine.wish = None;
            }
            if let Some(hold) = hold.filter(|_| !holds) {
                let (boot, message) = (machine.boot.clone(), hold.message().to_owned());
                let answer = Answer { boot, reason, phase: Phase::Waiting, message, until: None, cordoned: false };
                waits.push((answer, name, hold));
            }
        }
        waits
    }
}

fn unavailable(member: &Member) -> u8 {
    member.spec.rollout.as_ref().map_or(1, |rollout| rollout.unavailable)
}
