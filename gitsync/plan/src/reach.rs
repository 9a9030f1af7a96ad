//! What a rule's objects may touch, act as, and read. Reach is a property of the files: who approved a commit does not matter.
//!
//! Called by [`crate::render`] for every object of a commit, with all objects of the commit at hand. An object is judged by every
//! rule that owns its file. Three questions, each with its own answer:
//!
//! - **Where?** Its namespace and kind must be in the rule's `reach` (`OutOfReach`).
//! - **With what power?** What can take over a machine, grant rights or act as somebody else is for rules that say
//!   `privileged #true` ([`crate::privilege`], `OutOfReach`).
//! - **From what?** A plain manifest reads another when a pod of it uses a ConfigMap, Secret or claim, or a ServiceAccount hands on
//!   a Secret. When that object stands in the repository, its file must be one that the rule owns or `reads`
//!   (`ReadsUndeclared`): then whoever changes the shared file needs this rule's approval as well. What does not stand in the
//!   repository was not written by anybody whom the policy could ask, and is not judged here.

use crate::object::{DesiredObject, ObjectKey};
use crate::pods;
use crate::privilege::{self, Power};
use gitsync_verify::policy::Rule;
use gitsync_verify::{Policy, Reason, Refusal};
use std::collections::HashMap;

/// The files of a commit's objects, by what names the object.
struct Places<'a>(HashMap<&'a ObjectKey, &'a str>);

/// Judges every object by every rule that owns its file.
///
/// # Errors
/// `OutOfReach`, `ReadsUndeclared`, with the file, the line and the rule.
pub(crate) fn judge(policy: &Policy, objects: &[DesiredObject]) -> Result<(), Refusal> {
    let places = Places(objects.iter().map(|object| (&object.key, object.origin.path.as_str())).collect());
    for object in objects {
        for rule in policy.owners(&object.origin.path) {
            let told = |refusal: Refusal| refusal.at_path(&object.origin.path).by_rule(&rule.name);
            covers(rule, object).map_err(told)?;
            powers(rule, object, &places).map_err(told)?;
            reads(rule, object, &places).map_err(told)?;
        }
    }
    Ok(())
}

fn owns(rule: &Rule, path: &str) -> bool {
    rule.owns.iter().any(|glob| glob.matches(path))
}

fn covers(rule: &Rule, object: &DesiredObject) -> Result<(), Refusal> {
    // A Namespace is cluster-scoped, but making one's own namespace is not reaching beyond it.
    let place = if object.key.kind == "Namespace" && object.key.group.is_empty() {
        Some(object.key.name.as_str())
    } else {
        Some(object.key.namespace.as_str()).filter(|namespace| !namespace.is_empty())
    };
    if rule.reach.covers(&object.key.kind, place) {
        return Ok(());
    }
    let message = format!(
        "line {}: {} is out of reach of the rule that owns the file; move it, or let root widen the rule's reach",
        object.origin.line, object.key
    );
    Err(Refusal::new(Reason::OutOfReach, message))
}

fn powers(rule: &Rule, object: &DesiredObject, places: &Places<'_>) -> Result<(), Refusal> {
    if rule.reach.privileged {
        return Ok(());
    }
    let own_account = |key: &ObjectKey| places.0.get(key).is_some_and(|path| owns(rule, path));
    let Some(Power { field, what }) = privilege::first(object, own_account) else { return Ok(()) };
    let message = format!(
        "line {}: {} {what} ({field}); take it out, or let root say `privileged #true` in the rule's reach",
        object.origin.line, object.key
    );
    Err(Refusal::new(Reason::OutOfReach, message))
}

fn reads(rule: &Rule, object: &DesiredObject, places: &Places<'_>) -> Result<(), Refusal> {
    for (key, field) in pods::reads(object) {
        let Some(path) = places.0.get(&key) else { continue };
        if !owns(rule, path) && !rule.reads.iter().any(|glob| glob.matches(path)) {
            let message = format!(
                "line {}: {} uses {key} of {path} ({field}), which the rule neither owns nor reads; move it, or let root add \
                 `reads \"{path}\"` to the rule",
                object.origin.line, object.key
            );
            return Err(Refusal::new(Reason::ReadsUndeclared, message));
        }
    }
    Ok(())
}
