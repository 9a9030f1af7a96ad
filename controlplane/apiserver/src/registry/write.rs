//! create, update, patch and every other change of one object.

use super::{Call, WRITE_ATTEMPTS_MAX, read};
use crate::admission::{self, Extra};
use crate::failure::Failure;
use crate::query::WriteOptions;
use crate::random;
use crate::storage::{self, Stored};
use bytes::Bytes;
use controlplane_store::{Condition, Op, OpAnswer, Txn};
use controlplane_types::object::{Object, text};
use controlplane_types::patch::{self, PatchType};
use controlplane_types::write::{self, Fresh, Managed, WriteContext};
use controlplane_types::{ApiError, Endpoint, Reason, apply, delete};
use machined_ids::Revision;
use serde_json::Value;

/// What a write left behind.
#[derive(Debug)]
pub(crate) struct Written {
    /// The object with its new resource version.
    pub(crate) object: Value,
    /// Whether it is new: answered with 201.
    pub(crate) created: bool,
}

/// A change of one object: what it becomes, given what it is.
pub(crate) struct Change<'a> {
    /// The endpoint, which decides what of the change counts.
    pub(crate) endpoint: Endpoint,
    /// How managedFields come about.
    pub(crate) managed: Managed,
    /// Makes the new object from the stored one. Called again when the write lost a race.
    pub(crate) of: &'a (dyn Fn(&Value) -> Result<Value, ApiError> + Sync),
}

impl Call<'_> {
    /// What the pure half of a write needs to know.
    fn context<'b>(&'b self, endpoint: Endpoint, options: &'b WriteOptions, name: &'b str) -> WriteContext<'b> {
        WriteContext {
            kind: &self.kind,
            namespace: &self.path.namespace,
            name,
            endpoint,
            manager: options.field_manager.as_deref().unwrap_or(self.agent),
            now: self.now,
        }
    }
}

/// create.
pub(crate) async fn create(call: &Call<'_>, body: Value, options: &WriteOptions) -> Result<Written, Failure> {
    create_as(call, &body, options, Managed::Track).await
}

async fn create_as(
    call: &Call<'_>,
    body: &Value,
    options: &WriteOptions,
    managed: Managed,
) -> Result<Written, Failure> {
    let context = call.context(Endpoint::Main, options, &call.path.name);
    let generated = body.name().is_empty() && !text(body, &["metadata", "generateName"]).is_empty();
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let (uid, suffix) = (random::uid(), random::name_suffix());
        let fresh = Fresh { uid: &uid, suffix: &suffix };
        let mut object = write::begin_create(&context, body.clone(), fresh, managed)?;
        let named = call.of_object(&object);
        let extra = admission::create(&named, &mut object).await?;
        write::finish_create(&context, &object)?;
        let key = named.key();
        if options.dry_run {
            return match read::current(&named).await? {
                Some(_) => Err(ApiError::already_exists(&call.kind, object.name()).into()),
                None => Ok(Written { object, created: true }),
            };
        }
        let put = storage::put(&call.kind, &key, &object);
        match commit(call, &key, Revision(0), put, extra).await? {
            Outcome::Done(revision) => {
                object.set_resource_version(revision.0);
                return Ok(Written { object, created: true });
            }
            Outcome::Exists if generated => {}
            Outcome::Exists => return Err(ApiError::already_exists(&call.kind, object.name()).into()),
            // Something that admission relied on changed: look again.
            Outcome::Missing => {}
        }
    }
    Err(too_busy(call))
}

