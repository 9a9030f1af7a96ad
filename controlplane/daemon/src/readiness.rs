//! Tells machined whether the control plane answers this machine and whether its node is ready: an image that is being tried is good only
//! when both hold (docs/operating/upgrade.md).
//!
//! Asked over the same way as everybody's requests, so that an answer shows all of it: the API server, the store, its leader, and this
//! member of it on a control-plane machine. Task: `readiness`.

use crate::local::{Local, LocalError};
use controlplane_client::{Client, Transport};
use k8s_openapi::api::core::v1::Node;
use machined_api::Condition;
use machined_reconcile::{Restart, Stop, Supervisor, story};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked at and said: machined forgets what it was told when it starts again, and a try waits for it.
const PERIOD: Duration = Duration::from_secs(5);

/// How long an answer may take; one that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Begins to say it.
pub(crate) fn tell(machine: &str, boot: &str, transport: Arc<dyn Transport>, local: Local, supervisor: &Supervisor) {
    let teller = Teller { machine: machine.to_owned(), boot: boot.to_owned(), client: Client::new(transport), local };
    supervisor.spawn("readiness", Restart::Always, move |stop| teller.clone().run(stop));
}

#[derive(Clone)]
struct Teller {
    machine: String,
    boot: String,
    client: Client,
    local: Local,
}

impl Teller {
    async fn run(self, mut stop: Stop) -> Result<(), LocalError> {
        let mut again = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                _ = again.tick() => {}
                () = stop.requested() => return Ok(()),
            }
            let nodes = self.client.all::<Node>();
            let found = match tokio::time::timeout(ANSWER_TIMEOUT, nodes.get(&self.machine)).await {
                Ok(found) => found.map_err(|error| story(&error)),
                Err(_elapsed) => Err(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())),
            };
            for condition in conditions(found.as_ref().map_err(String::as_str), &self.boot) {
                self.local.condition(condition).await?;
            }
        }
    }
}

/// What is said of a look at the own Node.
fn conditions(node: Result<&Node, &str>, boot: &str) -> [Condition; 2] {
    let say = |r#type: &str, status: bool, reason: &str, message: String| Condition {
        r#type: r#type.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    };
    let node = match node {
        Ok(node) => node,
        Err(why) => {
            let message = format!("the control plane does not say what it knows of this machine: {why}");
            return [
                say("ControlPlaneReady", false, "NoAnswer", message.clone()),
                say("NodeReady", false, "NoAnswer", message),
            ];
        }
    };
    let status = node.status.as_ref();
    let runs = status.and_then(|status| status.node_info.as_ref()).map(|info| info.boot_id.as_str());
    let ready = status.and_then(|status| status.conditions.as_ref()?.iter().find(|one| one.type_ == "Ready"));
    let (holds, reason, message) = match ready {
        // What an earlier boot said is no news of this one.
        _ if runs != Some(boot) => (false, "EarlierBoot", "the node was not registered since this boot".to_owned()),
        Some(ready) => {
            let reason = if ready.status == "True" { "Ready" } else { "NotReady" };
            (ready.status == "True", reason, ready.message.clone().unwrap_or_default())
        }
        None => (false, "Unknown", "the node says nothing of itself yet".to_owned()),
    };
    [
        say("ControlPlaneReady", true, "Answers", "the control plane answers".to_owned()),
        say("NodeReady", holds, reason, message),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(boot: &str, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "cp1"},
            "status": {
                "nodeInfo": {
                    "bootID": boot, "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "", "architecture": "",
                    "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
                },
                "conditions": [{"type": "Ready", "status": ready, "message": "the runtime answers"}],
            },
        }))
        .expect("because the test wrote a node")
    }

    fn held(node: Result<&Node, &str>) -> Vec<(String, bool)> {
        conditions(node, "b2").into_iter().map(|condition| (condition.r#type, condition.status)).collect()
    }

    #[test]
    fn a_node_is_ready_only_when_it_says_so_since_this_boot() {
        let both =
            |plane: bool, node: bool| vec![("ControlPlaneReady".to_owned(), plane), ("NodeReady".to_owned(), node)];
        assert_eq!(held(Ok(&node("b2", "True"))), both(true, true));
        assert_eq!(held(Ok(&node("b2", "False"))), both(true, false));
        assert_eq!(held(Ok(&node("b1", "True"))), both(true, false), "the image from before said that");
        assert_eq!(held(Ok(&Node::default())), both(true, false));
        assert_eq!(held(Err("no leader")), both(false, false));
    }
}
