//! `trust/*.kdl` -> [`Policy`]: every mistake at once, each with its place. Unknown nodes are mistakes.

use super::emergency::{self, DEFAULT_RECOVERY_DELAY, Life};
use super::words::{AccessWord, Key};
use super::{Binding, BreakGlass, Budget, Floors, Glob, Policy, Principal, Quorum, ROOT_FILE, Reach, Role, Rule, Use};
use crate::refusal::{Mistake, Reason, Refusal};
use crate::tree::Files;
use jiff::SignedDuration;
use machined_config::read::{self, Block, Node, Place};
use machined_ids::{Fingerprint, PrincipalName, Seq};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// The policy version that this release reads.
const VERSION: u32 = 1;

/// Something that was read, and where it stands; names in it are looked up when every file was read.
struct Placed<T> {
    value: T,
    path: String,
    place: Place,
}

#[derive(Default)]
struct Draft {
    newer: bool,
    binding: Option<Binding>,
    root: Option<Placed<Quorum>>,
    recovery: Option<Placed<Quorum>>,
    recovery_delay: Option<SignedDuration>,
    freshness: Option<SignedDuration>,
    floors: Floors,
    break_glass: Option<Placed<BreakGlass>>,
    revoked: BTreeMap<Fingerprint, Seq>,
    principals: BTreeMap<PrincipalName, Placed<Principal>>,
    keys: BTreeMap<Fingerprint, PrincipalName>,
    roles: BTreeMap<PrincipalName, Placed<Role>>,
    rules: Vec<Placed<Rule>>,
}

impl Policy {
    /// Reads the policy out of the files of a tree (those under `trust/`; others are ignored).
    ///
    /// # Errors
    /// `PolicyInvalid` with every mistake; `NewerState` when a later release wrote it.
    pub fn parse(files: &Files) -> Result<Policy, Refusal> {
        let (mut draft, mut mistakes) = (Draft::default(), Vec::new());
        if files.get(ROOT_FILE).is_none() {
            mistakes.push(whole_file(ROOT_FILE, "the file is missing; nobody could ever change anything again"));
        }
        for (path, bytes) in files.under("trust/") {
            if path.matches('/').count() != 1 || !path.ends_with(".kdl") {
                mistakes.push(whole_file(path, "trust/ holds only policy files, trust/<name>.kdl"));
                continue;
            }
            let Ok(text) = std::str::from_utf8(bytes) else {
                mistakes.push(whole_file(path, "not UTF-8 text"));
                continue;
            };
            if let Err(problems) = read::document(path, text, |file| draft.file(path, file)) {
                mistakes.extend(problems.0.into_iter().map(Mistake::from));
            }
        }
        if draft.newer {
            let message = format!("the policy is newer than version {VERSION}; upgrade this machine's image first");
            return Err(Refusal::new(Reason::NewerState, message).at_path(ROOT_FILE));
        }
        draft.check(&mut mistakes);
        match draft.root.take() {
            Some(root) if mistakes.is_empty() => Ok(draft.finish(root.value)),
            Some(_) | None => {
                mistakes.sort();
                mistakes.dedup();
                Err(Refusal::of_mistakes(Reason::PolicyInvalid, mistakes))
            }
        }
    }
}

fn whole_file(path: &str, message: &str) -> Mistake {
    Mistake { path: path.to_owned(), line: 1, column: 1, message: message.to_owned(), expected: String::new() }
}

impl Draft {
    /// Takes what a file has. There is no file that cannot be read: what it lacks is a mistake of its own.
    fn file(&mut self, path: &str, file: &Block<'_>) -> Option<()> {
        // Elsewhere nobody asks for these, so that they are unknown there.
        if path == ROOT_FILE {
            let version: Option<u32> = file.value("version");
            self.newer = version.is_some_and(|version| version > VERSION);
            if version == Some(0) {
                file.problem(format!("there is no policy version 0; this release reads version {VERSION}"));
            }
            self.binding = file.optional_value("binding");
            self.root = file.one("root").map(|node| placed(path, &node, quorum(&node)));
            self.recovery = file.optional("recovery").map(|node| {
                self.recovery_delay = node.property::<Life>("delay").map(|life| life.0);
                placed(path, &node, quorum(&node))
            });
            self.freshness = file.optional("freshness").and_then(|node| emergency::freshness(&node));
            self.floors = file.optional("floor").map(|node| emergency::floor(&node)).unwrap_or_default();
            let break_glass = file.optional("break-glass");
            self.break_glass = break_glass.and_then(|node| Some(placed(path, &node, emergency::break_glass(&node)?)));
        }
        for node in file.many("revoked") {
            let Some((key, last_good)) = emergency::revoked(&node) else { continue };
            if self.revoked.insert(key.clone(), last_good).is_some() {
                node.problem(format!("key {key} is revoked a second time"));
            }
        }
        file.many("principal").iter().for_each(|node| self.principal(path, node));
        file.many("role").iter().for_each(|node| self.role(path, node));
        file.many("rule").iter().for_each(|node| self.rule(path, node));
        Some(())
    }

