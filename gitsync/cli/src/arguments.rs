//! The command line: every command with a help text that teaches it.

mod trust;
mod upgrade;

pub(crate) use trust::{
    Approve, Beacon, Clone, Hold, Overriding, Pin, Push, Recover, Repair, Revoke, Signing, Verify, Vouch,
};

pub(crate) use upgrade::{Attest, Rollback, Upgrade, UpgradeCommand};

use clap::{Args, Parser, Subcommand, ValueEnum};
use machined_config::{Insistence, Role};
use machined_ids::{ClassName, Fingerprint, MachineName, PrincipalName};
use std::path::PathBuf;
use std::process::ExitCode;

/// Looks after Cairn machines and the signed repository that they follow.
///
/// A new cluster, from an empty folder to kubectl:
///   cairnctl init demo --name ada --ssh-key ~/.ssh/id_ed25519 --endpoint 192.0.2.10
///   cairnctl enroll cp1 --address 192.0.2.10 --fingerprint SHA256:... --repository URL
///   cairnctl login
///   cairnctl kubeconfig
#[derive(Debug, Parser)]
#[command(name = "cairnctl", version, verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Folder of contexts and logins
    #[arg(long, global = true, env = "CAIRN_CONFIG", value_name = "DIR")]
    pub(crate) config: Option<PathBuf>,
    /// Context to use instead of the current one
    #[arg(long, global = true, env = "CAIRN_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Machine to ask instead of the context's first
    #[arg(long, short, global = true, value_name = "NAME")]
    pub(crate) machine: Option<MachineName>,
    /// Form of the answer
    #[arg(long, short, global = true, value_enum, default_value_t = Form::Text)]
    pub(crate) output: Form,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Text,
    /// For programs: one JSON document, or one a line for streams
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new configuration repository: keys, policy, hook and an example, signed
    Init(Init),
    Clone(Clone),
    /// Write the introduction of a checkout: for a colleague, a machine or CI
    Introduction {
        /// Your checkout of the repository
        #[arg(long, value_name = "DIR", default_value = ".")]
        checkout: PathBuf,
    },
    Repair(Repair),
    Approve(Approve),
    /// Approve a commit, merge it with every approval that there is, and move the branch
    ///
    /// The merge's first parent is the accepted commit; the approvals travel in its message. Nothing moves while one is missing.
    Release(Approve),
    Beacon(Beacon),
    Revoke(Revoke),
    Recover(Recover),
    Hold(Hold),
    Pin(Pin),
    /// End the hold or pin of a machine
    Resume,
    Vouch(Vouch),
    Push(Push),
    /// Bring a machine that waits in maintenance mode into the cluster
    Enroll(Enroll),
    Verify(Verify),
    /// Print a seed for `cairn-image build --seed`, so that machines of that image need no introduction
    Seed(Seed),
    /// Log in to the current context with your SSH key
    Login(Login),
    /// Forget the login of the current context
    Logout,
    /// Show a machine: name, addresses, identity, applied commit, health
    Status,
    /// Show the log of a service
    Logs(Logs),
    /// Show the kernel's log
    Dmesg {
        /// Go on showing new lines
        #[arg(long, short)]
        follow: bool,
    },
    /// Show what happened on a machine
    Events {
        /// Go on showing new events
        #[arg(long, short)]
        follow: bool,
        /// Past events to show first
        #[arg(long, default_value_t = 50)]
        tail: u32,
    },
    /// List services, or restart one
    Service {
        #[command(subcommand)]
        command: Option<ServiceCommand>,
    },
    /// Show a machine's memory and its processes, the largest first
    Processes,
    /// Show the commits that a machine has judged, newest first
    Commits {
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    Attest(Attest),
    /// Look after a machine's encrypted disk
    Disk {
        #[command(subcommand)]
        command: DiskCommand,
    },
    Upgrade(Upgrade),
    Rollback(Rollback),
    /// Restart a machine
    ///
    /// The machine asks the rest of the cluster for a permit: it is cordoned and drained first, and goes when those that are left can
    /// decide. Once it took the wish, this computer is not needed any more; `cairnctl events` shows what it waits for.
    Reboot(Leave),
    /// Power a machine off
    ///
    /// As `cairnctl reboot`, with a permit from the rest of the cluster.
    Shutdown(Leave),
    Reset(Reset),
    /// Write a kubeconfig whose user is your login
    Kubeconfig(Kubeconfig),
    /// Let the people of your checkout log in to `controlplane dev` on this computer
    Dev(Dev),
    /// Show, list and choose contexts
    Context {
        #[command(subcommand)]
        command: Option<ContextCommand>,
    },
    /// Write the versions of this tool and of the machine
    Version,
    /// Write a completion script for your shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Hand kubectl the login of a context (kubectl calls this)
    #[command(hide = true)]
    Credential,
}