/// Changes the object that the path names.
pub(crate) async fn modify(call: &Call<'_>, options: &WriteOptions, change: Change<'_>) -> Result<Written, Failure> {
    let context = call.context(change.endpoint, options, &call.path.name);
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let Some(Stored { object: old, revision }) = read::current(call).await? else {
            return Err(ApiError::not_found(&call.kind, &call.path.name).into());
        };
        let mut new = write::begin_update(&context, &old, (change.of)(&old)?, change.managed)?;
        admission::any_update(call, &old, &new)?;
        let mut extra = Extra::default();
        if change.endpoint == Endpoint::Main {
            extra = admission::update(call, &old, &mut new).await?;
        }
        write::finish_update(&context, &old, &new)?;
        if write::is_unchanged(&old, &new) {
            return Ok(Written { object: old, created: false });
        }
        if options.dry_run {
            return Ok(Written { object: new, created: false });
        }
        let key = call.key();
        let op = if delete::is_complete(&call.kind, &new) {
            // The last thing that kept a deleted object is gone with this change.
            extra = admission::remove(call, &old);
            Op::Delete(key.clone())
        } else {
            storage::put(&call.kind, &key, &new)
        };
        if let Outcome::Done(revision) = commit(call, &key, revision, op, extra).await? {
            new.set_resource_version(revision.0);
            return Ok(Written { object: new, created: false });
        }
    }
    Err(too_busy(call))
}

/// update, at the main endpoint or status. Some kinds are created by it.
pub(crate) async fn update(
    call: &Call<'_>,
    endpoint: Endpoint,
    body: Value,
    options: &WriteOptions,
) -> Result<Written, Failure> {
    let creates = endpoint == Endpoint::Main && call.kind.strategy.create_on_update;
    if creates && body.resource_version().is_empty() && read::current(call).await?.is_none() {
        return create_as(call, &body, options, Managed::Track).await;
    }
    let change = Change { endpoint, managed: Managed::Track, of: &|_| Ok(body.clone()) };
    modify(call, options, change).await
}

/// patch, at the main endpoint or status. An apply patch creates what is not there.
pub(crate) async fn patch(
    call: &Call<'_>,
    endpoint: Endpoint,
    patch_type: PatchType,
    body: Value,
    options: &WriteOptions,
) -> Result<Written, Failure> {
    if patch_type != PatchType::Apply {
        let of = |old: &Value| patch::patched(&call.kind, patch_type, old, body.clone());
        return modify(call, options, Change { endpoint, managed: Managed::Track, of: &of }).await;
    }
    if options.field_manager.is_none() {
        let message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(ApiError::new(Reason::Invalid, message).into());
    }
    let context = call.context(endpoint, options, &call.path.name);
    for _ in 0..WRITE_ATTEMPTS_MAX {
        if read::current(call).await?.is_some() || endpoint != Endpoint::Main {
            let of = |old: &Value| apply::apply(&context, Some(old), body.clone(), options.force);
            let change = Change { endpoint, managed: Managed::Applied, of: &of };
            return modify(call, options, change).await;
        }
        let new = apply::apply(&context, None, body.clone(), options.force)?;
        match create_as(call, &new, options, Managed::Applied).await {
            Err(Failure::Api(error)) if error.reason == Reason::AlreadyExists => {}
            result => return result,
        }
    }
    Err(too_busy(call))
}

/// How a transaction ended.
pub(super) enum Outcome {
    /// Written, at this revision.
    Done(Revision),
    /// A condition did not hold, and the object exists.
    Exists,
    /// A condition did not hold, and the object does not exist.
    Missing,
}

/// Writes or deletes an object if it is still at `expected`, together with what admission adds.
pub(super) async fn commit(
    call: &Call<'_>,
    key: &Bytes,
    expected: Revision,
    op: Op,
    extra: Extra,
) -> Result<Outcome, Failure> {
    let mut txn = Txn {
        conditions: vec![Condition::Modified(key.clone(), expected)],
        then: vec![op],
        otherwise: vec![Op::Get(key.clone())],
    };
    txn.conditions.extend(extra.conditions);
    txn.then.extend(extra.ops);
    let answer = call.server.store.txn(txn).await?;
    if answer.succeeded {
        return Ok(Outcome::Done(answer.revision));
    }
    Ok(match answer.ops.first() {
        Some(OpAnswer::Got(Some(_))) => Outcome::Exists,
        Some(OpAnswer::Got(None) | OpAnswer::Put(_) | OpAnswer::Deleted(_)) | None => Outcome::Missing,
    })
}

/// Every attempt lost its race.
pub(super) fn too_busy(call: &Call<'_>) -> Failure {
    ApiError::modified(&call.kind, &call.path.name).into()
}
