//! `trust/*.kdl` -> [`Policy`]: every mistake at once, each with its place. Unknown nodes are mistakes.

use super::nodes::{Source, children};
use super::{Binding, Budget, Glob, Policy, Principal, Quorum, ROOT_FILE, Reach, Role, Rule, Use};
use crate::refusal::{Mistake, Reason, Refusal};
use crate::tree::Files;
use kdl::KdlNode;
use machined_access::{Access, ssh_fingerprint};
use machined_ids::{Fingerprint, PrincipalName};
use ssh_key::{Algorithm, EcdsaCurve, PublicKey};
use std::collections::{BTreeMap, BTreeSet};

/// The policy version that this release reads.
const VERSION: i128 = 1;

/// A name used before it is known whether it exists.
struct Named<T> {
    value: T,
    place: Place,
}

/// Where something stands: file and byte offset.
#[derive(Clone)]
struct Place {
    path: String,
    offset: usize,
}

#[derive(Default)]
struct Draft {
    newer: bool,
    version: bool,
    binding: Option<Binding>,
    root: Option<Named<Quorum>>,
    recovery: Option<Named<Quorum>>,
    principals: BTreeMap<PrincipalName, Named<Principal>>,
    keys: BTreeMap<Fingerprint, PrincipalName>,
    roles: BTreeMap<PrincipalName, Named<Role>>,
    rules: Vec<Named<Rule>>,
}

impl Policy {
    /// Reads the policy out of the files of a tree (those under `trust/`; others are ignored).
    ///
    /// # Errors
    /// `PolicyInvalid` with every mistake; `NewerState` when a later release wrote it.
    pub fn parse(files: &Files) -> Result<Policy, Refusal> {
        let (mut draft, mut mistakes) = (Draft::default(), Vec::new());
        for (path, bytes) in files.under("trust/") {
            let Ok(text) = std::str::from_utf8(bytes) else {
                mistakes.push(Mistake::at_offset(path, "", 0, "not UTF-8 text", "KDL version 2"));
                continue;
            };
            let mut source = Source { path, text, mistakes: &mut mistakes };
            if path.matches('/').count() != 1 || !path.ends_with(".kdl") {
                source.mistake(0, "trust/ holds only policy files", "trust/<name>.kdl");
                continue;
            }
            if let Some(document) = source.document() {
                document.nodes().iter().for_each(|node| draft.node(&mut source, node));
            }
        }
        if draft.newer {
            let message = format!("the policy is newer than version {VERSION}; upgrade this machine's image first");
            return Err(Refusal::new(Reason::NewerState, message).at_path(ROOT_FILE));
        }
        draft.check(files, &mut mistakes);
        if !mistakes.is_empty() {
            mistakes.sort();
            return Err(Refusal::of_mistakes(Reason::PolicyInvalid, mistakes));
        }
        Ok(draft.finish())
    }
}

impl Draft {
    fn node(&mut self, source: &mut Source<'_>, node: &KdlNode) {
        let at = node.span().offset();
        let name = node.name().value();
        if matches!(name, "version" | "binding" | "root" | "recovery") && source.path != ROOT_FILE {
            source.mistake(at, format!("{name} stands outside {ROOT_FILE}"), ROOT_FILE);
            return;
        }
        match name {
            "version" => self.version(source, node),
            "binding" => self.binding(source, node),
            "root" | "recovery" => self.quorum(source, node),
            "principal" => self.principal(source, node),
            "role" => self.role(source, node),
            "rule" => self.rule(source, node),
            other => source.mistake(at, format!("unknown node {other}"), "principal, role, rule, root or recovery"),
        }
    }

    fn version(&mut self, source: &mut Source<'_>, node: &KdlNode) {
        source.only(node, true, &[], false);
        let value = node.entries().first().and_then(|e| e.value().as_integer());
        match value {
            Some(version) if version > VERSION => self.newer = true,
            Some(VERSION) if !self.version => self.version = true,
            _ => source.mistake(node.span().offset(), "this is not a policy version, or a second one", "version 1"),
        }
    }

    fn binding(&mut self, source: &mut Source<'_>, node: &KdlNode) {
        source.only(node, true, &[], false);
        let Some((word, at)) = source.text(node, "\"trailer\" or \"plain\"") else { return };
        let binding = match word {
            "trailer" => Binding::Trailer,
            "plain" => Binding::Plain,
            other => return source.mistake(at, format!("unknown binding {other:?}"), "\"trailer\" or \"plain\""),
        };
        if self.binding.replace(binding).is_some() {
            source.mistake(at, "a second binding", "one");
        }
    }

