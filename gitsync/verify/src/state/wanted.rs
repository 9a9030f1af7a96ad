//! What should run: accepted, unless a hold, a pin, failing health or an unratified break-glass says otherwise.
//!
//! Going back is for workloads and machine settings only. Who people are is read from accepted, always.

use super::overrides::{self, Action, Order, Override};
use super::{Position, TrustState};
use crate::freshness;
use crate::offer::Clock;
use crate::refusal::{Reason, Refusal};
use machined_ids::Seq;

/// What should run, and why it is not accepted, when it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The accepted step.
    Accepted(&'a Position),
    /// What an operator's hold or pin, or failing health, keeps.
    Overridden(&'a Position, &'a Override),
    /// The last ordinary step: a break-glass was not ratified in time.
    NotRatified(&'a Position),
}

impl<'a> Wanted<'a> {
    /// The step.
    #[must_use]
    pub const fn position(&self) -> &'a Position {
        match self {
            Wanted::Accepted(position) | Wanted::Overridden(position, _) | Wanted::NotRatified(position) => position,
        }
    }
}

impl TrustState {
    /// Whether a remembered step may be applied again: it was healthy, no revoked key signed it after its last good step, and it is
    /// not below a floor.
    ///
    /// # Errors
    /// `MissingObject`, `Revoked`, `BelowFloor`, or `Limit` for a step that never was healthy.
    pub fn may_revert(&self, seq: Seq) -> Result<&Position, Refusal> {
        const NEXT: &str = "choose another: cairnctl commits";
        let known = self.history.iter().find(|known| known.seq == seq);
        let position = known.ok_or_else(|| {
            Refusal::new(Reason::MissingObject, format!("step {seq} is no longer remembered; {NEXT}"))
        })?;
        let refuse =
            |reason, why: String| Err(Refusal::new(reason, format!("{why}; {NEXT}")).of_commit(&position.commit));
        let floor = self.trust.floors.seq;
        if seq < floor {
            return refuse(Reason::BelowFloor, format!("step {seq} lies below the floor, which is {floor}"));
        }
        let barred = position.keys.iter().find(|key| {
            self.trust
                .revocations
                .get(*key)
                .is_some_and(|revoked| revoked.epoch < self.epoch || seq > revoked.last_good)
        });
        if let Some(key) = barred {
            return refuse(Reason::Revoked, format!("step {seq} was signed with key {key}, which was revoked"));
        }
        if !self.was_healthy(&position.step) {
            return refuse(Reason::Limit, format!("step {seq} never was healthy here"));
        }
        Ok(position)
    }

    /// The newest step below accepted that may be applied again: where failing health goes back to.
    #[must_use]
    pub fn last_good(&self) -> Option<&Position> {
        let accepted = self.accepted().seq;
        let below = self.history.iter().rev().filter(|position| position.seq < accepted);
        below.map(|position| position.seq).find_map(|seq| self.may_revert(seq).ok())
    }

    /// What should run.
    #[must_use]
    pub fn wanted(&self, clock: Clock) -> Wanted<'_> {
        let now = freshness::now(self, clock);
        if let Some(order) = self.trust.overrides.in_force(now) {
            let position = match order.action {
                Action::Pin { seq } => self.may_revert(seq).ok(),
                Action::Hold => self.applied.as_ref().and_then(|applied| self.position_of(&applied.step)),
                Action::Resume | Action::Revert { .. } | Action::BreakGlass { .. } | Action::Recovery { .. } => None,
            };
            if let Some(position) = position {
                return Wanted::Overridden(position, order);
            }
        }
        // Without a trusted time, a break-glass counts as ended.
        if let Some(glass) = self.trust.break_glass.as_ref().filter(|glass| now.is_none_or(|now| now > glass.until)) {
            return Wanted::NotRatified(&glass.base);
        }
        let accepted = self.accepted();
        let reverted = self.trust.overrides.entries().iter().rev().find_map(|order| match &order.action {
            Action::Revert { from, to } if *from == accepted.step => Some((self.may_revert(*to).ok()?, order)),
            Action::Revert { .. }
            | Action::Hold
            | Action::Pin { .. }
            | Action::Resume
            | Action::BreakGlass { .. }
            | Action::Recovery { .. } => None,
        });
        reverted.map_or(Wanted::Accepted(accepted), |(position, order)| Wanted::Overridden(position, order))
    }

    fn position_of(&self, step: &machined_ids::StepId) -> Option<&Position> {
        self.history.iter().find(|known| known.step == *step)
    }

    /// Takes an order to the log; [`TrustState::wanted`] follows it.
    ///
    /// # Errors
    /// `Limit` for an end that is missing or too far away; as [`TrustState::may_revert`] for the step of a pin or revert.
    pub fn order(&mut self, order: Order, clock: Clock) -> Result<(), Refusal> {
        overrides::check(&order, clock.now)?;
        match order.action {
            Action::Pin { seq } | Action::Revert { to: seq, .. } => self.may_revert(seq).map(drop)?,
            Action::Hold | Action::Resume | Action::BreakGlass { .. } | Action::Recovery { .. } => {}
        }
        self.trust.overrides.push(order, clock.now);
        Ok(())
    }

    /// The log of overrides, oldest first.
    #[must_use]
    pub fn overrides(&self) -> &[Override] {
        self.trust.overrides.entries()
    }

    /// The hold or pin that is in force.
    #[must_use]
    pub fn override_in_force(&self, clock: Clock) -> Option<&Override> {
        self.trust.overrides.in_force(clock.now)
    }
}