    fn principal(&mut self, path: &str, node: &Node<'_>) {
        let name: Option<PrincipalName> = node.argument(0);
        let nodes = node.children(|block| block.many("key"));
        if nodes.is_empty() {
            node.problem("a principal needs at least one `key`");
        }
        let mut keys = BTreeMap::new();
        for node in &nodes {
            let key: Option<Key> = node.argument(0);
            let uses: BTreeSet<Use> = node.children(|block| words(block, "use"));
            if uses.is_empty() {
                node.problem("the key is for nothing; say `use \"commit\" \"login\"`");
            }
            let (Some(Key(key)), Some(name)) = (key, &name) else { continue };
            if let Some(owner) = self.keys.insert(key.clone(), name.clone()) {
                node.problem(format!("this key is already {owner}'s; a key belongs to one principal, once"));
            }
            keys.insert(key, uses);
        }
        let Some(name) = name else { return };
        if self.principals.insert(name.clone(), placed(path, node, Principal { keys })).is_some() {
            node.problem(format!("principal {name} is defined a second time"));
        }
    }

    fn role(&mut self, path: &str, node: &Node<'_>) {
        let name: Option<PrincipalName> = node.argument(0);
        let access = node.property::<AccessWord>("access").map(|word| word.0);
        let role = Role { access, members: members(node) };
        let Some(name) = name else { return };
        if self.roles.insert(name.clone(), placed(path, node, role)).is_some() {
            node.problem(format!("role {name} is defined a second time"));
        }
    }

    fn rule(&mut self, path: &str, node: &Node<'_>) {
        let name: Option<String> = node.argument(0);
        let (owns, reads, approval, reach, budget) = node.children(|block| {
            let approval = block.one("approval").and_then(|node| approval(&node));
            let reach = block.optional("reach").map(|node| node.children(reach)).unwrap_or_default();
            let budget = block.optional("budget").map(|node| budget(&node)).unwrap_or_default();
            (words::<Glob, Vec<_>>(block, "owns"), words::<Glob, Vec<_>>(block, "reads"), approval, reach, budget)
        });
        if owns.is_empty() {
            node.problem("the rule owns nothing; say `owns \"apps/**\"`");
        }
        let (Some(name), Some((role, threshold))) = (name, approval) else { return };
        if self.rules.iter().any(|rule| rule.value.name == name) {
            node.problem(format!("rule {name:?} is defined a second time"));
        }
        let rule = Rule { name, owns, reads, role, threshold, reach, budget };
        self.rules.push(placed(path, node, rule));
    }

    /// What can be seen only when every file was read: names that do not exist, thresholds that nobody can meet.
    fn check(&self, mistakes: &mut Vec<Mistake>) {
        for (quorum, uses) in [(&self.root, &APPROVING[..]), (&self.recovery, &[Use::Recovery][..])] {
            let Some(quorum) = quorum else { continue };
            for member in &quorum.value.members {
                match self.principals.get(member) {
                    None => mistakes.push(quorum.mistake(format!("there is no principal {member}"))),
                    // A key swapped in another file would otherwise take root over without root's own file changing.
                    Some(principal) if principal.path != ROOT_FILE => {
                        let message = format!("{member} is of root or recovery and must be defined in {ROOT_FILE}");
                        mistakes.push(principal.mistake(message));
                    }
                    Some(_) => {}
                }
            }
            let (need, able) = (quorum.value.threshold, self.able(&quorum.value.members, uses));
            if able < need as usize {
                mistakes.push(quorum.mistake(format!("the threshold is {need}, and {able} could sign")));
            }
        }
        if let Some(placed) = &self.break_glass {
            let BreakGlass { role, threshold, .. } = &placed.value;
            let members = self.roles.get(role).map(|role| &role.value.members);
            let able = members.map_or(0, |members| self.able(members, &[Use::Statement]));
            if able < *threshold as usize {
                let message =
                    format!("break-glass asks for {threshold} of role {role}, where {able} could sign statements");
                mistakes.push(placed.mistake(message));
            }
        }
        for (name, role) in &self.roles {
            for member in role.value.members.iter().filter(|member| !self.principals.contains_key(*member)) {
                mistakes.push(role.mistake(format!("role {name} names {member}, who is not defined")));
            }
        }
        for rule in &self.rules {
            let Rule { name, role, threshold, .. } = &rule.value;
            let Some(members) = self.roles.get(role).map(|role| &role.value.members) else {
                mistakes.push(rule.mistake(format!("rule {name:?} asks for role {role}, which is not defined")));
                continue;
            };
            let able = self.able(members, &APPROVING);
            if able < *threshold as usize {
                mistakes.push(
                    rule.mistake(format!("rule {name:?} asks for {threshold} of role {role}, where {able} could sign")),
                );
            }
        }
    }

