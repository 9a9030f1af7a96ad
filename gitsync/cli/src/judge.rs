//! Judges a repository on disk as a machine would: same verifier, same plan, same words, in this process.
//!
//! Called by `cairnctl verify`, by everything that first has to know what is accepted, and so by people's CI. It never asks
//! git for anything: objects are read and hashed again, replace refs and grafts do not count, nothing is checked out.

use anyhow::{Context as _, Result, bail};
use gitsync_fetch::local;
use gitsync_plan::DesiredState;
use gitsync_verify::{
    Clock, Commit, Freshness, Introduction, Offer, Policy, Presence, Reason, Refusal, SignedStatement, Statement,
    TrustState, Verified, freshness, introduce, verify,
};
use jiff::Timestamp;
use machined_ids::{CommitId, Fingerprint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a checkout keeps the introduction, inside its git folder.
pub(crate) const INTRODUCTION_FILE: &str = "cairn-introduction.json";

/// A repository with the introduction that its judgement starts from.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) folder: PathBuf,
    pub(crate) introduction: Introduction,
}

/// What a judgement of a tip came to.
#[derive(Debug)]
pub(crate) struct Judgement {
    /// The commit that was judged; `None` when the objects could not even be taken in.
    pub(crate) tip: Option<CommitId>,
    /// What a machine would remember that had seen nothing but this; `None` when it would not have begun.
    pub(crate) state: Option<TrustState>,
    /// Steps that passed, oldest first.
    pub(crate) steps: Vec<Verified<Commit>>,
    /// The policy in the newest step that passed; `None` when none did.
    pub(crate) policy: Option<Policy>,
    /// What the tip would make a machine do, when all of it is in order.
    pub(crate) desired: Option<DesiredState>,
    /// The first refusal.
    pub(crate) refusal: Option<Refusal>,
    /// How fresh a machine would know the tip to be that had seen every beacon in time; `None` when it would not have begun.
    pub(crate) freshness: Option<Freshness>,
}

/// The answers, as exit codes of `cairnctl verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A machine would run this.
    Accepted = 0,
    /// A machine would refuse this.
    Refused = 1,
    /// Something is missing here that a machine would have.
    Unknown = 2,
    /// A machine would run this, and cannot know whether the source keeps something newer back.
    NotFresh = 3,
}

impl Verdict {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Verdict::Accepted => "accepted",
            Verdict::Refused => "refused",
            Verdict::Unknown => "unknown",
            Verdict::NotFresh => "not fresh",
        }
    }
}

/// Keys whose newest beacon is looked at: many more than sign beacons for one cluster.
const MAX_BEACON_KEYS: usize = 16;

impl Repository {
    /// Opens the repository that contains `folder`, with an introduction from a file or from where `cairnctl` keeps it.
    pub(crate) fn open(folder: &Path, introduction: Option<&Path>) -> Result<Self> {
        let start = std::path::absolute(folder)?;
        let Some(found) = start.ancestors().find(|folder| is_repository(folder)) else {
            bail!(
                "{} is in no git repository; give the folder of a checkout or of a bare repository",
                folder.display()
            );
        };
        let file = match introduction {
            Some(file) => file.to_owned(),
            None => git_folder(found)?.join(INTRODUCTION_FILE),
        };
        let bytes = std::fs::read(&file).with_context(|| {
            format!(
                "reading the introduction {}; give the file that whoever made the cluster has: --introduction FILE",
                file.display()
            )
        })?;
        Ok(Repository { folder: found.to_owned(), introduction: Introduction::from_json(&bytes)? })
    }

    /// Judges a revision now; `None` is the deploy ref. With `presence` a recovery does not wait.
    pub(crate) fn judge(&self, revision: Option<&str>, presence: bool) -> Result<Judgement> {
        self.judge_at(revision, presence, Timestamp::now())
    }

    /// Judges a revision as a machine would whose clock shows `at`.
    pub(crate) fn judge_at(&self, revision: Option<&str>, presence: bool, at: Timestamp) -> Result<Judgement> {
        let revision = revision.unwrap_or(self.introduction.deploy_ref.as_str());
        let stop_at = std::slice::from_ref(&self.introduction.commit);
        let (tip, objects) = match local::read(&self.folder, revision, stop_at) {
            Ok(read) => read,
            Err(local::LocalError::Refused(refusal)) => return Ok(Judgement::refused(None, refusal)),
            Err(error @ (local::LocalError::Open { .. } | local::LocalError::Revision { .. })) => {
                return Err(error.into());
            }
        };
        let statements = self.statements()?;
        Ok(match introduce(&self.introduction, &objects) {
            Ok((state, first)) => {
                let clock = Clock::at(at);
                let presence = if presence { Presence::AsIf } else { Presence::None };
                let offer = Offer { statements: &statements, clock, presence, ..Offer::of(&tip, &objects) };
                Judgement::of(state, first, &offer)
            }
            Err(refusal) => Judgement::refused(Some(tip), refusal),
        })
    }

