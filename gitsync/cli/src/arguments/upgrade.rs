//! Arguments of the commands that change a machine's operating system image.

use clap::{Args, Subcommand};

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
