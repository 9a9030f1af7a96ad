//! Arguments of the commands that change a machine's operating system image, and of the one that checks it.

use clap::{Args, Subcommand};
use init_boot::tpm::{Pcr, PcrValue};
use std::path::PathBuf;

/// Upgrade a machine's operating system image
///
/// The image is tried: the machine restarts into it, and it is kept once the machine is healthy. Otherwise the machine returns to the
/// image from before by itself and says why. Once the machine took the wish, this computer is not needed any more.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Upgrade {
    /// An artefact: a file, which is sent, or an http(s) URL, which the machine fetches
    #[arg(long, value_name = "FILE|URL", required_unless_present = "retry")]
    pub(crate) image: Option<String>,
    /// Try the image that the machine's document names once more, though it failed
    #[arg(long, conflicts_with = "image")]
    pub(crate) retry: bool,
    #[command(flatten)]
    pub(crate) trying: Trying,
    #[command(subcommand)]
    pub(crate) command: Option<UpgradeCommand>,
}

/// How an image is tried.
#[derive(Debug, Args)]
pub(crate) struct Trying {
    /// Seconds from the kernel's start within which the machine must be healthy: 20 to 3600 [default: 300]
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    pub(crate) deadline: u64,
    /// Restart without a permit from the rest of the cluster; needs access admin
    #[arg(long)]
    pub(crate) without_permit: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Show what runs, what an upgrade does, and how the last one ended
    Status,
}

/// Go back to the image in the other slot, if it proved itself on this machine and is not below the floor
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) trying: Trying,
}

/// Check by the machine's TPM which image started and which commit is applied
///
///   cairnctl attest --image cairn-0.1.0-cloud.artefact --commit main
///
/// The TPM signs its registers with a nonce that was drawn here. What is not given is shown and not compared. PCR 4 and 7 show boot loader
/// and Secure Boot's keys: note them once while the machine is known to be good, and pin them with --pcr. Exit code 1 when anything differs.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Attest {
    /// The artefact, or the UKI, that should run
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// The commit that should be applied
    #[arg(long, value_name = "COMMIT")]
    pub(crate) commit: Option<String>,
    /// A register that must have this value; may be given again
    #[arg(long, value_name = "N=HEX", value_parser = crate::commands::pinned)]
    pub(crate) pcr: Vec<(Pcr, PcrValue)>,
}
