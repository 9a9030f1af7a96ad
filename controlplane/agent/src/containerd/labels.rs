//! What a container's labels say: its place in a pod, and how it ended. The only memory of the agent over restarts.

use crate::runtime::{Container, ContainerId, Exit, Kind, NewContainer, PodKey, State};
use jiff::Timestamp;
use std::collections::HashMap;

pub(super) const POD_UID: &str = "cairn.dev/pod-uid";
pub(super) const STARTED: &str = "cairn.dev/started";
pub(super) const LOG: &str = "cairn.dev/log";
pub(super) const TERMINAL: &str = "cairn.dev/terminal";
pub(super) const OUT_OF_MEMORY: &str = "cairn.dev/out-of-memory";
const POD_NAMESPACE: &str = "cairn.dev/pod-namespace";
const POD_NAME: &str = "cairn.dev/pod-name";
const KIND: &str = "cairn.dev/kind";
const NAME: &str = "cairn.dev/name";
const ATTEMPT: &str = "cairn.dev/attempt";
const SHORT_RUNS: &str = "cairn.dev/short-runs";
const IMAGE: &str = "cairn.dev/image";
const IMAGE_ID: &str = "cairn.dev/image-id";
const ADDRESS: &str = "cairn.dev/address";
const EXIT_CODE: &str = "cairn.dev/exit-code";
const FINISHED: &str = "cairn.dev/finished";
const REASON: &str = "cairn.dev/reason";
const MESSAGE: &str = "cairn.dev/message";

/// Bytes of an error message that a label keeps; containerd allows 4096 for key and value.
const MESSAGE_LIMIT: usize = 2048;

pub(super) type Labels = HashMap<String, String>;

/// The labels of a container to be made.
pub(super) fn of_new(new: &NewContainer, image_id: &str) -> Labels {
    let mut labels = Labels::new();
    let mut set = |key: &str, value: String| labels.insert(key.to_owned(), value);
    set(POD_UID, new.pod.uid.clone());
    set(POD_NAMESPACE, new.pod.namespace.clone());
    set(POD_NAME, new.pod.name.clone());
    set(KIND, new.kind.label().to_owned());
    set(NAME, new.name.clone());
    set(ATTEMPT, new.attempt.to_string());
    set(SHORT_RUNS, new.short_runs.to_string());
    set(IMAGE, new.image.clone());
    set(IMAGE_ID, image_id.to_owned());
    if let Some(address) = &new.address {
        set(ADDRESS, address.clone());
    }
    if let Some(log) = &new.log {
        set(LOG, log.display().to_string());
    }
    if new.terminal {
        set(TERMINAL, "true".to_owned());
    }
    labels
}

/// The labels that record an exit.
pub(super) fn of_exit(exit: &Exit) -> Labels {
    let mut labels = Labels::from([
        (EXIT_CODE.to_owned(), exit.code.to_string()),
        (FINISHED.to_owned(), exit.finished.to_string()),
        (REASON.to_owned(), exit.reason.clone()),
    ]);
    if let Some(message) = &exit.message {
        let end = message.floor_char_boundary(MESSAGE_LIMIT);
        labels.insert(MESSAGE.to_owned(), message[..end].to_owned());
    }
    labels
}

/// When the container was started, as its labels say.
pub(super) fn started(labels: &Labels) -> Option<Timestamp> {
    labels.get(STARTED)?.parse().ok()
}

/// The exit that the labels record.
pub(super) fn exit(labels: &Labels) -> Option<Exit> {
    Some(Exit {
        code: labels.get(EXIT_CODE)?.parse().ok()?,
        started: started(labels),
        finished: labels.get(FINISHED)?.parse().ok()?,
        reason: labels.get(REASON)?.clone(),
        message: labels.get(MESSAGE).cloned(),
    })
}

/// The pod that the labels name.
pub(super) fn pod(labels: &Labels) -> Option<PodKey> {
    let text = |key: &str| labels.get(key).cloned();
    Some(PodKey { uid: text(POD_UID)?, namespace: text(POD_NAMESPACE)?, name: text(POD_NAME)? })
}

/// The container that the labels describe; none when they are not ours.
pub(super) fn container(id: &str, labels: &Labels, state: State) -> Option<Container> {
    Some(Container {
        id: ContainerId::from_runtime(id),
        pod: pod(labels)?,
        kind: Kind::parse(labels.get(KIND)?)?,
        // containerd drops empty labels, and a sandbox has no name.
        name: labels.get(NAME).cloned().unwrap_or_default(),
        attempt: labels.get(ATTEMPT)?.parse().ok()?,
        short_runs: labels.get(SHORT_RUNS)?.parse().ok()?,
        image: labels.get(IMAGE).cloned().unwrap_or_default(),
        image_id: labels.get(IMAGE_ID).cloned().unwrap_or_default(),
        address: labels.get(ADDRESS).cloned(),
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Root;

    fn new() -> NewContainer {
        NewContainer {
            pod: PodKey { uid: "u".into(), namespace: "n".into(), name: "p".into() },
            kind: Kind::App,
            name: "web".into(),
            attempt: 3,
            short_runs: 2,
            image: "web:1".into(),
            root: Root::Folder,
            address: None,
            spec: serde_json::Value::Null,
            log: None,
            terminal: false,
            stdin: false,
        }
    }

    #[test]
    fn a_container_is_read_back_from_its_labels() {
        let labels = of_new(&new(), "sha256:1");
        let container = container("id", &labels, State::Created).expect("because the labels are ours");
        assert_eq!((container.name.as_str(), container.attempt, container.short_runs), ("web", 3, 2));
        assert_eq!(container.pod.name, "p");
    }

    #[test]
    fn an_exit_is_read_back_from_its_labels() {
        let finished = "2026-11-21T15:00:00Z".parse().expect("because it is a timestamp");
        let message = Some("x".repeat(MESSAGE_LIMIT));
        let exit_before = Exit { code: 137, started: None, finished, reason: "OOMKilled".into(), message };
        assert_eq!(exit(&of_exit(&exit_before)), Some(exit_before));
    }

    #[test]
    fn a_foreign_container_is_not_ours() {
        assert_eq!(container("id", &Labels::new(), State::Created), None);
    }
}
