//! Statements on a person's computer: what is about to be signed, the signature, and the ref that carries it.
//!
//! Called by the commands of [`crate::commands`] that sign. A statement is shown before it is signed, checked after it was, and
//! travels as a blob under `refs/cairn/`; the private key never comes near this process.

use crate::judge::{Judgement, Repository};
use crate::repository::{Checkout, target_line};
use crate::signing;
use anyhow::{Context as _, Result, bail, ensure};
use gitsync_verify::policy::Use;
use gitsync_verify::statement::RELEASE_TRAILER;
use gitsync_verify::{Policy, SignedStatement, Statement, TrustState, next_step};
use machined_access::ssh_fingerprint;
use machined_ids::{CommitId, Fingerprint, PrincipalName, StepId};
use std::path::{Path, PathBuf};

/// A checkout whose branch was fetched and judged: what a statement refers to.
pub(crate) struct Desk {
    pub(crate) checkout: Checkout,
    pub(crate) repository: Repository,
    /// The branch as the remote has it.
    pub(crate) judgement: Judgement,
    /// What a machine remembers that accepted it.
    pub(crate) state: TrustState,
    /// The policy in accepted.
    pub(crate) policy: Policy,
    remote: bool,
}

/// A change on top of accepted, as the step that a merge of it would be.
pub(crate) struct Proposal {
    /// The commit that was asked about.
    pub(crate) commit: CommitId,
    /// An unsigned merge that nothing refers to: what a forge would make.
    pub(crate) merge: CommitId,
    /// The step that any such merge is.
    pub(crate) step: StepId,
    /// `M path` for each changed file.
    pub(crate) changes: Vec<String>,
}

/// A statement that was signed and stored.
pub(crate) struct Published {
    pub(crate) signed: SignedStatement,
    pub(crate) principal: PrincipalName,
    /// Full name of the ref that carries it.
    pub(crate) name: String,
    /// Whether the remote has it.
    pub(crate) pushed: bool,
}

