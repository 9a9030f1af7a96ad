//! `cluster.kdl` and `machines/*.kdl` of a commit.

use gitsync_verify::{Files, Mistake};
use machined_access::{MachineEntry, MachineRole};
use machined_config::{ClusterConfig, MachineConfig, Machines, Member, Problems, Role, RolloutConfig};
use machined_ids::{ClassName, ClusterId, Fingerprint, MachineName};
use std::collections::BTreeMap;

/// The documents that machines read, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDocuments {
    /// The text of `cluster.kdl`.
    pub cluster_text: String,
    /// What it says.
    pub cluster: ClusterConfig,
    /// Machines by name, with what their classes add.
    pub machines: BTreeMap<MachineName, Member>,
    /// How a new image goes through the machines of a class.
    pub classes: BTreeMap<ClassName, RolloutConfig>,
}

impl MachineDocuments {
    /// The machine that an identity key belongs to.
    #[must_use]
    pub fn by_identity(&self, identity: &Fingerprint) -> Option<(&MachineName, &Member)> {
        self.machines.iter().find(|(_, machine)| machine.config.identity == *identity)
    }

    /// The machines as the access table holds them.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<MachineName, MachineEntry> {
        let entry = |config: &MachineConfig| MachineEntry {
            identity: config.identity.clone(),
            role: match config.role {
                Role::ControlPlane => MachineRole::ControlPlane,
                Role::Worker => MachineRole::Worker,
            },
        };
        self.machines.iter().map(|(name, machine)| (name.clone(), entry(&machine.config))).collect()
    }
}

const CLUSTER_FILE: &str = "cluster.kdl";

/// Reads the documents; `None` when there were mistakes. `cluster` is the id that the introduction has.
pub(crate) fn read(files: &Files, cluster: Option<ClusterId>, mistakes: &mut Vec<Mistake>) -> Option<MachineDocuments> {
    let before = mistakes.len();
    let cluster_text = text(files, CLUSTER_FILE, mistakes);
    let config = cluster_text.and_then(|text| take(ClusterConfig::parse(CLUSTER_FILE, text), mistakes));
    if let (Some(config), Some(cluster)) = (&config, cluster)
        && config.id != cluster
    {
        let message = format!("this is cluster {}, and the machines were introduced to {cluster}", config.id);
        mistakes.push(mistake(CLUSTER_FILE, message, "the id of the introduction"));
    }
    let mut texts = Vec::new();
    for (path, _) in files.under("machines/") {
        if !path.ends_with(".kdl") || path.matches('/').count() != 1 {
            mistakes.push(mistake(
                path,
                "machines/ holds only documents of machines and classes",
                "machines/<name>.kdl",
            ));
            continue;
        }
        texts.extend(text(files, path, mistakes).map(|text| (path, text)));
    }
    let machines = take(Machines::read(texts), mistakes);
    let (cluster_text, cluster) = (cluster_text?.to_owned(), config?);
    let Machines { machines, classes } = machines?;
    (mistakes.len() == before).then_some(MachineDocuments { cluster_text, cluster, machines, classes })
}

fn mistake(path: &str, message: impl Into<String>, expected: &str) -> Mistake {
    Mistake { path: path.to_owned(), line: 1, column: 1, message: message.into(), expected: expected.to_owned() }
}

fn text<'a>(files: &'a Files, path: &str, mistakes: &mut Vec<Mistake>) -> Option<&'a str> {
    let text = files.get(path).map(std::str::from_utf8);
    match text {
        Some(Ok(text)) => return Some(text),
        Some(Err(_)) => mistakes.push(mistake(path, "not UTF-8 text", "KDL version 2")),
        None => mistakes.push(mistake(path, "the file is missing", "a file as `cairnctl init` writes it")),
    }
    None
}

fn take<T>(read: Result<T, Problems>, mistakes: &mut Vec<Mistake>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(problems) => {
            mistakes.extend(problems.0.into_iter().map(Mistake::from));
            None
        }
    }
}
