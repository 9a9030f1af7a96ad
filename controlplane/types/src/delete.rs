//! What a DELETE does to an object, as a plan: remove it, mark it, or nothing.
//!
//! Graceful deletion (pods), finalizers and propagation policies all end in one of three outcomes, which the API server
//! carries out in one transaction.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::kind::KindInfo;
use crate::object::{self, Object};

/// Finalizer that keeps an owner until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that keeps an owner until its dependents have let go of it.
pub const ORPHAN: &str = "orphan";

/// What becomes of the objects that this one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// The garbage collector removes them afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// What the client asks for, from the body or the query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds until the object may be removed; `None` leaves it to the kind.
    pub grace_seconds: Option<i64>,
    /// What becomes of dependents; `None` leaves it to the finalizers that are there.
    pub propagation: Option<Propagation>,
    /// Delete only the object with this UID.
    pub uid: Option<String>,
    /// Delete only this version of the object.
    pub resource_version: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum DeletePlan {
    /// Remove the object. The value is what it looked like at last, for the answer and the watchers.
    Remove(Value),
    /// Write this instead; it is removed when finalizers and grace period are through.
    Mark(Value),
    /// Deletion is under way already and nothing changes.
    Pending,
}

impl DeleteOptions {
    /// Reads a `DeleteOptions` body; an empty body or null asks for nothing in particular.
    ///
    /// # Errors
    /// Refuses a propagation policy that does not exist, and both ways of orphaning at once.
    pub fn from_body(body: &Value) -> Result<Self, ApiError> {
        let text = |path: &[&str]| Some(object::text(body, path)).filter(|text| !text.is_empty()).map(str::to_string);
        let policy = object::text(body, &["propagationPolicy"]);
        let orphan = object::at(body, &["orphanDependents"]).and_then(Value::as_bool);
        if orphan.is_some() && !policy.is_empty() {
            return Err(ApiError::bad_request("orphanDependents and deletionPropagation cannot be both set"));
        }
        let propagation = match (parse_propagation(policy)?, orphan) {
            (None, Some(true)) => Some(Propagation::Orphan),
            (None, Some(false)) => Some(Propagation::Background),
            (policy, _) => policy,
        };
        Ok(DeleteOptions {
            grace_seconds: object::number(body, &["gracePeriodSeconds"]),
            propagation,
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
        })
    }

    /// Takes over what the query string says (`gracePeriodSeconds`, `propagationPolicy`), where it says anything.
    ///
    /// # Errors
    /// Refuses what is neither a number nor a policy.
    pub fn with_query(mut self, grace: Option<&str>, policy: Option<&str>) -> Result<Self, ApiError> {
        if let Some(text) = grace.filter(|text| !text.is_empty()) {
            let parsed = text.parse();
            let wrong = |_| ApiError::bad_request(format!("gracePeriodSeconds: {text:?} is not a whole number"));
            self.grace_seconds = Some(parsed.map_err(wrong)?);
        }
        self.propagation = parse_propagation(policy.unwrap_or_default())?.or(self.propagation);
        Ok(self)
    }
}

fn parse_propagation(policy: &str) -> Result<Option<Propagation>, ApiError> {
    match policy {
        "" => Ok(None),
        "Orphan" => Ok(Some(Propagation::Orphan)),
        "Background" => Ok(Some(Propagation::Background)),
        "Foreground" => Ok(Some(Propagation::Foreground)),
        other => Err(ApiError::bad_request(format!(
            "invalid propagationPolicy {other:?}: supported are \"Foreground\", \"Background\" and \"Orphan\""
        ))),
    }
}

/// Decides what the deletion of `old` does.
///
/// # Errors
/// A conflict when a precondition does not hold.
pub fn plan(kind: &KindInfo, old: &Value, options: &DeleteOptions, now: Timestamp) -> Result<DeletePlan, ApiError> {
    check_preconditions(kind, old, options)?;
    let mut new = old.clone();
    let grace = match grace_after(kind, &mut new, options, now) {
        Grace::Unchanged => None,
        Grace::Pending => return Ok(DeletePlan::Pending),
        Grace::Seconds(seconds) => Some(seconds),
    };
    set_finalizers(&mut new, options.propagation);
    let held = !new.finalizers().is_empty() || (kind.strategy.holds)(&new);
    if !held && grace.unwrap_or(0) == 0 {
        return Ok(DeletePlan::Remove(new));
    }
    mark(kind, &mut new, grace.unwrap_or(0), now);
    Ok(if new == *old { DeletePlan::Pending } else { DeletePlan::Mark(new) })
}

/// Tells whether an object that was just written has nothing left that keeps it: it is to be removed instead.
pub fn is_complete(kind: &KindInfo, object: &Value) -> bool {
    object.is_deleting()
        && object.finalizers().is_empty()
        && object::number(object, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
        && !(kind.strategy.holds)(object)
}

fn check_preconditions(kind: &KindInfo, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != old.uid()) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.uid()
        );
        return Err(ApiError::conflict(kind, old.name(), &why));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|version| *version != old.resource_version()) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            old.resource_version()
        );
        return Err(ApiError::conflict(kind, old.name(), &why));
    }
    Ok(())
}

enum Grace {
    /// The kind knows no grace, or the object was marked without one.
    Unchanged,
    /// Deletion with at most this grace is under way.
    Pending,
    /// To be removed after so many seconds.
    Seconds(i64),
}

fn grace_after(kind: &KindInfo, new: &mut Value, options: &DeleteOptions, now: Timestamp) -> Grace {
    let Some(seconds) = (kind.strategy.grace)(new, options.grace_seconds) else { return Grace::Unchanged };
    if !new.is_deleting() {
        let at = now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
        bump_generation(new);
        object::set(new, &["metadata"], "deletionTimestamp", object::time(at));
        object::set(new, &["metadata"], "deletionGracePeriodSeconds", seconds);
        return Grace::Seconds(seconds);
    }
    let Some(current) = object::number(new, &["metadata", "deletionGracePeriodSeconds"]) else {
        return Grace::Unchanged;
    };
    // A grace period may only become shorter.
    let Some(asked) = options.grace_seconds.filter(|asked| *asked < current) else {
        return if current == 0 { Grace::Unchanged } else { Grace::Pending };
    };
    let asked = asked.max(0);
    if let Some(at) = object::time_at(new, &["metadata", "deletionTimestamp"]) {
        let moved = at.saturating_sub(SignedDuration::from_secs(current - asked)).unwrap_or(at);
        object::set(new, &["metadata"], "deletionTimestamp", object::time(moved));
    }
    object::set(new, &["metadata"], "deletionGracePeriodSeconds", asked);
    Grace::Seconds(asked)
}

fn set_finalizers(new: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers: Vec<String> =
        new.finalizers().into_iter().filter(|one| *one != FOREGROUND && *one != ORPHAN).map(str::to_string).collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
    }
    if finalizers.is_empty() {
        object::remove(new, &["metadata"], "finalizers");
    } else {
        object::set(new, &["metadata"], "finalizers", json!(finalizers));
    }
}

fn mark(kind: &KindInfo, new: &mut Value, grace: i64, now: Timestamp) {
    if !new.is_deleting() {
        bump_generation(new);
        object::set(new, &["metadata"], "deletionTimestamp", object::time(now));
        object::set(new, &["metadata"], "deletionGracePeriodSeconds", grace);
    }
    (kind.strategy.marked)(new);
}

fn bump_generation(new: &mut Value) {
    let generation = new.generation();
    if generation > 0 {
        object::set(new, &["metadata"], "generation", generation + 1);
    }
}