    fn quorum(&mut self, source: &mut Source<'_>, node: &KdlNode) {
        source.only(node, false, &["threshold"], true);
        let at = node.span().offset();
        let threshold = source.count(node, "threshold", 1);
        if threshold.is_none() {
            source.mistake(at, format!("{} has no usable threshold", node.name().value()), "threshold=1 or more");
        }
        let quorum = Quorum { threshold: threshold.unwrap_or(1), members: members(source, node) };
        let named = Named { value: quorum, place: place(source, at) };
        let slot = if node.name().value() == "root" { &mut self.root } else { &mut self.recovery };
        if slot.replace(named).is_some() {
            source.mistake(at, format!("a second {}", node.name().value()), "one");
        }
    }

    fn principal(&mut self, source: &mut Source<'_>, node: &KdlNode) {
        source.only(node, true, &[], true);
        let Some(name) = name(source, node) else { return };
        let mut keys = BTreeMap::new();
        for child in children(node) {
            let at = child.span().offset();
            if child.name().value() != "key" {
                source.mistake(at, format!("unknown node {}", child.name().value()), "key");
                continue;
            }
            let Some((key, uses)) = key(source, child) else { continue };
            if let Some(owner) = self.keys.insert(key.clone(), name.clone()) {
                source.mistake(at, format!("this key is already {owner}'s"), "a key of one principal, once");
            }
            keys.insert(key, uses);
        }
        let at = node.span().offset();
        if keys.is_empty() {
            source.mistake(at, format!("principal {name} has no key"), "key \"ssh-ed25519 ...\" { use \"commit\" }");
        }
        let named = Named { value: Principal { keys }, place: place(source, at) };
        if self.principals.insert(name.clone(), named).is_some() {
            source.mistake(at, format!("principal {name} is defined twice"), "one definition");
        }
    }

    fn role(&mut self, source: &mut Source<'_>, node: &KdlNode) {
        source.only(node, true, &["access"], true);
        let Some(name) = name(source, node) else { return };
        let access = source.word(node, "access").and_then(|(word, at)| match word {
            "reader" => Some(Access::Reader),
            "operator" => Some(Access::Operator),
            "admin" => Some(Access::Admin),
            other => {
                source.mistake(at, format!("unknown access {other:?}"), "reader, operator or admin");
                None
            }
        });
        let at = node.span().offset();
        let named = Named { value: Role { access, members: members(source, node) }, place: place(source, at) };
        if self.roles.insert(name.clone(), named).is_some() {
            source.mistake(at, format!("role {name} is defined twice"), "one definition");
        }
    }

    fn rule(&mut self, source: &mut Source<'_>, node: &KdlNode) {
        source.only(node, true, &[], true);
        let at = node.span().offset();
        let Some((name, _)) = source.text(node, "a name in quotes") else { return };
        if self.rules.iter().any(|rule| rule.value.name == name) {
            source.mistake(at, format!("rule {name:?} is defined twice"), "one definition");
        }
        let (mut owns, mut reads, mut approval) = (Vec::new(), Vec::new(), None);
        let (mut reach, mut budget) = (None, None);
        for child in children(node) {
            match child.name().value() {
                "owns" => owns.extend(globs(source, child)),
                "reads" => reads.extend(globs(source, child)),
                "approval" => once(source, child, &mut approval, self::approval),
                "reach" => once(source, child, &mut reach, |source, node| Some(self::reach(source, node))),
                "budget" => once(source, child, &mut budget, |source, node| Some(self::budget(source, node))),
                other => source.mistake(
                    child.span().offset(),
                    format!("unknown node {other}"),
                    "owns, reads, approval, reach or budget",
                ),
            }
        }
        if owns.is_empty() {
            source.mistake(at, format!("rule {name:?} owns nothing"), "owns \"apps/**\"");
        }
        let Some((role, threshold)) = approval else {
            source.mistake(at, format!("rule {name:?} has no usable approval"), "approval role=\"...\" threshold=1");
            return;
        };
        let (reach, budget) = (reach.unwrap_or_default(), budget.unwrap_or_default());
        let rule = Rule { name: name.to_owned(), owns, reads, role, threshold, reach, budget };
        self.rules.push(Named { value: rule, place: place(source, at) });
    }