impl Command {
    /// The exit code when the command could not do what it is for: "cannot tell" is not "refused".
    pub(crate) fn failure(&self) -> ExitCode {
        if matches!(self, Command::Verify(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Make a recovery key, in place of the one before, and show it this one time
    ///
    /// Whoever types it at the machine's console opens the disk when the TPM does not; on another computer `cryptsetup open` takes it.
    /// It is kept nowhere else: write it down, and keep it away from the machine. Needs a role with access admin.
    RecoveryKey,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Folder to make
    pub(crate) folder: PathBuf,
    /// Your name in trust/, as policy and logs will show it
    #[arg(long)]
    pub(crate) name: PrincipalName,
    /// Your SSH key: the private key's file, or the public key's when an agent or a hardware key holds the private one
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: PathBuf,
    /// Name of the cluster [default: the folder's name]
    #[arg(long)]
    pub(crate) cluster: Option<MachineName>,
    /// The machine that may bootstrap the cluster
    #[arg(long, default_value = "cp1")]
    pub(crate) bootstrap: MachineName,
    /// Address or name at which the cluster's APIs will be found; may be given several times
    #[arg(long, value_name = "HOST", required_unless_present = "fork")]
    pub(crate) endpoint: Vec<String>,
    /// FOLDER is a checkout of another cluster's repository: begin a new cluster from it, with an id of its own
    #[arg(long, conflicts_with_all = ["endpoint", "bootstrap"], requires = "cluster")]
    pub(crate) fork: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Your checkout of the repository
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) checkout: PathBuf,
    /// Data folder of `controlplane dev`
    #[arg(long, value_name = "FOLDER", default_value = ".cairn/dev")]
    pub(crate) data: PathBuf,
    /// Address and port at which it serves the Kubernetes API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6443")]
    pub(crate) listen: String,
    /// Name of the context to make
    #[arg(long, default_value = "dev")]
    pub(crate) name: MachineName,
}

#[derive(Debug, Args)]
pub(crate) struct Enroll {
    /// The machine's name; its document becomes machines/NAME.kdl
    pub(crate) name: MachineName,
    /// Where the machine API answers, as its console shows it: address or address:port
    #[arg(long)]
    pub(crate) address: String,
    /// The identity fingerprint that the machine's console shows
    #[arg(long)]
    pub(crate) fingerprint: Fingerprint,
    /// The machine's part in the cluster: control-plane or worker
    #[arg(long, default_value = "control-plane")]
    pub(crate) role: Role,
    /// The class in machines/ that it belongs to
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<ClassName>,
    /// URL from which the machine fetches the repository; may be given several times
    #[arg(long, value_name = "URL", required_unless_present = "seeded")]
    pub(crate) repository: Vec<String>,
    /// The machine's image carries a seed that introduces it: only name its identity in the repository
    #[arg(long, conflicts_with = "repository")]
    pub(crate) seeded: bool,
    /// Your checkout of the repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) checkout: PathBuf,
    /// Where the Kubernetes API will be reached [default: port 6443 of the machine's address]
    #[arg(long, value_name = "URL")]
    pub(crate) kubernetes: Option<String>,
    /// Commit the machine's document but do not push it
    #[arg(long)]
    pub(crate) no_push: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Seed {
    /// URL from which the machines fetch the repository; may be given several times
    #[arg(long, value_name = "URL", required = true)]
    pub(crate) repository: Vec<String>,
    /// Insist on encrypted disks: "required" (in the TPM, without one with the other machines' help) or "tpm" (in no other way)
    #[arg(long, value_name = "HOW")]
    pub(crate) encryption: Option<Insistence>,
    /// Your checkout of the repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) checkout: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// SSH key to sign with [default: the one of the last login or of `init`]
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// How long the login lives: at most 12 hours
    #[arg(long, value_name = "HOURS", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=12))]
    pub(crate) hours: u8,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The service; `cairnctl service` lists them
    pub(crate) service: String,
    /// Go on showing new lines
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only the last lines; 0 for all that is kept
    #[arg(long, default_value_t = 0)]
    pub(crate) tail: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Kubeconfig {
    /// File to write; an existing one keeps its other entries
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List services with state, restarts and memory
    List,
    /// Stop a service and let the machine start it again
    Restart {
        /// The service
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List contexts
    List,
    /// Make another context the current one
    Use {
        /// The context
        name: String,
    },
}

/// Erase a machine: volumes, identity, everything but its seed
///
/// As `cairnctl reboot`, with a permit from the rest of the cluster; after the restart it has forgotten its cluster and its key, and
/// comes up as on its first day. A control-plane machine has to leave the store first: take its file out of machines/.
/// It needs access admin, and is refused while an upgrade runs.
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// The name of the machine that is erased; nothing happens unless it calls itself so
    #[arg(long, value_name = "NAME")]
    pub(crate) yes_really: String,
    #[command(flatten)]
    pub(crate) leave: Leave,
}

/// How a machine leaves.
#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// Go at once, without permit and without draining, and say why; needs access admin, and stands in the audit log
    #[arg(long, value_name = "REASON", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) r#override: Option<String>,
}
