//! Writes a budget's status, and says what people should know of it.

use super::Controller;
use super::plan::Plan;
use crate::context::{Doing, StepError};
use controlplane_client::{EventType, Object};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use machined_reconcile::Outcome;

pub(super) async fn execute(
    controller: &Controller,
    budget: &PodDisruptionBudget,
    plan: Plan,
) -> Result<Outcome, StepError> {
    for pod in &plan.not_deleted {
        let message = format!("Pod was expected by PDB {} to be deleted but it wasn't", budget.key());
        controller.recorder.record(&**pod, EventType::Warning, "NotDeleted", message);
    }
    if let Some(status) = plan.status {
        for (kind, reason, message) in plan.events {
            controller.recorder.record(budget, kind, reason, message);
        }
        // As a whole and at the version that was read: an eviction in between must not be overwritten, it took a disruption.
        let new = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        let api = controller.client.namespaced::<PodDisruptionBudget>(budget.namespace().unwrap_or_default());
        api.update_status(&new).await.doing(|| format!("write the status of PodDisruptionBudget {}", budget.key()))?;
    }
    Ok(plan.again.map_or(Outcome::Done, Outcome::Again))
}