    /// What can be seen only when every file was read: names that do not exist, thresholds that nobody can meet.
    fn check(&self, files: &Files, mistakes: &mut Vec<Mistake>) {
        let mut note = |place: &Place, message: String, expected: &str| {
            let text = files.get(&place.path).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
            mistakes.push(Mistake::at_offset(&place.path, text, place.offset, message, expected));
        };
        let start = Place { path: ROOT_FILE.to_owned(), offset: 0 };
        if !self.version {
            note(&start, "the policy names no version".to_owned(), "version 1");
        }
        if self.root.is_none() {
            note(&start, "nobody may change trust".to_owned(), "root threshold=1 { member \"...\" }");
        }
        let known = |name: &PrincipalName| self.principals.contains_key(name);
        for quorum in self.root.iter().chain(&self.recovery) {
            for member in &quorum.value.members {
                match self.principals.get(member) {
                    None => note(&quorum.place, format!("there is no principal {member}"), "a defined principal"),
                    // A key swapped in another file would otherwise take root over without root's own file changing.
                    Some(principal) if principal.place.path != ROOT_FILE => {
                        note(&principal.place, format!("{member} is of root or recovery"), ROOT_FILE);
                    }
                    Some(_) => {}
                }
            }
        }
        for (quorum, uses) in [(&self.root, &APPROVING[..]), (&self.recovery, &[Use::Recovery][..])] {
            let Some(quorum) = quorum else { continue };
            let able = self.able(&quorum.value.members, uses);
            if able < quorum.value.threshold as usize {
                let message = format!("threshold {} but only {able} who could sign", quorum.value.threshold);
                note(&quorum.place, message, "a threshold that its members' keys can meet");
            }
        }
        for (name, role) in &self.roles {
            for member in role.value.members.iter().filter(|member| !known(member)) {
                note(&role.place, format!("role {name} names {member}, who is not defined"), "a defined principal");
            }
        }
        for rule in &self.rules {
            let Rule { name, role, threshold, .. } = &rule.value;
            let Some(members) = self.roles.get(role).map(|role| &role.value.members) else {
                note(
                    &rule.place,
                    format!("rule {name:?} asks for role {role}, which is not defined"),
                    "a defined role",
                );
                continue;
            };
            let able = self.able(members, &APPROVING);
            if able < *threshold as usize {
                let message = format!("rule {name:?} asks for {threshold} of role {role}, where {able} could sign");
                note(&rule.place, message, "a threshold that the role's keys can meet");
            }
        }
    }

    fn able(&self, members: &BTreeSet<PrincipalName>, uses: &[Use]) -> usize {
        let signs = |principal: &Principal| principal.keys.values().any(|key| uses.iter().any(|u| key.contains(u)));
        members.iter().filter(|m| self.principals.get(*m).is_some_and(|p| signs(&p.value))).count()
    }

    fn finish(self) -> Policy {
        Policy {
            binding: self.binding.unwrap_or(Binding::Trailer),
            root: self.root.expect("because check() asks for a root").value,
            recovery: self.recovery.map(|quorum| quorum.value),
            principals: self.principals.into_iter().map(|(name, named)| (name, named.value)).collect(),
            roles: self.roles.into_iter().map(|(name, named)| (name, named.value)).collect(),
            rules: self.rules.into_iter().map(|named| named.value).collect(),
        }
    }
}

/// Uses of which one is enough to approve a step.
const APPROVING: [Use; 2] = [Use::Commit, Use::Statement];

fn place(source: &Source<'_>, offset: usize) -> Place {
    Place { path: source.path.to_owned(), offset }
}

fn name(source: &mut Source<'_>, node: &KdlNode) -> Option<PrincipalName> {
    let (text, at) = source.text(node, "one name in quotes")?;
    principal_name(source, text, at)
}

fn principal_name(source: &mut Source<'_>, text: &str, at: usize) -> Option<PrincipalName> {
    match PrincipalName::parse(text) {
        Ok(name) => Some(name),
        Err(error) => {
            source.mistake(at, format!("{text:?} is not a name"), error.expected);
            None
        }
    }
}

fn members(source: &mut Source<'_>, node: &KdlNode) -> BTreeSet<PrincipalName> {
    let mut members = BTreeSet::new();
    for child in children(node) {
        if child.name().value() != "member" {
            source.mistake(child.span().offset(), format!("unknown node {}", child.name().value()), "member");
            continue;
        }
        source.only(child, true, &[], false);
        for (text, at) in source.texts(child) {
            if principal_name(source, text, at).is_some_and(|name| !members.insert(name)) {
                source.mistake(at, format!("{text} is named twice"), "each member once");
            }
        }
    }
    if members.is_empty() {
        source.mistake(node.span().offset(), format!("{} has no members", node.name().value()), "member \"...\"");
    }
    members
}

