//! Marks: this machine's signed report of what it accepted, given to machined; [`crate::peers`] shows it to the other machines.

use crate::machine::{Context, Machine, MachineError};
use gitsync_verify::{Mark, Position, SignedMark, TrustState, recovery_step, root_step};
use machined_api::TrustPosition;
use machined_ids::{Epoch, Seq, StepId};

/// What this machine says. Nothing where it began at an anchor: nobody knows the step before.
pub(crate) fn of(state: &TrustState, context: &Context) -> Option<Mark> {
    let (history, introduction) = (state.history(), state.introduction());
    let accepted = state.accepted();
    let parent = match history.len().checked_sub(2) {
        Some(before) => history[before].step,
        None if accepted.seq == Seq(0) && state.epoch() == Epoch(0) => root_step(introduction),
        None if accepted.seq == Seq(0) => recovery_step(introduction, state.epoch()),
        None => return None,
    };
    Some(Mark {
        cluster: introduction.cluster,
        deploy_ref: introduction.deploy_ref.clone(),
        epoch: state.epoch(),
        seq: accepted.seq,
        parent,
        step: accepted.step,
        commit: accepted.commit.clone(),
        machine: context.identity.clone(),
    })
}

/// Whether other machines' memory shows that nothing newer was accepted here than `state` holds: one remembers a position behind machined's
/// record, as every machine does that saw this one's newest mark, and none a position that is not in `state`. Marks that are as old as the
/// record prove nothing: they may lie in an old copy of the same disk.
pub(crate) fn prove_newest(state: &TrustState, context: &Context, marks: &[SignedMark]) -> bool {
    let recorded = context.accepted.map(|reached| (reached.epoch, reached.seq));
    let introduction = state.introduction();
    let ours = |mark: &&Mark| mark.cluster == introduction.cluster && mark.deploy_ref == introduction.deploy_ref;
    let of_machines = |mark: &&Mark| context.machines.contains(&mark.machine);
    let newest = marks.iter().map(SignedMark::mark).filter(ours).filter(of_machines).max_by_key(|mark| mark.place());
    newest.is_some_and(|mark| Some(mark.place()) > recorded && holds(state, mark))
}

/// Whether a mark's position lies in the remembered history.
fn holds(state: &TrustState, mark: &Mark) -> bool {
    let here = |position: &Position| position.seq == mark.seq && position.step == mark.step;
    state.epoch() == mark.epoch && state.history().iter().any(here)
}

/// Keeps machined's record at what is accepted.
#[derive(Debug, Default)]
pub(crate) struct Marker {
    /// What machined was told.
    told: Option<(Epoch, StepId)>,
    signed: Option<SignedMark>,
}

impl Marker {
    /// machined forgot the mark; its record of the position stays on disk.
    pub(crate) fn forget(&mut self) {
        self.told = None;
    }

    /// The mark that machined was told last.
    pub(crate) fn signed(&self) -> Option<&SignedMark> {
        self.signed.as_ref()
    }

    /// Tells machined, once for each step. When this returns, the position lies in machined's record on the disk. The caller has seen to it
    /// that what machined doubts is proven.
    ///
    /// # Errors
    /// When machined does not answer, or remembers a later position.
    pub(crate) async fn tell(
        &mut self,
        machine: &Machine,
        state: &TrustState,
        context: &Context,
    ) -> Result<(), MachineError> {
        let accepted = state.accepted();
        if self.told == Some((state.epoch(), accepted.step)) && context.doubt.is_none() {
            return Ok(());
        }
        let mut signed = None;
        if let Some(mark) = of(state, context) {
            let (signature, key) = machine.sign_mark(mark.body().into_bytes()).await?;
            let joined = SignedMark::join(&mark, &key, &signature);
            signed = joined.inspect_err(|refusal| tracing::error!(%refusal, "machined's mark is none")).ok();
        }
        let position = TrustPosition {
            epoch: state.epoch().0,
            seq: accepted.seq.0,
            step: accepted.step.to_string(),
            commit: accepted.commit.to_string(),
        };
        let text = signed.as_ref().map(|signed| signed.text().to_owned()).unwrap_or_default();
        machine.report_accepted(position, text, context.doubt.is_some()).await?;
        (self.signed, self.told) = (signed, Some((state.epoch(), accepted.step)));
        Ok(())
    }
}
