//! Writes a Service's slices.

use super::Controller;
use super::plan::Plan;
use crate::context::{Doing, StepError};
use controlplane_client::{Object, ObjectKey};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;

pub(super) async fn execute(controller: &Controller, service: &ObjectKey, plan: Plan) -> Result<(), StepError> {
    let slices = controller.client.namespaced::<EndpointSlice>(service.namespace.as_deref().unwrap_or_default());
    for slice in &plan.create {
        match slices.create(slice).await {
            Ok(_created) => {}
            // Made by us a moment ago; the cache will show it, and then it is compared.
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error).doing(|| format!("create EndpointSlice {}", slice.key())),
        }
    }
    for slice in &plan.update {
        slices.update(slice).await.doing(|| format!("update EndpointSlice {}", slice.key()))?;
    }
    for slice in &plan.delete {
        let deleted = slices.delete_if_there(slice.name(), &DeleteOptions::default()).await;
        deleted.doing(|| format!("delete EndpointSlice {}", slice.key()))?;
    }
    Ok(())
}
