//! What was judged, as objects that `kubectl` shows: `commits.cairn.dev`, `machines.cairn.dev`, an Event for each refusal.

use crate::book::{Fate, Judged};
use crate::cluster::{ClusterError, HOW, MANAGER, Target, kind};
use controlplane_client::{Client, Object, ResourceKind, Selection};
use controlplane_types::rollout::{CanarySpec, MachineSpec, RolloutSpec, WantedImage, WaveSpec};
use gitsync_plan::MachineDocuments;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use machined_config::{Member, RolloutConfig, Wave};
use machined_ids::{ClassName, CommitId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const GROUP: &str = "cairn.dev";
const VERSION: &str = "v1alpha1";

fn commits() -> ResourceKind {
    kind(GROUP, VERSION, "commits", "Commit", false)
}

pub(crate) fn machines() -> ResourceKind {
    kind(GROUP, VERSION, "machines", "Machine", false)
}

/// What this process has written; what is in it needs no writing.
#[derive(Debug, Default)]
pub(crate) struct Published {
    commits: BTreeMap<CommitId, Judged>,
    machines: BTreeMap<String, Value>,
    tidied: bool,
}

impl Published {
    /// Writes what is new.
    ///
    /// # Errors
    /// The first write that was not taken; the next round goes on from it.
    pub(crate) async fn publish(&mut self, client: &Client, target: &Target) -> Result<(), ClusterError> {
        for judged in target.book.iter().rev() {
            if self.commits.get(&judged.commit) == Some(judged) {
                continue;
            }
            write(client, commits(), judged.commit.as_str(), commit_spec(judged), commit_status(judged)).await?;
            tell(client, judged).await?;
            self.commits.insert(judged.commit.clone(), judged.clone());
        }
        self.publish_machines(client, target).await?;
        self.tidy(client, target).await
    }

    async fn publish_machines(&mut self, client: &Client, target: &Target) -> Result<(), ClusterError> {
        let source = &target.desired.source;
        for (name, machine) in &target.desired.documents.machines {
            let spec = json!(machine_spec(&target.desired.documents, machine));
            let status = json!({"commit": source.commit, "seq": source.seq.0, "step": source.step});
            let both = json!({"spec": spec, "status": status});
            if self.machines.get(name.as_str()) != Some(&both) {
                write(client, machines(), name.as_str(), spec, status).await?;
                self.machines.insert(name.to_string(), both);
            }
        }
        Ok(())
    }

    /// Removes objects of commits that the book dropped and of machines that left, once for each process and change.
    async fn tidy(&mut self, client: &Client, target: &Target) -> Result<(), ClusterError> {
        let in_book: BTreeSet<&str> = target.book.iter().map(|judged| judged.commit.as_str()).collect();
        let known: BTreeSet<&str> = target.desired.documents.machines.keys().map(|name| name.as_str()).collect();
        let gone = self.commits.keys().any(|commit| !in_book.contains(commit.as_str()))
            || self.machines.keys().any(|name| !known.contains(name.as_str()));
        if self.tidied && !gone {
            return Ok(());
        }
        delete_others(client, commits(), &in_book).await?;
        delete_others(client, machines(), &known).await?;
        self.commits.retain(|commit, _| in_book.contains(commit.as_str()));
        self.machines.retain(|name, _| known.contains(name.as_str()));
        self.tidied = true;
        Ok(())
    }
}

/// What the cluster's side needs to know of a machine, the disruption gate above all.
fn machine_spec(documents: &MachineDocuments, machine: &Member) -> MachineSpec {
    let of_class =
        |class: &ClassName| documents.machines.values().filter(|one| one.class.as_ref() == Some(class)).count();
    let rollout = machine.class.as_ref().and_then(|class| Some((of_class(class), documents.classes.get(class)?)));
    let rollout = rollout.map(|(count, RolloutConfig { unavailable, waves })| {
        let wave = |wave: &Wave| WaveSpec {
            machines: u32::try_from(wave.until.of(count)).unwrap_or(u32::MAX),
            pause_seconds: seconds(wave.pause),
        };
        RolloutSpec { unavailable: *unavailable, waves: waves.iter().map(wave).collect() }
    });
    let config = &machine.config;
    MachineSpec {
        identity: config.identity.to_string(),
        role: config.role.to_string(),
        class: machine.class.as_ref().map(ToString::to_string),
        image: config.image.as_ref().map(|it| WantedImage { digest: it.digest.to_string(), attempt: it.attempt }),
        canary: config.canary.map(|canary| CanarySpec { pause_seconds: seconds(canary.pause) }),
        rollout,
    }
}

fn seconds(pause: Duration) -> u32 {
    u32::try_from(pause.as_secs()).unwrap_or(u32::MAX)
}

async fn delete_others(client: &Client, kind: ResourceKind, keep: &BTreeSet<&str>) -> Result<(), ClusterError> {
    let api = client.dynamic(kind, None);
    let listed = api.list(&Selection::default()).await?;
    for object in listed.items.iter().filter(|object| !keep.contains(object.name())) {
        api.delete_if_there(object.name(), &DeleteOptions::default()).await?;
    }
    Ok(())
}

async fn write(
    client: &Client,
    kind: ResourceKind,
    name: &str,
    spec: Value,
    status: Value,
) -> Result<(), ClusterError> {
    let head = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name}});
    let with = |field: &str, value: Value| {
        let mut object = head.clone();
        object[field] = value;
        object
    };
    let api = client.dynamic(kind.clone(), None);
    api.apply(name, &with("spec", spec), HOW).await?;
    api.apply_status(name, &with("status", status), HOW).await?;
    Ok(())
}

fn commit_spec(judged: &Judged) -> Value {
    json!({"subject": judged.position.as_ref().map(|position| position.subject.as_str()).unwrap_or_default()})
}

fn commit_status(judged: &Judged) -> Value {
    let record = judged.record();
    json!({
        "state": record.state, "seq": record.seq, "step": record.step, "signer": record.signer, "key": record.key,
        "reason": record.reason, "path": record.path, "rule": record.rule, "message": record.message,
        "judgedAt": record.at,
    })
}

/// One Event for one refusal or revert, however often it is written: its name is made of what it is about.
async fn tell(client: &Client, judged: &Judged) -> Result<(), ClusterError> {
    let (reason, message) = match (judged.fate, &judged.refusal) {
        (Fate::Refused, Some(refusal)) => (refusal.reason.as_str(), refusal.to_string()),
        (Fate::Reverted, _) => ("Reverted", judged.note.clone()),
        (Fate::Refused, None) | (Fate::Accepted | Fate::Applied | Fate::Healthy | Fate::Superseded, _) => return Ok(()),
    };
    let name = format!("{}.{}", judged.commit.short(), reason.to_lowercase());
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Commit", "name": judged.commit},
        "type": "Warning", "reason": reason, "message": cut(&message),
        "source": {"component": MANAGER}, "count": 1,
        "firstTimestamp": judged.at, "lastTimestamp": judged.at,
    });
    client.dynamic(kind("", "v1", "events", "Event", true), Some("default")).apply(&name, &event, HOW).await?;
    Ok(())
}

/// Events carry at most 1024 bytes of message.
fn cut(message: &str) -> String {
    const MAX_EVENT_MESSAGE: usize = 1_024;
    let mut end = message.len().min(MAX_EVENT_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}