    fn able(&self, members: &BTreeSet<PrincipalName>, uses: &[Use]) -> usize {
        let good = |(print, key): (&Fingerprint, &BTreeSet<Use>)| {
            // Root cannot stop recovery's keys: recovery is what is left when root is lost.
            let stopped = self.revoked.contains_key(print) && uses != [Use::Recovery];
            !stopped && uses.iter().any(|wanted| key.contains(wanted))
        };
        let signs = |principal: &Principal| principal.keys.iter().any(good);
        members.iter().filter(|m| self.principals.get(*m).is_some_and(|p| signs(&p.value))).count()
    }

    fn finish(self, root: Quorum) -> Policy {
        Policy {
            binding: self.binding.unwrap_or(Binding::Trailer),
            root,
            recovery: self.recovery.map(|quorum| quorum.value),
            recovery_delay: self.recovery_delay.unwrap_or(DEFAULT_RECOVERY_DELAY),
            freshness: self.freshness,
            floors: self.floors,
            break_glass: self.break_glass.map(|placed| placed.value),
            revoked: self.revoked,
            principals: self.principals.into_iter().map(|(name, placed)| (name, placed.value)).collect(),
            roles: self.roles.into_iter().map(|(name, placed)| (name, placed.value)).collect(),
            rules: self.rules.into_iter().map(|placed| placed.value).collect(),
        }
    }
}

/// Uses of which one is enough to approve a step.
const APPROVING: [Use; 2] = [Use::Commit, Use::Statement];

fn placed<T>(path: &str, node: &Node<'_>, value: T) -> Placed<T> {
    Placed { value, path: path.to_owned(), place: node.place() }
}

impl<T> Placed<T> {
    fn mistake(&self, message: String) -> Mistake {
        let Place { line, column } = self.place;
        Mistake::at(&self.path, line, column, message)
    }
}

/// All arguments of all nodes of a name.
pub(super) fn words<T, C>(block: &Block<'_>, name: &'static str) -> C
where
    T: std::str::FromStr<Err: std::fmt::Display>,
    C: FromIterator<T>,
{
    let of_node = |node: Node<'_>| {
        let words: Vec<T> = node.arguments(0);
        node.finish();
        words
    };
    block.many(name).into_iter().flat_map(of_node).collect()
}

fn members(node: &Node<'_>) -> BTreeSet<PrincipalName> {
    let named: Vec<PrincipalName> = node.children(|block| words(block, "member"));
    let members: BTreeSet<_> = named.iter().cloned().collect();
    if members.is_empty() {
        node.problem("there is nobody in it; say `member \"...\"`");
    }
    if members.len() < named.len() {
        node.problem("somebody is named twice");
    }
    members
}

fn quorum(node: &Node<'_>) -> Quorum {
    let threshold: Option<NonZeroU32> = node.property("threshold");
    if threshold.is_none() {
        node.problem("it needs `threshold=1` or more");
    }
    Quorum { threshold: threshold.map_or(1, NonZeroU32::get), members: members(node) }
}

fn approval(node: &Node<'_>) -> Option<(PrincipalName, u32)> {
    let (role, threshold) = (node.property("role"), node.property::<NonZeroU32>("threshold"));
    if role.is_none() || threshold.is_none() {
        node.problem("it needs `role=\"...\"` and `threshold=1` or more");
    }
    node.finish();
    Some((role?, threshold?.get()))
}

fn reach(block: &Block<'_>) -> Reach {
    Reach {
        namespaces: words(block, "namespace"),
        kinds: words(block, "kind"),
        cluster_scoped: block.optional("cluster-scoped").is_some_and(|node| node.switch()),
        privileged: block.optional("privileged").is_some_and(|node| node.switch()),
    }
}

fn budget(node: &Node<'_>) -> Budget {
    Budget { deletions: node.property("deletions"), protected: node.children(|block| words(block, "protect")) }
}
