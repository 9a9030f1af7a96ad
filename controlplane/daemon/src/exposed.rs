//! Says where people look that a machine which left knows keys that are believed: a condition of every control-plane machine, which is in
//! its metrics too, and an Event from the one that leads.

use crate::local::{Local, LocalError};
use crate::server::Server;
use controlplane_apiserver::Caller;
use controlplane_client::{Client, EventType, Recorder};
use controlplane_members::Exposure;
use controlplane_replica::Replica;
use k8s_openapi::api::core::v1::ObjectReference;
use machined_api::Condition;
use machined_reconcile::{Restart, Stop, Supervisor};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The condition's type, and the Event's reason.
const KEYS_EXPOSED: &str = "KeysExposed";

/// How often it is said again: machined forgets what it was told when it starts again.
const AGAIN: Duration = Duration::from_secs(60);

/// Begins to say it.
///
/// Task: `exposed keys`.
pub(crate) fn tell(server: &Server, local: Local, machine: &str, supervisor: &Supervisor) {
    let Some(exposure) = server.exposure() else { return };
    let client = Client::new(server.transport(Caller::controllers()));
    let teller = Teller {
        exposure,
        local,
        store: server.store(),
        recorder: Recorder::start(client, supervisor, "cairn-keys", machine),
    };
    supervisor.spawn("exposed keys", Restart::Always, move |stop| teller.clone().run(stop));
}

#[derive(Clone)]
struct Teller {
    exposure: watch::Receiver<Option<Exposure>>,
    local: Local,
    store: Arc<Replica>,
    recorder: Recorder,
}

impl Teller {
    async fn run(mut self, mut stop: Stop) -> Result<(), LocalError> {
        let mut again = tokio::time::interval(AGAIN);
        let mut said = String::new();
        loop {
            let found = self.exposure.borrow_and_update().clone();
            if let Some(found) = found {
                self.local.condition(condition(&found)).await?;
                let reason = found.reason();
                // One Event for each stage, not for each member that is waited for.
                if self.store.is_leader() && reason != said {
                    self.record(&found);
                }
                said = reason.to_owned();
            }
            tokio::select! {
                changed = self.exposure.changed() => if changed.is_err() { return Ok(()) },
                _ = again.tick() => {}
                () = stop.requested() => return Ok(()),
            }
        }
    }

    fn record(&self, found: &Exposure) {
        for leaver in &found.leavers {
            let about = ObjectReference {
                api_version: Some("cairn.dev/v1alpha1".to_owned()),
                kind: Some("Machine".to_owned()),
                name: Some(leaver.machine.to_string()),
                ..ObjectReference::default()
            };
            self.recorder.record_about(about, EventType::Warning, KEYS_EXPOSED, found.to_string());
        }
    }
}

fn condition(found: &Exposure) -> Condition {
    Condition {
        r#type: KEYS_EXPOSED.to_owned(),
        status: !found.leavers.is_empty(),
        reason: found.reason().to_owned(),
        message: found.to_string(),
    }
}