    /// The statements that the repository has, as a machine would take them from a host: what cannot be read is left out.
    pub(crate) fn statements(&self) -> Result<Vec<SignedStatement>> {
        let blobs = local::statements(&self.folder)?;
        Ok(blobs.iter().filter_map(|(_, bytes)| SignedStatement::parse(bytes).ok()).collect())
    }
}

impl Judgement {
    const fn refused(tip: Option<CommitId>, refusal: Refusal) -> Self {
        let (state, policy, desired, freshness) = (None, None, None, None);
        Judgement { tip, state, steps: Vec::new(), policy, desired, refusal: Some(refusal), freshness }
    }

    /// From the introduction to the tip, and what the tip says when all of it passed.
    fn of(mut state: TrustState, first: Verified<Commit>, offer: &Offer<'_>) -> Self {
        let (mut steps, mut refusal) = (Vec::new(), None);
        // A recovery is judged by keys that a step of the old epoch may have brought: those steps come first.
        for pass in [Offer { presence: Presence::None, ..*offer }, *offer] {
            match verify(&state, &pass) {
                Ok(chain) => {
                    state.learn(&chain);
                    steps.extend(chain.steps);
                    refusal = chain.refused;
                }
                Err(refused) => refusal = Some(refused),
            }
            if refusal.is_none() || offer.presence == Presence::None {
                break;
            }
        }
        let last = steps.last().unwrap_or(&first);
        let policy = Some(last.policy().clone());
        let mut desired = None;
        if refusal.is_none() {
            match gitsync_plan::render(last, offer.objects) {
                Ok(rendered) => desired = Some(rendered),
                Err(refused) => refusal = Some(refused),
            }
        }
        let freshness = Some(freshness_of(&state, offer));
        Judgement { tip: Some(offer.tip.clone()), state: Some(state), steps, policy, desired, refusal, freshness }
    }

    /// What this means for a machine.
    pub(crate) fn verdict(&self) -> Verdict {
        match self.refusal.as_ref().map(|refusal| refusal.reason) {
            None => Verdict::Accepted,
            // A shallow clone, or an older cairnctl: the machine may know better.
            Some(Reason::MissingObject | Reason::NewerState) => Verdict::Unknown,
            Some(_) => Verdict::Refused,
        }
    }

    /// As [`Judgement::verdict`], for a branch that a source delivers: what is not known to be fresh is told apart.
    pub(crate) fn verdict_of_source(&self) -> Verdict {
        match (self.verdict(), self.freshness.as_ref().and_then(Freshness::refusal)) {
            (Verdict::Accepted, Some(_)) => Verdict::NotFresh,
            (verdict, _) => verdict,
        }
    }
}

/// How fresh what was accepted is, to a machine that saw the newest beacon of each key when that was made. A beacon that has ended
/// is worth nothing to who sees it only now, so those are judged at their own time, which moves nothing else here.
fn freshness_of(state: &TrustState, offer: &Offer<'_>) -> Freshness {
    let mut newest: BTreeMap<&Fingerprint, Timestamp> = BTreeMap::new();
    for signed in offer.statements {
        let Statement::Beacon(beacon) = signed.statement() else { continue };
        if offer.clock.now.is_some_and(|now| beacon.issued <= now) {
            let latest = newest.entry(signed.key()).or_insert(beacon.issued);
            *latest = beacon.issued.max(*latest);
        }
    }
    let mut times: Vec<Timestamp> = newest.into_values().take(MAX_BEACON_KEYS).collect();
    times.sort();
    let (tip, mut seen) = (state.accepted().commit.clone(), state.clone());
    for at in times {
        let then = Offer { tip: &tip, clock: Clock::at(at), presence: Presence::None, ..*offer };
        // A refusal here is about the tip, which was judged already.
        if let Ok(chain) = verify(&seen, &then) {
            seen.learn(&chain);
        }
    }
    freshness(&seen, offer.clock)
}

fn is_repository(folder: &Path) -> bool {
    folder.join(".git").exists() || (folder.join("HEAD").is_file() && folder.join("objects").is_dir())
}

/// The folder that all work trees of a repository share.
fn git_folder(repository: &Path) -> Result<PathBuf> {
    let dot_git = repository.join(".git");
    if dot_git.is_dir() {
        return Ok(dot_git);
    }
    if !dot_git.exists() {
        return Ok(repository.to_owned());
    }
    // A work tree or a submodule: a file that names the folder, which names the shared one.
    let text = std::fs::read_to_string(&dot_git).with_context(|| format!("reading {}", dot_git.display()))?;
    let own = repository.join(text.trim_end().strip_prefix("gitdir: ").unwrap_or_default());
    match std::fs::read_to_string(own.join("commondir")) {
        Ok(shared) => Ok(own.join(shared.trim_end())),
        Err(_) => Ok(own),
    }
}
