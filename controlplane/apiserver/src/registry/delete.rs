//! delete and deletecollection.

use super::write::{Outcome, commit, too_busy};
use super::{Call, WRITE_ATTEMPTS_MAX, read};
use crate::admission::{self, Extra};
use crate::failure::Failure;
use crate::query::ListOptions;
use crate::storage::{self, Stored};
use controlplane_store::Op;
use controlplane_types::delete::{self, DeleteOptions, DeletePlan};
use controlplane_types::object::Object;
use controlplane_types::{ApiError, Reason};
use serde_json::Value;

/// What a deletion left behind.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this is how it last was.
    Gone(Value),
    /// It is marked and will go when its grace period and finalizers are through.
    Marked(Value),
}

/// delete.
pub(crate) async fn delete(call: &Call<'_>, options: &DeleteOptions, dry_run: bool) -> Result<Deleted, Failure> {
    delete_noting(call, options, dry_run, |_| {}).await
}

/// delete, with a note on the object if it stays for a while: written with the mark, so that there is never one without the other.
pub(crate) async fn delete_noting(
    call: &Call<'_>,
    options: &DeleteOptions,
    dry_run: bool,
    note: impl Fn(&mut Value),
) -> Result<Deleted, Failure> {
    admission::delete(call)?;
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let Some(Stored { object: old, revision }) = read::current(call).await? else {
            return Err(ApiError::not_found(&call.kind, &call.path.name).into());
        };
        let key = call.key();
        let (op, extra, mut result) = match delete::plan(&call.kind, &old, options, call.now)? {
            DeletePlan::Pending => return Ok(Deleted::Marked(old)),
            DeletePlan::Mark(mut new) => {
                note(&mut new);
                (storage::put(&call.kind, &key, &new), Extra::default(), Deleted::Marked(new))
            }
            DeletePlan::Remove(last) => (Op::Delete(key.clone()), admission::remove(call, &old), Deleted::Gone(last)),
        };
        if dry_run {
            return Ok(result);
        }
        if let Outcome::Done(revision) = commit(call, &key, revision, op, extra).await? {
            match &mut result {
                Deleted::Gone(object) | Deleted::Marked(object) => object.set_resource_version(revision.0),
            }
            return Ok(result);
        }
    }
    Err(too_busy(call))
}

/// deletecollection: every selected object, one by one. What vanished meanwhile is no error.
pub(crate) async fn delete_collection(
    call: &Call<'_>,
    selected: &ListOptions,
    options: &DeleteOptions,
    dry_run: bool,
) -> Result<read::Page, Failure> {
    let mut page = read::list(call, selected).await?;
    for object in &mut page.items {
        match delete(&call.of_object(object), options, dry_run).await {
            Ok(Deleted::Gone(now) | Deleted::Marked(now)) => *object = now,
            Err(Failure::Api(error)) if error.reason == Reason::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    page.revision = page
        .items
        .iter()
        .filter_map(|o| o.resource_version().parse().ok())
        .map(machined_ids::Revision)
        .fold(page.revision, Ord::max);
    Ok(page)
}
