//! Why a request of ours ends without its answer: refused by a rule, or failed by the store. Becomes a `v1.Status`.

use controlplane_store::StoreError;
use controlplane_types::error::{Cause, Details};
use controlplane_types::{ApiError, Reason};
use serde_json::{Value, json};

/// A refused or failed request.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A rule of the API says no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The store could not do it.
    #[error("the store could not do it")]
    Store(#[from] StoreError),
    /// The revision of a paged list is gone; the client may go on with this token at a newer one.
    #[error("the list's revision is gone")]
    Expired {
        /// Continues from the next key, inconsistently.
        token: String,
    },
}

/// Upstream's text: clients show it, and it explains what the token in the answer is for.
const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new \
    list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
    Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted \
    between the time the first chunk was returned and now may show up in the list.";

impl Failure {
    /// The HTTP status code and the `v1.Status`.
    #[must_use]
    pub fn status(&self) -> (u16, Value) {
        match self {
            Failure::Api(error) => (error.code(), error.status()),
            Failure::Store(error) => {
                let error = of_store(error);
                (error.code(), error.status())
            }
            Failure::Expired { token } => {
                let error = ApiError::expired(EXPIRED);
                let mut status = error.status();
                status["metadata"] = json!({"continue": token});
                (error.code(), status)
            }
        }
    }

    /// Seconds after which the client should try again; zero says nothing.
    #[must_use]
    pub fn retry_after(&self) -> u32 {
        let of = |error: &ApiError| error.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        match self {
            Failure::Api(error) => of(error),
            Failure::Store(error) => of(&of_store(error)),
            Failure::Expired { .. } => 0,
        }
    }
}

fn of_store(error: &StoreError) -> ApiError {
    match error {
        StoreError::Compacted { asked, oldest } => ApiError::too_old_resource_version(asked.0, oldest.0),
        StoreError::Future { asked, current } => too_large_resource_version(asked.0, current.0),
        StoreError::TooLarge { limit, .. } => ApiError::too_large(*limit),
        StoreError::Invalid { reason } => ApiError::internal(reason),
        StoreError::Lease { .. } | StoreError::Level { .. } => ApiError::internal(&error.to_string()),
        StoreError::Unavailable { .. } => {
            let details = Details { retry_after_seconds: 1, ..Details::default() };
            let reason = Reason::ServiceUnavailable;
            ApiError { reason, message: error.to_string(), details: Some(Box::new(details)) }
        }
        StoreError::Lagged => ApiError::expired(error.to_string()),
    }
}

/// 504: the client has seen a revision that this store has not reached.
pub(crate) fn too_large_resource_version(asked: u64, current: u64) -> ApiError {
    let text = "Too large resource version";
    let cause = Cause { reason: "ResourceVersionTooLarge", message: text.into(), field: String::new() };
    let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
    let message = format!("Timeout: {text}: {asked}, current: {current}");
    ApiError { reason: Reason::Timeout, message, details: Some(Box::new(details)) }
}

/// The error about a resource that has no kind here (authorization runs before the kind is looked up).
pub(crate) fn forbidden_path(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
    let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let subject = if name.is_empty() { qualified } else { format!("{qualified} \"{name}\"") };
    let details = Details { name: name.into(), group: group.into(), kind: resource.into(), ..Details::default() };
    let message = format!("{subject} is forbidden: {why}");
    ApiError { reason: Reason::Forbidden, message, details: Some(Box::new(details)) }
}
