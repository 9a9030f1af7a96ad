//! From what is accepted to what should run: rendered once, handed down to machined until it takes it, told to the cluster's side.
//!
//! What should run may be older than what is accepted (a hold, a pin, a revert, a break-glass that nobody ratified). Who people are is
//! read from accepted, always.

use crate::cluster::Target;
use crate::machine::{Context, DesiredMachine};
use crate::report::{Topic, condition};
use crate::source::{Moment, Source, SourceError};
use gitsync_plan::{DesiredState, access, render};
use gitsync_verify::{Action, ObjectSet, Position, Refusal, TrustState, Wanted, recall};
use machined_access::AccessTable;
use machined_ids::{Generation, MachineName, PrincipalName, Seq};
use std::sync::Arc;

/// Who signed what runs, where nobody did: the commit that the machine was introduced to.
const INTRODUCED: &str = "introduction";

/// What waits to be handed down; its generation once it has one, so that a retry is the same activation.
#[derive(Clone)]
pub(crate) struct Pending {
    desired: Arc<DesiredState>,
    generation: Option<Generation>,
}

impl Source {
    /// Renders what should run, once for each change of that or of accepted.
    pub(crate) async fn desire(
        &mut self,
        objects: Option<ObjectSet>,
        context: &Context,
        moment: &Moment,
    ) -> Result<(), SourceError> {
        let Some(state) = self.state.clone() else { return Ok(()) };
        let accepted = state.accepted();
        let wanted = state.wanted(moment.clock);
        // Revocations are never taken back: their number says whether one came.
        let key = (wanted.position().step, accepted.step, state.revocations().len());
        if self.rendered == Some(key) {
            return Ok(());
        }
        let objects = self.objects(&state, objects, context, accepted.seq).await?;
        let commit = recall(&state, &objects, accepted.seq);
        let people = commit.as_ref().ok().and_then(|commit| access(commit, &objects).ok());
        let people = people.map(|people| without_revoked(people, &state));
        let rendered = commit.as_ref().map_err(Refusal::clone).and_then(|commit| render(commit, &objects));
        let rendered = rendered.map(|desired| {
            let access = without_revoked(desired.access.clone(), &state);
            DesiredState { access, ..desired }
        });
        self.content = rendered.as_ref().err().cloned();
        match (wanted, rendered) {
            (Wanted::Accepted(_), Ok(desired)) => {
                self.pending = Some(Pending { desired: Arc::new(desired), generation: None });
            }
            (Wanted::Accepted(_), Err(refusal)) => {
                self.note_refusal(&accepted.commit, &refusal, &moment.now);
                if let Some(applied) = state.applied() {
                    self.go_back(&state, context, applied.seq, people).await?;
                }
            }
            (Wanted::Overridden(position, order), _) => {
                if let Action::Revert { .. } = &order.action {
                    self.book.reverted(accepted.seq, &order.reason, &moment.now);
                }
                self.go_back(&state, context, position.seq, people).await?;
            }
            (Wanted::NotRatified(position), _) => {
                let note = "a break-glass that nobody ratified in time; approve what it did, or push its undoing";
                self.book.reverted(accepted.seq, note, &moment.now);
                self.go_back(&state, context, position.seq, people).await?;
            }
        }
        self.rendered = Some(key);
        Ok(())
    }

    /// Objects of a remembered step: those that just came, or those in the fetch folder.
    async fn objects(
        &mut self,
        state: &TrustState,
        came: Option<ObjectSet>,
        context: &Context,
        seq: Seq,
    ) -> Result<ObjectSet, SourceError> {
        if let Some(objects) = came.filter(|objects| recall(state, objects, seq).is_ok()) {
            return Ok(objects);
        }
        let known = state.history().iter().find(|known| known.seq == seq);
        let commit = known.map_or(&state.accepted().commit, |known| &known.commit).clone();
        let again = self.sources.again(state.introduction(), context.repositories.len(), &commit).await;
        again.map_err(SourceError::Again)
    }

    /// Something older runs than accepted, with the people of the accepted step.
    async fn go_back(
        &mut self,
        state: &TrustState,
        context: &Context,
        seq: Seq,
        people: Option<AccessTable>,
    ) -> Result<(), SourceError> {
        let known = self.applied.clone().filter(|desired| desired.source.seq == seq);
        let desired = match known {
            Some(desired) => desired,
            None => {
                let objects = self.objects(state, None, context, seq).await?;
                match recall(state, &objects, seq).and_then(|commit| render(&commit, &objects)) {
                    Ok(desired) => Arc::new(desired),
                    // It was rendered once; if it no longer can be, what machined holds stays.
                    Err(refusal) => {
                        tracing::error!(%refusal, "an accepted step cannot be rendered again");
                        return Ok(());
                    }
                }
            }
        };
        let mut kept = DesiredState::clone(&desired);
        kept.access = without_revoked(people.unwrap_or(kept.access), state);
        if self.applied.as_deref() != Some(&kept) {
            self.pending = Some(Pending { desired: Arc::new(kept), generation: None });
        } else {
            self.pending = None;
        }
        Ok(())
    }

