//! Arguments of the commands about the repository: judging, checking out, signing, and acting fast.

use clap::Args;
use gitsync_verify::statement::Intent;
use jiff::Timestamp;
use machined_ids::PrincipalName;
use std::path::PathBuf;

/// Judge a repository as a machine would: every step, and the first refusal with what to do about it
///
/// Runs the machines' own verifier on a checkout or a bare repository and needs neither a cluster nor a network. Objects are
/// read and hashed again; replace refs, grafts and git's own opinion of signatures do not count.
///
///   cairnctl verify                                     the deploy branch of this checkout
///   cairnctl verify . --commit HEAD                     what is checked out, before it is pushed or merged
///   cairnctl verify --commit HEAD --applied origin/main what it would delete, judged by the rules' budgets
///   cairnctl verify repo.git --introduction FILE -o json
///
///   cairnctl verify --at 2026-12-24T18:00:00Z           the branch as a machine would see it then
///
/// Where the policy asks for freshness, the beacons under refs/cairn/fresh/ are judged as well (git fetch origin
/// '+refs/cairn/*:refs/cairn/*'); --commit leaves that out of the exit code, because no source has such a commit yet.
///
/// Exit code: 0 accepted, 1 refused, 2 cannot tell (no introduction, a shallow clone, a newer format), 3 accepted and not
/// known to be fresh (SourceStale, SourceWithheld, FreshnessUnproven).
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Verify {
    /// A checkout or a bare repository
    #[arg(value_name = "REPO", default_value = ".")]
    pub(crate) repository: PathBuf,
    /// The introduction to start from [default: the one that `init` or `clone` kept in the repository]
    #[arg(long, value_name = "FILE")]
    pub(crate) introduction: Option<PathBuf>,
    /// Branch to judge [default: the introduction's deploy ref]
    #[arg(long = "ref", value_name = "REF", conflicts_with = "commit")]
    pub(crate) branch: Option<String>,
    /// Commit to judge instead of a branch
    #[arg(long, value_name = "COMMIT")]
    pub(crate) commit: Option<String>,
    /// The commit that runs now: show what would be deleted, and judge it by the rules' budgets
    #[arg(long, value_name = "COMMIT")]
    pub(crate) applied: Option<String>,
    /// Judge as if somebody stood at the machine: a recovery does not wait for its delay
    #[arg(long)]
    pub(crate) present: bool,
    /// Judge as a machine would whose clock shows this time [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
}

/// Tell a machine that it may move on from this commit, when its TPM says that an old copy of its disk was put back
///
/// Run it in a checkout that you know to be up to date: the commit is judged here first, and from then on the machine takes only what follows
/// it. Needs the right `admin`.
#[derive(Debug, Args)]
pub(crate) struct Vouch {
    /// The newest commit that the machine can have accepted [default: the deploy ref]
    pub(crate) commit: Option<String>,
}

/// Get a checkout of a cluster's repository: signing, hook, introduction and context set up
///
///   cairnctl clone https://git.example.org/demo.git --ssh-key ~/.ssh/id_ed25519 --introduction demo.json
///
/// Without --introduction the commit that brought the cluster's id is believed, and its SHA-256 shown to be compared.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Clone {
    /// What `git clone` takes
    pub(crate) url: String,
    /// Folder to make [default: the last part of the URL]
    pub(crate) folder: Option<PathBuf>,
    /// Your SSH key: the private key's file, or the public key's when an agent or a hardware key holds the private one
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: PathBuf,
    /// Introduction to judge from, as `cairnctl introduction` of somebody whom you trust wrote it
    #[arg(long, value_name = "FILE")]
    pub(crate) introduction: Option<PathBuf>,
    /// Your name, while trust/ does not have your key yet
    #[arg(long)]
    pub(crate) name: Option<PrincipalName>,
}

/// Put the branch right after a commit that machines refuse
///
/// Makes a signed merge whose first parent is the newest accepted commit and whose second is the refused tip, so that nothing
/// has to be force-pushed on a protected branch, and pushes it. Its files are those of the accepted commit.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// The refused tip [default: the branch as the remote has it]
    #[arg(long, value_name = "COMMIT")]
    pub(crate) tip: Option<String>,
    /// Take over the files of the refused tip: you approve them with your signature
    #[arg(long)]
    pub(crate) keep_content: bool,
    /// Make the commit but do not push it
    #[arg(long)]
    pub(crate) no_push: bool,
    /// Your checkout of the repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) checkout: PathBuf,
}