impl Desk {
    /// Fetches the branch and the statements that there are, and judges.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let checkout = Checkout::open(folder)?;
        let repository = Repository::open(checkout.folder(), None)?;
        let branch = repository.introduction.deploy_ref.to_string();
        let remote = checkout.git(&["remote", "get-url", "origin"]).is_ok();
        if remote {
            checkout.git(&["fetch", "--quiet", "origin", "+refs/cairn/*:refs/cairn/*", &branch])?;
        }
        let tip = if remote { fetched_tip(&checkout, &branch)? } else { checkout.commit_of(&branch)? };
        let judgement = repository.judge(Some(tip.as_str()), true)?;
        let Some(state) = judgement.state.clone() else {
            bail!("the branch cannot be judged from this checkout's introduction; run `cairnctl verify`");
        };
        let policy = judgement.policy.clone().context("a branch with an accepted step has a policy")?;
        Ok(Desk { checkout, repository, judgement, state, policy, remote })
    }

    /// The remote's branch must be accepted before anybody builds on it.
    pub(crate) fn require_accepted(&self) -> Result<()> {
        match &self.judgement.refusal {
            None => Ok(()),
            Some(refusal) => bail!("machines refuse the branch as it is: {refusal}\nnext: cairnctl repair"),
        }
    }

    /// What merging a commit into the branch would be.
    pub(crate) fn propose(&self, revision: &str) -> Result<Proposal> {
        self.require_accepted()?;
        let commit = self.checkout.commit_of(revision)?;
        let accepted = &self.state.accepted().commit;
        ensure!(commit != *accepted, "{} is accepted already; there is nothing to approve", commit.short());
        let tree = self.merged_tree(accepted, &commit)?;
        let (first, second) = (accepted.to_string(), commit.to_string());
        let merge =
            self.checkout.git(&["commit-tree", "--no-gpg-sign", "-p", &first, "-p", &second, "-m", "x", &tree])?;
        let merge = CommitId::parse(&merge)?;
        let introduction = &self.repository.introduction;
        let content = self.checkout.introduce(&merge, introduction.cluster, introduction.deploy_ref.clone())?;
        let changes = self.checkout.git(&["diff", "--no-renames", "--name-status", &first, merge.as_str()])?;
        Ok(Proposal {
            commit,
            merge,
            step: next_step(&self.state.accepted().step, &content.tree),
            changes: changes.lines().map(|line| line.replace('\t', " ")).collect(),
        })
    }

    fn merged_tree(&self, accepted: &CommitId, commit: &CommitId) -> Result<String> {
        if self.checkout.git(&["merge-base", "--is-ancestor", accepted.as_str(), commit.as_str()]).is_ok() {
            return self.checkout.git(&["rev-parse", &format!("{commit}^{{tree}}")]);
        }
        let merged = self.checkout.git(&["merge-tree", "--write-tree", accepted.as_str(), commit.as_str()]);
        let merged = merged.with_context(|| {
            format!("{} cannot be merged into the branch as it is now; rebase or merge it first", commit.short())
        })?;
        Ok(merged.lines().next().unwrap_or_default().to_owned())
    }

    /// The key to sign with: the one that was given, or the one that signs this checkout's commits.
    pub(crate) fn key(&self, given: Option<&Path>) -> Result<PathBuf> {
        match given {
            Some(key) => Ok(key.to_owned()),
            None => {
                let key = self.checkout.git(&["config", "user.signingKey"]);
                Ok(key.context("this checkout has no signing key; give one with --ssh-key")?.into())
            }
        }
    }

    /// The principal that a key belongs to by accepted's policy.
    pub(crate) fn principal(&self, key: &Fingerprint) -> Result<PrincipalName> {
        match self.policy.key(key) {
            Some((name, _)) => Ok(name.clone()),
            None => {
                bail!("key {key} is nobody's in trust/ of the accepted step; sign with --ssh-key FILE of one that is")
            }
        }
    }

    /// A key that is there for something else would only be refused by every machine later.
    fn check_use(&self, key: &Fingerprint, statement: &Statement) -> Result<()> {
        let wanted = match statement {
            Statement::Release(_) => Use::Statement,
            Statement::Beacon(_) => Use::Fresh,
            Statement::Recovery(_) => Use::Recovery,
            // Root's keys and the key itself may, whatever else they are for.
            Statement::Revoke(_) => return Ok(()),
        };
        let Some((name, uses)) = self.policy.key(key) else { return Ok(()) };
        let words: Vec<_> = uses.iter().map(|one| one.as_str()).collect();
        let (has, word) = (words.join(", "), wanted.as_str());
        ensure!(
            uses.contains(&wanted),
            "{name}'s key {key} is for {has} and not for {word}; sign with --ssh-key FILE of one that is, or let root add `use \"{word}\"`"
        );
        Ok(())
    }

    /// Signs a statement, stores it, and pushes it. `about` is the first part of the ref's name: a step or a key.
    pub(crate) fn publish(&self, key: &Path, statement: &Statement, about: &str, push: bool) -> Result<Published> {
        let fingerprint = ssh_fingerprint(signing::public_key(key)?.key_data());
        let principal = self.principal(&fingerprint)?;
        self.check_use(&fingerprint, statement)?;
        let body = statement.body();
        let armour = signing::sign(key, statement.namespace(), body.as_bytes())?;
        let signed = SignedStatement::join(&body, &armour)?;
        ensure!(
            signed.touched() != Some(false),
            "NoTouch: the hardware key signed without being touched, which no machine takes; sign again and touch it when it blinks"
        );
        let about: String = about.chars().take(16).collect();
        let name = format!("{}{about}-{principal}", statement.refs());
        let blob = self.checkout.store(signed.text().as_bytes())?;
        self.checkout.git(&["update-ref", &name, &blob])?;
        let pushed = push && self.remote;
        if pushed {
            self.checkout.git(&["push", "--quiet", "origin", &format!("+{name}:{name}")])?;
        }
        Ok(Published { signed, principal, name, pushed })
    }

    /// Makes the merge of a proposal, signed, with every statement about it as a trailer, and judges it.
    pub(crate) fn merge(&self, proposal: &Proposal, key: &Path) -> Result<(CommitId, Judgement)> {
        let introduction = &self.repository.introduction;
        let subject = self.checkout.git(&["log", "-1", "--format=%s", proposal.commit.as_str()])?;
        let mut message = format!("Release {}: {subject}\n\n", proposal.commit.short());
        message.push_str(&target_line(&introduction.cluster, &introduction.deploy_ref));
        message.push('\n');
        for signed in self.repository.statements()? {
            if matches!(signed.statement(), Statement::Release(release) if release.step == proposal.step) {
                message.push_str(&format!("{RELEASE_TRAILER}: {}\n", signed.to_trailer()));
            }
        }
        let key = format!("user.signingKey={}", std::path::absolute(key)?.display());
        let tree = format!("{}^{{tree}}", proposal.merge);
        let (first, second) = (self.state.accepted().commit.to_string(), proposal.commit.to_string());
        let made = self.checkout.git(&[
            "-c",
            &key,
            "commit-tree",
            "-S",
            "-p",
            &first,
            "-p",
            &second,
            "-m",
            &message,
            &tree,
        ])?;
        let judgement = self.repository.judge(Some(&made), true)?;
        Ok((CommitId::parse(&made)?, judgement))
    }

    /// Moves the remote's branch to a commit, or the own one where there is no remote.
    pub(crate) fn push_branch(&self, commit: &CommitId) -> Result<()> {
        let branch = &self.repository.introduction.deploy_ref;
        if self.remote {
            self.checkout.git(&["push", "--quiet", "origin", &format!("{commit}:{branch}")])?;
        }
        Ok(())
    }
}

/// Where the remote's branch was just now: `FETCH_HEAD` lists every ref of the last fetch.
fn fetched_tip(checkout: &Checkout, branch: &str) -> Result<CommitId> {
    let short = branch.trim_start_matches("refs/heads/");
    let listed = checkout.git(&["ls-remote", "origin", branch])?;
    let id =
        listed.split_whitespace().next().with_context(|| format!("the remote has no branch {short}; push it first"))?;
    Ok(CommitId::parse(id)?)
}