    /// Hands what is pending to machined. Recorded first, so that a generation never means two things.
    pub(crate) async fn hand_down(&mut self, context: &Context, moment: &Moment) -> Result<(), SourceError> {
        let (Some(pending), Some(state)) = (self.pending.clone(), self.state.clone()) else { return Ok(()) };
        let desired = pending.desired;
        let Some((name, machine)) = desired.documents.by_identity(&context.identity) else {
            let message = format!(
                "no document in machines/ names {}; enrol this machine with `cairnctl enroll`",
                context.identity
            );
            return Ok(self.reporter.condition(condition(Topic::Enrolled, false, "NotEnrolled", message)).await?);
        };
        let before = state.applied().map(|applied| applied.step);
        let generation = match pending.generation {
            Some(generation) => generation,
            None => self.number(state, &desired, context).await?,
        };
        let down = DesiredMachine {
            orders: context.orders,
            ..desired_machine(generation, &desired, name.clone(), machine.text.clone())
        };
        if let Err(error) = self.machine.apply(&down).await {
            if error.misses_an_order() {
                // The next round reads the order first, and decides anew what should run.
                (self.pending, self.rendered) = (None, None);
                return Err(error.into());
            }
            // Another content had this number: the next round takes a new one.
            let taken = error.is_older();
            let generation = (!taken).then_some(generation);
            self.taken = taken;
            self.pending = Some(Pending { desired, generation });
            return Err(error.into());
        }
        self.reporter.condition(condition(Topic::Enrolled, true, "", "")).await?;
        let source = &desired.source;
        if before != Some(source.step) {
            self.rollout_file.begin(&source.step);
            self.rollout = Some((source.step, moment.instant));
        } else if self.applied.is_none() {
            // After a restart the rollout goes on.
            let since = moment.instant.checked_sub(self.rollout_file.age(&source.step));
            self.rollout = Some((source.step, since.unwrap_or(moment.instant)));
        }
        // Of an accepted step with mistakes the book says "refused", not that what ran before it was applied again.
        if before != Some(source.step) || desired.access.step == source.step {
            self.book.applied(source.seq, &moment.now);
        }
        self.applied = Some(desired);
        self.pending = None;
        Ok(())
    }

    /// The number of an activation, on disk before it is used.
    async fn number(
        &mut self,
        mut state: TrustState,
        desired: &DesiredState,
        context: &Context,
    ) -> Result<Generation, SourceError> {
        let step = &desired.source.step;
        let same_step = state.applied().is_some_and(|applied| applied.step == *step);
        let same_people = desired.access.step == *step;
        // After a restart: the same activation, told again. Should it not be the same, machined says so.
        if same_step && same_people && self.applied.is_none() && !self.taken && state.generation() >= context.generation
        {
            return Ok(state.generation());
        }
        let mut generation = state.reactivate(context.generation);
        if !same_step {
            generation = state.activate(step).unwrap_or(generation);
        }
        self.keep(state).await?;
        Ok(generation)
    }

    /// Tells the cluster's side what should be.
    pub(crate) fn publish(&self, context: &Context) {
        let (Some(desired), Some(state)) = (&self.applied, &self.state) else { return };
        let Some((name, machine)) = desired.documents.by_identity(&context.identity) else { return };
        let target = Target {
            desired: Arc::clone(desired),
            accepted: (state.epoch(), state.accepted().seq),
            machine: name.clone(),
            orders: context.orders,
            role: machine.config.role,
            identity: context.identity.clone(),
            mark: self.marker.signed().cloned(),
            statements: self.kept.served(),
            book: self.book.clone(),
        };
        let changed = self.wires.target.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&target);
            if changed {
                *known = Some(Arc::new(target));
            }
            changed
        });
        if changed {
            self.wires.cluster.fire();
        }
    }
}

/// A key that was revoked lets nobody in, also while its owner still stands in `trust/`.
fn without_revoked(mut people: AccessTable, state: &TrustState) -> AccessTable {
    people.people.retain(|_, person| {
        person.keys.retain(|key| !state.revocations().contains_key(key));
        !person.keys.is_empty()
    });
    people
}

fn desired_machine(
    generation: Generation,
    desired: &DesiredState,
    machine: MachineName,
    machine_kdl: String,
) -> DesiredMachine {
    let Position { seq, step, commit, signer, .. } = desired.source.clone();
    let nobody = || PrincipalName::parse(INTRODUCED).expect("because the word is a name");
    DesiredMachine {
        generation,
        step,
        commit,
        seq,
        signer: signer.unwrap_or_else(nobody),
        machine,
        cluster_kdl: desired.documents.cluster_text.clone(),
        machine_kdl,
        access: desired.access.clone(),
        orders: 0,
    }
}