/// What every command that signs takes.
#[derive(Debug, Args)]
pub(crate) struct Signing {
    /// Key to sign with: the private key's file, or the public key's when an agent or a hardware key holds the private one
    /// [default: the one that signs this checkout's commits]
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// Sign and store, but do not push
    #[arg(long)]
    pub(crate) no_push: bool,
    /// Your checkout of the repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) checkout: PathBuf,
}

/// Approve a commit: sign that it may become the next step, whoever merges it
///
/// The statement names the step (the content on top of what is accepted), not the commit: it holds whoever presses the merge
/// button, and for nothing else. It lies under refs/cairn/approvals/ of the git host.
///
///   cairnctl approve feature              what merging branch feature would change
///   cairnctl approve HEAD --intent breakglass --not-after 2026-01-31T18:00:00Z
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Approve {
    /// The commit or branch
    #[arg(value_name = "COMMIT", default_value = "HEAD")]
    pub(crate) commit: String,
    /// release, or breakglass: new content in an emergency, by the role that the policy made for it
    #[arg(long, default_value = "release", value_parser = intent)]
    pub(crate) intent: Intent,
    /// From when on it approves nothing new; break-glass needs one
    #[arg(long, value_name = "TIME")]
    pub(crate) not_after: Option<Timestamp>,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

fn intent(word: &str) -> Result<Intent, String> {
    word.parse().map_err(|()| "release or breakglass".to_owned())
}

/// Sign which step is the newest, so that a git host cannot keep it back unnoticed
///
/// For a robot that runs every few minutes with a key for `fresh`, and is told the newest step by whoever releases.
#[derive(Debug, Args)]
pub(crate) struct Beacon {
    /// The step that the releaser says is the newest: at least 8 hex digits. Another one on the host is not signed
    #[arg(long, value_name = "STEP")]
    pub(crate) step: Option<String>,
    /// How long it is believed, in minutes; not longer than the policy allows
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) minutes: u16,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// Sign that a key counts for nothing more
///
/// By as many of root as its threshold asks for, each with this command, or by the key itself.
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The key: its fingerprint (SHA256:...), or the file of its public key
    pub(crate) key: String,
    /// The last step at which it was still in its owner's hands [default: the newest accepted one]
    #[arg(long, value_name = "STEP")]
    pub(crate) last_good: Option<u64>,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// Sign, with recovery's keys, that the history begins again at a commit
///
/// Only recovery's own keys can, as many as its threshold asks for: the one step that is not fast-forward. Machines wait for the
/// policy's delay, or take it at once when somebody stands at them.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The commit to begin with: a whole tree with a `trust/` of people who still have their keys
    pub(crate) commit: String,
    /// The epoch that begins [default: the one after the present]
    #[arg(long)]
    pub(crate) epoch: Option<u64>,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// What every override says.
#[derive(Debug, Args)]
pub(crate) struct Overriding {
    /// How long, in hours: at most a week
    #[arg(long, value_name = "HOURS", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=168))]
    pub(crate) hours: u8,
    /// Why, for those who see it in status and logs
    #[arg(long)]
    pub(crate) reason: String,
}

/// Keep what a machine runs, whatever is pushed, for a while
///
/// New commits are judged and accepted, and wait. People, keys and policy follow accepted all the same.
#[derive(Debug, Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    pub(crate) overriding: Overriding,
}

/// Make a machine run an earlier accepted step for a while
///
/// Workloads and machine settings go back to it; people, keys and policy do not.
#[derive(Debug, Args)]
pub(crate) struct Pin {
    /// The accepted commit to run; short in a checkout, whole elsewhere
    #[arg(required_unless_present = "step")]
    pub(crate) commit: Option<String>,
    /// Its number instead, as `cairnctl commits` shows it
    #[arg(long, value_name = "N", conflicts_with = "commit")]
    pub(crate) step: Option<u64>,
    #[command(flatten)]
    pub(crate) overriding: Overriding,
}

/// Push the branch and its statements, or carry them to a machine past a dead git host
///
///   cairnctl push                     to the git host
///   cairnctl push --bundle            straight to a machine, which judges it as it judges what a mirror serves
///   cairnctl push --bundle=FILE       a bundle that somebody brought: git bundle create FILE main --glob='refs/cairn/*'
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Push {
    /// Deliver a git bundle to a machine: of this checkout, or this file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub(crate) bundle: Option<Option<PathBuf>>,
    /// Your checkout of the repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) checkout: PathBuf,
}
