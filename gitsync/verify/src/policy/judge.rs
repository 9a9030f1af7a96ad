//! Whether a policy allows a net difference, given who approved it.

use super::{Policy, Quorum, ROOT_FILE};
use crate::refusal::{Reason, Refusal};
use crate::tree::Change;
use machined_ids::PrincipalName;
use std::collections::BTreeSet;

/// Who approved a step, as distinct principals, and who of them with a recovery key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approvals {
    /// By a signature that the policy counts.
    pub principals: BTreeSet<PrincipalName>,
    /// By a key for `recovery`.
    pub recovery: BTreeSet<PrincipalName>,
    /// Why a signature that was there did not count; the reason to show when approvals are missing.
    pub discounted: Vec<Refusal>,
}

impl Approvals {
    fn count(&self, members: &BTreeSet<PrincipalName>) -> usize {
        self.principals.intersection(members).count()
    }

    /// The refusal for missing approvals: the signature that did not count says more than the number that was not reached.
    fn missing(&self, reason: Reason, message: String) -> Refusal {
        match self.discounted.first() {
            Some(why) => {
                let mut refusal = why.clone();
                refusal.message = format!("{}; {message}", why.message);
                refusal
            }
            None => Refusal::new(reason, message),
        }
    }
}

impl Policy {
    /// Judges the net difference from this policy's tree to a child whose own policy is `next`.
    ///
    /// Adding an approval never turns a yes into a no; adding a rule never permits more on the paths that it matches.
    ///
    /// # Errors
    /// `NoRule`, `UnderThreshold`, `RootThreshold`, or the reason why a signature did not count.
    pub fn authorise(&self, changes: &[Change], approvals: &Approvals, next: &Policy) -> Result<(), Refusal> {
        if changes.is_empty() {
            return self.authorise_empty(approvals);
        }
        changes.iter().try_for_each(|change| self.authorise_path(&change.path, approvals))?;
        if changes.iter().any(|change| change.path.starts_with("trust/")) {
            self.authorise_trust(changes, approvals, next)?;
        }
        Ok(())
    }

    fn authorise_path(&self, path: &str, approvals: &Approvals) -> Result<(), Refusal> {
        let mut owned = path.starts_with("trust/"); // root's own, always
        for rule in &self.rules {
            let owns = rule.owns.iter().any(|glob| glob.matches(path));
            owned |= owns;
            if !owns && !rule.reads.iter().any(|glob| glob.matches(path)) {
                continue;
            }
            let members = self.roles.get(&rule.role).map(|role| &role.members);
            let count = members.map_or(0, |members| approvals.count(members));
            if count < rule.threshold as usize {
                let message = format!(
                    "{count} of {} approvals by role {}; have a member sign: git commit --amend -S && git push",
                    rule.threshold, rule.role
                );
                return Err(approvals.missing(Reason::UnderThreshold, message).at_path(path).by_rule(&rule.name));
            }
        }
        if owned {
            return Ok(());
        }
        let message = "no rule owns this path; let root add one to trust/, or move the file";
        Err(Refusal::new(Reason::NoRule, message).at_path(path))
    }

    fn authorise_trust(&self, changes: &[Change], approvals: &Approvals, next: &Policy) -> Result<(), Refusal> {
        let path = changes.iter().map(|c| c.path.as_str()).find(|p| p.starts_with("trust/")).unwrap_or(ROOT_FILE);
        let enough = |quorum: &Quorum, who: &str, path: &str| {
            let count = approvals.count(&quorum.members);
            if count >= quorum.threshold as usize {
                return Ok(());
            }
            let members: Vec<_> = quorum.members.iter().map(PrincipalName::as_str).collect();
            let (need, names) = (quorum.threshold, members.join(", "));
            let message = format!("trust changes with {need} approvals by {who} ({names}); there are {count}");
            Err(approvals.missing(Reason::RootThreshold, message).at_path(path))
        };
        enough(&self.root, "root", path)?;
        if changes.iter().any(|change| change.path == ROOT_FILE) {
            enough(&next.root, "the new root", ROOT_FILE)?;
            self.authorise_recovery(approvals, next)?;
        }
        Ok(())
    }

    /// Only recovery's own threshold changes recovery, its principals and their keys.
    fn authorise_recovery(&self, approvals: &Approvals, next: &Policy) -> Result<(), Refusal> {
        let Some(recovery) = &self.recovery else { return Ok(()) };
        let keys = |policy: &Policy| -> Vec<_> {
            let names = policy.recovery.iter().flat_map(|quorum| &quorum.members);
            names.map(|name| (name.clone(), policy.principals.get(name).map(|p| p.keys.clone()))).collect()
        };
        let same_delay = self.recovery_delay == next.recovery_delay;
        if self.recovery == next.recovery && same_delay && keys(self) == keys(next) {
            return Ok(());
        }
        let count = approvals.recovery.intersection(&recovery.members).count();
        if count >= recovery.threshold as usize {
            return Ok(());
        }
        let need = recovery.threshold;
        let message = format!("recovery changes only with {need} signatures by its own keys; there are {count}");
        Err(Refusal::new(Reason::RootThreshold, message).at_path(ROOT_FILE))
    }

    /// A step that changes nothing still moves the chain on, so that a sibling of it is refused for ever: it takes one
    /// approval by somebody whom a rule or root names.
    fn authorise_empty(&self, approvals: &Approvals) -> Result<(), Refusal> {
        let roles = self.rules.iter().filter_map(|rule| self.roles.get(&rule.role)).map(|role| &role.members);
        if roles.chain([&self.root.members]).any(|members| approvals.count(members) > 0) {
            return Ok(());
        }
        let message = "the commit changes nothing, and nobody whom a rule names has signed it";
        Err(approvals.missing(Reason::UnderThreshold, message.to_owned()))
    }
}
