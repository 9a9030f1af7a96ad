//! What the API is told of a pod. Pure: from the pod, its containers and the plan to a status.

use super::plan::{Plan, is_sidecar, newest};
use super::probe::Health;
use crate::runtime::{Container, ContainerId, Exit, Kind, State};
use crate::spec;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

/// What a status is made from.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The pod, with the status that the API has.
    pub(crate) pod: &'a Pod,
    /// Its containers.
    pub(crate) containers: &'a [Container],
    /// What probes say.
    pub(crate) health: &'a BTreeMap<ContainerId, Health>,
    /// The newest plan.
    pub(crate) plan: &'a Plan,
    /// The node's addresses.
    pub(crate) host_ips: &'a [String],
    /// Now.
    pub(crate) now: Timestamp,
}

/// The status of the pod.
#[must_use]
pub(crate) fn status(facts: &Facts<'_>) -> PodStatus {
    let old = facts.pod.status.clone().unwrap_or_default();
    let spec = facts.pod.spec.as_ref();
    let inits: Vec<&Spec> = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).collect();
    let apps: Vec<&Spec> = spec.iter().flat_map(|spec| &spec.containers).collect();
    let init_statuses: Vec<ContainerStatus> =
        inits.iter().map(|spec| container_status(facts, Kind::Init, spec)).collect();
    let statuses: Vec<ContainerStatus> = apps.iter().map(|spec| container_status(facts, Kind::App, spec)).collect();
    let initialized = inits.iter().zip(&init_statuses).all(|(spec, status)| {
        if is_sidecar(spec) { status.started == Some(true) } else { exit_code(status) == Some(0) }
    });
    let phase = phase(facts, initialized, &init_statuses, &statuses);
    let sandbox = facts.containers.iter().filter(|c| c.kind == Kind::Sandbox).max_by_key(|c| c.attempt);
    let own_ip = sandbox.and_then(|sandbox| sandbox.address.clone());
    let pod_ips: Vec<PodIP> = match own_ip.into_iter().next() {
        Some(ip) => vec![PodIP { ip }],
        None => old.pod_ips.clone().unwrap_or_default(),
    };
    let sandbox_up = sandbox.is_some_and(|sandbox| matches!(sandbox.state, State::Running { .. }));
    let conditions = conditions(facts, &old, phase, sandbox_up, initialized, &statuses);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(statuses),
        init_container_statuses: Some(init_statuses).filter(|list| !list.is_empty()),
        host_ip: facts.host_ips.first().cloned(),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: pod_ips.first().map(|ip| ip.ip.clone()),
        pod_ips: Some(pod_ips).filter(|list| !list.is_empty()),
        qos_class: Some(spec::qos(facts.pod).name().to_owned()),
        start_time: old.start_time.or(Some(seconds(facts.now))),
        observed_generation: facts.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// The phase, by kubelet's rules.
fn phase(
    facts: &Facts<'_>,
    initialized: bool,
    inits: &[ContainerStatus],
    statuses: &[ContainerStatus],
) -> &'static str {
    if facts.plan.over && facts.pod.metadata.deletion_timestamp.is_none() {
        let failed_init = inits.iter().any(|status| exit_code(status).is_some_and(|code| code != 0));
        let all_well = statuses.iter().all(|status| exit_code(status) == Some(0));
        return if all_well && !failed_init { "Succeeded" } else { "Failed" };
    }
    let has_run = |status: &&ContainerStatus| {
        let running = status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
        running || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    };
    if initialized && !statuses.is_empty() && statuses.iter().all(|status| has_run(&status)) {
        return "Running";
    }
    // A pod that has run is never pending again.
    match facts.pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => "Running",
        Some("Succeeded") => "Succeeded",
        Some("Failed") => "Failed",
        Some(_) | None => "Pending",
    }
}

