//! What the gate writes down: wish and answer on the machine's Node, the slot as a Lease. The daemon writes wishes and reads answers.

use super::plan::{Held, Slot};
use controlplane_client::Object;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde::{Deserialize, Serialize};

// A [`Wish`] and an [`Answer`], as JSON.
pub use controlplane_types::disruption::{ANSWER, WISH};

/// Annotation of a slot's Lease: the rest of [`Held`] as JSON.
const HELD: &str = "disruption.cairn.dev/held";

/// The namespace of the slots' Leases; no node's agent writes there.
pub(super) const NAMESPACE: &str = "cairn-system";

/// The reason of a machine that will have forgotten everything when it is back.
pub const RESET: &str = "reset";

/// The reason of a turn in which a member of the store leaves for good. No machine asks for it: the repository does not name it any more.
pub(super) const REMOVAL: &str = "removal";

/// A machine's wish to go away for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The boot that asks: after the restart the wish is over.
    pub boot: String,
    /// `reboot`, `shutdown`, `upgrade` or [`RESET`].
    pub reason: String,
    /// When it was asked last.
    pub asked: Timestamp,
    /// The image that it restarts into, where its digest is known; none for what is no step forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Where a wish stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Others go first, or those that are left could not decide.
    Waiting,
    /// Its pods are moved away.
    Draining,
    /// It may go.
    Granted,
    /// It did not work out in time.
    Expired,
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of which boot.
    pub boot: String,
    /// What was asked for; empty in answers of a gate that did not say.
    #[serde(default)]
    pub reason: String,
    /// Where it stands.
    pub phase: Phase,
    /// For people.
    pub message: String,
    /// Until when a permit holds, or from when on it may be tried again.
    pub until: Option<Timestamp>,
    /// Whether the gate cordoned the Node and has to uncordon it yet.
    pub cordoned: bool,
}

impl Wish {
    /// The wish that stands on a Node; one that is not understood is none.
    #[must_use]
    pub fn on(node: &Node) -> Option<Self> {
        annotation(node, WISH)
    }
}

impl Answer {
    /// The answer that stands on a Node; one that is not understood is none.
    #[must_use]
    pub fn on(node: &Node) -> Option<Self> {
        annotation(node, ANSWER)
    }
}

/// Reads an annotation; what is not understood is nothing.
pub(super) fn annotation<T: for<'de> Deserialize<'de>>(object: &impl Object, name: &str) -> Option<T> {
    serde_json::from_str(object.annotation(name)?).ok()
}

/// Who holds a slot, by its Lease.
pub(super) fn held(lease: &Lease) -> Option<Held> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
    annotation::<Held>(lease, HELD).filter(|held| held.machine == holder)
}

/// A slot's Lease with its holder. Made from the Lease that was read, so that the write names its version.
pub(super) fn lease(slot: Slot, before: Option<&Lease>, held: Option<&Held>) -> Lease {
    let mut metadata = before.map_or_else(ObjectMeta::default, |lease| lease.metadata.clone());
    metadata.name = Some(slot.lease().to_owned());
    metadata.namespace = Some(NAMESPACE.to_owned());
    let annotations = metadata.annotations.get_or_insert_default();
    match held {
        Some(held) => {
            let text = serde_json::to_string(held).expect("because it is plain data");
            annotations.insert(HELD.to_owned(), text);
        }
        None => drop(annotations.remove(HELD)),
    }
    let spec = LeaseSpec {
        holder_identity: held.map(|held| held.machine.clone()),
        acquire_time: held.map(|held| MicroTime(held.since)),
        ..LeaseSpec::default()
    };
    Lease { metadata, spec: Some(spec) }
}
