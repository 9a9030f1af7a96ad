//! A commit's files to everything that should be, or to every mistake in them.

use crate::documents::{self, MachineDocuments};
use crate::manifests;
use crate::object::DesiredObject;
use crate::reach;
use gitsync_verify::{Commit, Files, Mistake, ObjectSet, Policy, Position, Reason, Refusal, Verified, access_table};
use machined_access::AccessTable;
use machined_ids::ClusterId;

/// Everything that a verified commit says.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredState {
    /// The commit's place in the chain.
    pub source: Position,
    /// What machines read.
    pub documents: MachineDocuments,
    /// Who may reach the APIs.
    pub access: AccessTable,
    /// Cluster objects, in the order of files.
    pub objects: Vec<DesiredObject>,
    /// The commit's own policy; budgets of deletions are judged by it.
    pub policy: Policy,
}

/// Renders a verified commit and judges all of it, before anything is written anywhere.
///
/// # Errors
/// `Parse` with every mistake of every file; `OutOfReach` for objects that their file's rule may not touch, `ReadsUndeclared`
/// for those that use a file which the rule does not name.
pub fn render(commit: &Verified<Commit>, objects: &ObjectSet) -> Result<DesiredState, Refusal> {
    let id = &commit.position().commit;
    let files = commit.files(objects).map_err(|refusal| refusal.of_commit(id))?;
    let content = content(&files, Some(commit.cluster()), Some(commit.policy())).map_err(|r| r.of_commit(id))?;
    if let Some(glass) = commit.break_glass().filter(|glass| glass.seq == commit.position().seq) {
        let touched = |path: &str| glass.before.contains_key(path);
        emergency(commit.policy(), touched, &content.objects).map_err(|refusal| refusal.of_commit(id))?;
    }
    let table = access_table(commit.cluster(), commit.position(), commit.policy(), content.documents.entries());
    Ok(DesiredState {
        source: commit.position().clone(),
        documents: content.documents,
        access: table,
        objects: content.objects,
        policy: commit.policy().clone(),
    })
}

/// Break-glass brings neither Secrets nor kinds that a budget protects: no object of a file that it touched is one.
fn emergency(policy: &Policy, touched: impl Fn(&str) -> bool, objects: &[DesiredObject]) -> Result<(), Refusal> {
    let protected = |kind: &str| policy.rules().iter().any(|rule| rule.budget.protected.contains(kind));
    let barred = |object: &&DesiredObject| object.key.kind == "Secret" || protected(&object.key.kind);
    match objects.iter().filter(|object| touched(&object.origin.path)).find(barred) {
        None => Ok(()),
        Some(object) => {
            let message = format!("break-glass may not touch {}; leave it to an ordinary step: git revert", object.key);
            Err(Refusal::new(Reason::OutOfReach, message).at_path(&object.origin.path))
        }
    }
}

/// The access table of an accepted commit whose other files may have mistakes: people are who accepted says they are, also
/// while its workloads wait for a correction.
///
/// # Errors
/// `Parse` when its `machines/` cannot be read.
pub fn access(commit: &Verified<Commit>, objects: &ObjectSet) -> Result<AccessTable, Refusal> {
    let files = commit.files(objects)?;
    let mut mistakes = Vec::new();
    match documents::read(&files, Some(commit.cluster()), &mut mistakes) {
        Some(read) => Ok(access_table(commit.cluster(), commit.position(), commit.policy(), read.entries())),
        None => Err(Refusal::of_mistakes(Reason::Parse, mistakes)),
    }
}

/// Judges files that are not committed yet as [`render`] would, without any say on who may. For `cairnctl` and CI.
///
/// # Errors
/// `PolicyInvalid`, `Parse`, `OutOfReach`, `ReadsUndeclared`.
pub fn lint(files: &Files) -> Result<(), Refusal> {
    let policy = Policy::parse(files)?;
    content(files, None, Some(&policy)).map(|_content| ())
}

struct Content {
    documents: MachineDocuments,
    objects: Vec<DesiredObject>,
}

fn content(files: &Files, cluster: Option<ClusterId>, policy: Option<&Policy>) -> Result<Content, Refusal> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    let documents = documents::read(files, cluster, &mut mistakes);
    let objects = manifests::read(files, &mut mistakes);
    match documents {
        Some(documents) if mistakes.is_empty() => {
            policy.map_or(Ok(()), |policy| reach::judge(policy, &objects))?;
            Ok(Content { documents, objects })
        }
        Some(_) | None => {
            mistakes.sort();
            Err(Refusal::of_mistakes(Reason::Parse, mistakes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn t59_a_break_glass_brings_neither_secrets_nor_protected_kinds() {
        const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
        let policy = format!(
            "version 1\nroot threshold=1 {{ member \"ada\"; }}\nprincipal \"ada\" {{ key \"{KEY}\" {{ use \"commit\"; }}; }}\n\
             role \"dev\" {{ member \"ada\"; }}\n\
             rule \"web\" {{\n    owns \"apps/**\"\n    approval role=\"dev\" threshold=1\n\
             \x20   reach {{ namespace \"web\"; kind \"*\"; }}\n    budget {{ protect \"ServiceAccount\"; }}\n}}\n"
        );
        let file =
            |kind: &str| format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a, namespace: web}}\n").into_bytes();
        let files = Files(BTreeMap::from([
            ("trust/root.kdl".to_owned(), policy.clone().into_bytes()),
            ("apps/map.yaml".to_owned(), file("ConfigMap")),
            ("apps/secret.yaml".to_owned(), file("Secret")),
            ("apps/service.yaml".to_owned(), file("ServiceAccount")),
        ]));
        let policy = Policy::parse(&files).expect("because the policy is good");
        let mut mistakes = Vec::new();
        let objects = manifests::read(&files, &mut mistakes);
        assert_eq!((objects.len(), mistakes), (3, Vec::new()));
        for (path, expected) in [
            ("apps/map.yaml", None),
            ("apps/secret.yaml", Some(Reason::OutOfReach)),
            ("apps/service.yaml", Some(Reason::OutOfReach)),
        ] {
            let judged = emergency(&policy, |touched| touched == path, &objects);
            assert_eq!(
                judged.err().map(|refusal| (refusal.reason, refusal.path)),
                expected.map(|r| (r, Some(path.to_owned())))
            );
        }
    }
}
