//! What `kubectl get pods` prints: readiness, a word for the state, restarts.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::duration;
use crate::object::{self, Object, list, number, text};
use crate::table::{AGE, Column, NAME, Printer, age, column};

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    column("Status", "The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    column("IP", "Address of the pod.").wide(),
    column("Node", "Node that the pod is bound to.").wide(),
    column("Nominated Node", "Node that the pod may get after preemption.").wide(),
    column("Readiness Gates", "Conditions besides the containers' that make the pod ready.").wide(),
];

/// Printer of pods.
pub(super) const PRINTER: Printer = Printer { columns: COLUMNS, row };

/// What the containers say together.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts > 0 => format!("{} ({} ago)", summary.restarts, duration::since(at, now)),
        Some(_) | None => summary.restarts.to_string(),
    };
    let or_none = |value: &str| json!(if value.is_empty() { "<none>" } else { value });
    vec![
        json!(pod.name()),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        age(pod, now),
        or_none(text(pod, &["status", "podIP"])),
        or_none(text(pod, &["spec", "nodeName"])),
        or_none(text(pod, &["status", "nominatedNodeName"])),
        or_none(&gates(pod)),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return String::new();
    }
    let met = gates.iter().filter(|gate| condition(pod, text(gate, &["conditionType"])) == "True").count();
    format!("{met}/{}", gates.len())
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let conditions = list(pod, &["status", "conditions"]);
    conditions.iter().find(|one| text(one, &["type"]) == kind).map_or("", |one| text(one, &["status"]))
}

fn summary(pod: &Value) -> Summary {
    let phase = text(pod, &["status", "phase"]);
    let reason = text(pod, &["status", "reason"]);
    let mut summary = Summary {
        ready: 0,
        total: list(pod, &["spec", "containers"]).len(),
        reason: if reason.is_empty() { phase } else { reason }.to_string(),
        restarts: 0,
        last_restart: None,
    };
    let scheduled = list(pod, &["status", "conditions"]).iter().find(|one| text(one, &["type"]) == "PodScheduled");
    if let Some(gated) = scheduled.filter(|one| text(one, &["reason"]) == "SchedulingGated") {
        summary.reason = text(gated, &["reason"]).to_string();
    }
    let initializing = init_containers(pod, &mut summary);
    if !initializing || condition(pod, "Initialized") == "True" {
        containers(pod, &mut summary);
    }
    if pod.is_deleting() {
        if text(pod, &["status", "reason"]) == "NodeLost" {
            summary.reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".into();
        }
    }
    summary
}

/// A sidecar: an init container that goes on running.
fn is_sidecar(container: Option<&Value>) -> bool {
    container.is_some_and(|one| text(one, &["restartPolicy"]) == "Always")
}

/// Looks at init containers; tells whether they are still at work.
fn init_containers(pod: &Value, summary: &mut Summary) -> bool {
    let specs = list(pod, &["spec", "initContainers"]);
    summary.total += specs.iter().filter(|one| is_sidecar(Some(*one))).count();
    for (index, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        let spec = specs.iter().find(|one| one["name"] == status["name"]);
        count_restarts(status, summary);
        let state = &status["state"];
        let exit = number(state, &["terminated", "exitCode"]);
        if exit == Some(0) {
            continue;
        }
        if is_sidecar(spec) && status["started"] == true {
            summary.ready += usize::from(status["ready"] == true);
            continue;
        }
        summary.reason = if exit.is_some() {
            format!("Init:{}", terminated(&state["terminated"]))
        } else {
            match text(state, &["waiting", "reason"]) {
                "" | "PodInitializing" => format!("Init:{index}/{}", specs.len()),
                waiting => format!("Init:{waiting}"),
            }
        };
        return true;
    }
    false
}

fn terminated(state: &Value) -> String {
    match (text(state, &["reason"]), number(state, &["signal"]).unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", number(state, &["exitCode"]).unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}

fn containers(pod: &Value, summary: &mut Summary) {
    let mut running = false;
    let before = summary.restarts;
    summary.restarts = 0;
    let last = summary.last_restart.take();
    for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
        count_restarts(status, summary);
        let state = &status["state"];
        let waiting = text(state, &["waiting", "reason"]);
        if !waiting.is_empty() {
            summary.reason = waiting.to_string();
        } else if object::at(state, &["terminated"]).is_some() {
            summary.reason = terminated(&state["terminated"]);
        } else if status["ready"] == true && object::at(state, &["running"]).is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    if list(pod, &["spec", "initContainers"]).iter().any(|one| is_sidecar(Some(one))) {
        summary.restarts += before;
        summary.last_restart = summary.last_restart.max(last);
    }
    // One container has finished, another still runs: the pod as a whole does.
    if summary.reason == "Completed" && running {
        summary.reason = if condition(pod, "Ready") == "True" { "Running" } else { "NotReady" }.into();
    }
}

fn count_restarts(status: &Value, summary: &mut Summary) {
    summary.restarts += number(status, &["restartCount"]).unwrap_or(0);
    let finished = object::time_at(status, &["lastState", "terminated", "finishedAt"]);
    summary.last_restart = summary.last_restart.max(finished);
}