fn container_status(facts: &Facts<'_>, kind: Kind, spec: &Spec) -> ContainerStatus {
    let newest = newest(facts.containers, kind, &spec.name);
    let before = newest.and_then(|newest| {
        let earlier = |c: &&Container| c.kind == kind && c.name == spec.name && c.attempt < newest.attempt;
        facts.containers.iter().filter(earlier).max_by_key(|c| c.attempt)
    });
    let waiting = facts.plan.waiting.get(&spec.name);
    let health = newest.and_then(|newest| facts.health.get(&newest.id)).cloned().unwrap_or_default();
    let running = newest.is_some_and(|newest| matches!(newest.state, State::Running { .. }));
    let (state, last_state) = match (newest.map(|newest| &newest.state), waiting) {
        (Some(State::Running { started, .. }), _) => {
            let state = ContainerStateRunning { started_at: Some(seconds(*started)) };
            (ContainerState { running: Some(state), ..ContainerState::default() }, before.and_then(ended))
        }
        (Some(State::Exited(_)), Some(waiting)) if waiting.reason != "PodInitializing" => {
            (waits(&waiting.reason, waiting.message.clone()), newest.and_then(ended))
        }
        (Some(State::Exited(_)), _) => (newest.and_then(ended).unwrap_or_default(), before.and_then(ended)),
        (Some(State::Created) | None, Some(waiting)) => {
            (waits(&waiting.reason, waiting.message.clone()), before.and_then(ended))
        }
        (Some(State::Created) | None, None) => (waits("ContainerCreating", None), before.and_then(ended)),
    };
    let init_done = kind == Kind::Init && !is_sidecar(spec) && newest.and_then(exit).is_some_and(|exit| exit.code == 0);
    ContainerStatus {
        name: spec.name.clone(),
        image: newest.map_or_else(|| spec.image.clone().unwrap_or_default(), |newest| newest.image.clone()),
        image_id: newest.map(|newest| newest.image_id.clone()).unwrap_or_default(),
        container_id: newest.map(|newest| format!("containerd://{}", newest.id)),
        restart_count: newest.map_or(0, |newest| i32::try_from(newest.attempt).unwrap_or(i32::MAX)),
        ready: init_done || running && health.ready,
        started: Some(running && health.started),
        state: Some(state),
        last_state,
        ..ContainerStatus::default()
    }
}

/// The API's times have whole seconds.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn waits(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn exit(container: &Container) -> Option<&Exit> {
    match &container.state {
        State::Exited(exit) => Some(exit),
        State::Created | State::Running { .. } => None,
    }
}

fn ended(container: &Container) -> Option<ContainerState> {
    let exit = exit(container)?;
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", container.id)),
        exit_code: exit.code,
        started_at: exit.started.map(seconds),
        finished_at: Some(seconds(exit.finished)),
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        signal: None,
    };
    Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() })
}

fn exit_code(status: &ContainerStatus) -> Option<i32> {
    status.state.as_ref()?.terminated.as_ref().map(|terminated| terminated.exit_code)
}

fn conditions(
    facts: &Facts<'_>,
    old: &PodStatus,
    phase: &str,
    sandbox_up: bool,
    initialized: bool,
    statuses: &[ContainerStatus],
) -> Vec<PodCondition> {
    let mut all = old.conditions.clone().unwrap_or_default();
    let unready: Vec<&str> =
        statuses.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let over = matches!(phase, "Succeeded" | "Failed");
    let (reason, message) = match (over, unready.as_slice()) {
        (true, _) if phase == "Succeeded" => (Some("PodCompleted"), None),
        (true, _) => (Some("PodFailed"), None),
        (false, []) => (None, None),
        (false, unready) => {
            (Some("ContainersNotReady"), Some(format!("containers with unready status: [{}]", unready.join(" "))))
        }
    };
    let containers_ready = reason.is_none();
    let gates = facts.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let closed = gates.filter(|gate| !all.iter().any(|c| c.type_ == gate.condition_type && c.status == "True")).count();
    let (ready_reason, ready_message) = match (containers_ready, closed) {
        (true, 0) | (false, _) => (reason, message.clone()),
        (true, _) => (Some("ReadinessGatesNotReady"), Some(format!("{closed} readiness gates are not true"))),
    };
    let mut set = |kind: &str, holds: bool, reason: Option<&str>, message: Option<String>| {
        let fresh = condition(kind, holds, reason, message, facts);
        match all.iter_mut().find(|condition| condition.type_ == kind) {
            Some(known) if known.status == fresh.status => {
                let last_transition_time = known.last_transition_time.clone();
                *known = PodCondition { last_transition_time, ..fresh };
            }
            Some(known) => *known = fresh,
            None => all.push(fresh),
        }
    };
    set("PodReadyToStartContainers", sandbox_up, None, None);
    let init_reason = if initialized { None } else { Some("ContainersNotInitialized") };
    set("Initialized", initialized, init_reason, None);
    set("ContainersReady", containers_ready, reason, message);
    set("Ready", containers_ready && closed == 0, ready_reason, ready_message);
    set("PodScheduled", true, None, None);
    all
}

fn condition(
    kind: &str,
    holds: bool,
    reason: Option<&str>,
    message: Option<String>,
    facts: &Facts<'_>,
) -> PodCondition {
    PodCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        last_transition_time: Some(seconds(facts.now)),
        observed_generation: facts.pod.metadata.generation,
        ..PodCondition::default()
    }
}