fn key(source: &mut Source<'_>, node: &KdlNode) -> Option<(Fingerprint, BTreeSet<Use>)> {
    source.only(node, true, &[], true);
    let expected = "an ssh-ed25519, sk-ssh-ed25519@openssh.com or ecdsa-sha2-nistp256 public key";
    let mut uses = BTreeSet::new();
    for child in children(node) {
        if child.name().value() != "use" {
            source.mistake(child.span().offset(), format!("unknown node {}", child.name().value()), "use");
            continue;
        }
        source.only(child, true, &[], false);
        for (word, at) in source.texts(child) {
            match Use::ALL.iter().find(|(name, _)| *name == word) {
                Some((_, one)) => _ = uses.insert(*one),
                None => source.mistake(
                    at,
                    format!("unknown use {word:?}"),
                    "commit, statement, login, fresh, image or recovery",
                ),
            }
        }
    }
    if uses.is_empty() {
        source.mistake(node.span().offset(), "the key is for nothing", "use \"commit\" \"login\"");
    }
    let (text, at) = source.text(node, expected)?;
    let key = match PublicKey::from_openssh(text) {
        Ok(key) => key,
        Err(_) => {
            source.mistake(at, "this is not an SSH public key", expected);
            return None;
        }
    };
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::SkEd25519 | Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } => {
            Some((ssh_fingerprint(key.key_data()), uses))
        }
        other => {
            source.mistake(at, format!("{other} keys are not taken"), expected);
            None
        }
    }
}

fn globs(source: &mut Source<'_>, node: &KdlNode) -> Vec<Glob> {
    source.only(node, true, &[], false);
    let mut globs = Vec::new();
    for (text, at) in source.texts(node) {
        match Glob::parse(text) {
            Ok(glob) => globs.push(glob),
            Err(expected) => source.mistake(at, format!("{text:?} is not a path pattern"), expected),
        }
    }
    globs
}

fn once<T>(
    source: &mut Source<'_>,
    node: &KdlNode,
    slot: &mut Option<T>,
    read: impl FnOnce(&mut Source<'_>, &KdlNode) -> Option<T>,
) {
    if slot.is_some() {
        source.mistake(node.span().offset(), format!("a second {}", node.name().value()), "one");
    }
    if let Some(value) = read(source, node) {
        *slot = Some(value);
    }
}

fn approval(source: &mut Source<'_>, node: &KdlNode) -> Option<(PrincipalName, u32)> {
    source.only(node, false, &["role", "threshold"], false);
    let threshold = source.count(node, "threshold", 1);
    let (role, at) = source.word(node, "role")?;
    Some((principal_name(source, role, at)?, threshold?))
}

fn reach(source: &mut Source<'_>, node: &KdlNode) -> Reach {
    source.only(node, false, &[], true);
    let mut reach = Reach::default();
    for child in children(node) {
        let at = child.span().offset();
        match child.name().value() {
            "namespace" => {
                source.only(child, true, &[], false);
                reach.namespaces.extend(source.texts(child).into_iter().map(|(text, _)| text.to_owned()));
            }
            "kind" => {
                source.only(child, true, &[], false);
                reach.kinds.extend(source.texts(child).into_iter().map(|(text, _)| text.to_owned()));
            }
            "cluster-scoped" => {
                source.only(child, true, &[], false);
                match child.entries().first().and_then(|e| e.value().as_bool()) {
                    Some(value) => reach.cluster_scoped = value,
                    None => source.mistake(at, "cluster-scoped says neither yes nor no", "#true or #false"),
                }
            }
            other => source.mistake(at, format!("unknown node {other}"), "namespace, kind or cluster-scoped"),
        }
    }
    reach
}

fn budget(source: &mut Source<'_>, node: &KdlNode) -> Budget {
    source.only(node, false, &["deletions"], true);
    let mut budget = Budget { deletions: source.count(node, "deletions", 0), protected: BTreeSet::new() };
    for child in children(node) {
        if child.name().value() == "protect" {
            source.only(child, true, &[], false);
            budget.protected.extend(source.texts(child).into_iter().map(|(text, _)| text.to_owned()));
        } else {
            source.mistake(child.span().offset(), format!("unknown node {}", child.name().value()), "protect");
        }
    }
    budget
}
