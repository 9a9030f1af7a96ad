//! Our own kinds. gitsync alone writes them (`gitsync/daemon`, `objects.rs`); what it writes is shown as it is.

use serde_json::{Value, json};

use super::PLAIN;
use crate::kind::{Generation, Strategy};
use crate::object::{Object, text};
use crate::table::{AGE, NAME, Printer, age, column};

/// Commits of the configuration repository.
pub static COMMIT: Strategy = Strategy {
    generation: Generation::Spec,
    printer: Printer {
        columns: &[
            NAME,
            column("State", "What became of the commit: accepted, applied, healthy, superseded, reverted or refused."),
            column("Reason", "Why it was refused; empty otherwise."),
            column("Signer", "Who signed the commit."),
            column("Subject", "First line of its message."),
            AGE,
            column("Message", "The reason in full.").wide(),
        ],
        row: |commit, now| {
            vec![
                json!(commit.name()),
                of(commit, &["status", "state"]),
                of(commit, &["status", "reason"]),
                of(commit, &["status", "signer"]),
                of(commit, &["spec", "subject"]),
                age(commit, now),
                of(commit, &["status", "message"]),
            ]
        },
    },
    ..PLAIN
};

/// Machines of the cluster.
pub static MACHINE: Strategy = Strategy {
    generation: Generation::Spec,
    printer: Printer {
        columns: &[
            NAME,
            column("Role", "What the machine is for."),
            column("Commit", "The commit that describes the machine."),
            AGE,
            column("Identity", "Fingerprint of the machine's key.").wide(),
        ],
        row: |machine, now| {
            vec![
                json!(machine.name()),
                of(machine, &["spec", "role"]),
                of(machine, &["status", "commit"]),
                age(machine, now),
                of(machine, &["spec", "identity"]),
            ]
        },
    },
    ..PLAIN
};

fn of(object: &Value, path: &[&str]) -> Value {
    json!(text(object, path))
}
