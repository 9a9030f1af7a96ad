//! Requests and limits as cgroup settings, and the quality-of-service class they make. Pure.

use controlplane_types::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde_json::{Value, json};

/// Length of a CPU accounting period in microseconds; the kernel's and kubelet's default.
const PERIOD: i64 = 100_000;
/// Shares of one whole CPU; the kernel's unit of weight in cgroup v1, which runc translates for v2.
const SHARES_PER_CPU: i64 = 1024;
/// Least shares that the kernel takes.
const LEAST_SHARES: i64 = 2;
/// Least quota in microseconds that the kernel takes.
const LEAST_QUOTA: i64 = 1000;

/// Quality of service, which decides who dies first when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    /// Every container has limits for CPU and memory and requests as much.
    Guaranteed,
    /// Some container requests something.
    Burstable,
    /// No container says anything.
    BestEffort,
}

impl Qos {
    /// Every class; a pod's cgroup is removed whichever it was in, since its object may be gone.
    pub(crate) const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    /// As the API spells it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// Name of the cgroup for pods of this class.
    #[must_use]
    pub(crate) fn cgroup(self) -> &'static str {
        match self {
            Self::Guaranteed => "guaranteed",
            Self::Burstable => "burstable",
            Self::BestEffort => "besteffort",
        }
    }
}

/// The class of a pod.
#[must_use]
pub(crate) fn qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let containers: Vec<&Container> = spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
    let says = |container: &&Container| {
        ["cpu", "memory"].iter().any(|name| request(container, name).is_some() || limit(container, name).is_some())
    };
    let guaranteed = |container: &&Container| {
        ["cpu", "memory"].iter().all(|name| match (limit(container, name), request(container, name)) {
            (Some(limit), Some(request)) => limit.milli() == request.milli(),
            (Some(_), None) => true,
            (None, _) => false,
        })
    };
    match (containers.iter().any(says), containers.iter().all(guaranteed)) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The limit of a container for "cpu" or "memory"; zero means none.
#[must_use]
pub(crate) fn limit(container: &Container, name: &str) -> Option<Quantity> {
    quantity(container, |resources| resources.limits.as_ref()?.get(name).map(|quantity| quantity.0.as_str()))
}

/// The request of a container.
#[must_use]
pub(crate) fn request(container: &Container, name: &str) -> Option<Quantity> {
    quantity(container, |resources| resources.requests.as_ref()?.get(name).map(|quantity| quantity.0.as_str()))
}

fn quantity(container: &Container, get: impl Fn(&ResourceRequirements) -> Option<&str>) -> Option<Quantity> {
    let quantity: Quantity = get(container.resources.as_ref()?)?.parse().ok()?;
    (quantity.milli() > 0).then_some(quantity)
}

/// The container's cgroup settings. A container without CPU request weighs least.
#[must_use]
pub(crate) fn limits(container: &Container) -> Value {
    let cpu_limit = limit(container, "cpu");
    let weight = request(container, "cpu").or(cpu_limit).map_or(0, |cpu| cpu.milli());
    let mut cpu = json!({ "shares": (weight * SHARES_PER_CPU / 1000).max(LEAST_SHARES), "period": PERIOD });
    if let Some(limit) = cpu_limit {
        cpu["quota"] = (limit.milli() * PERIOD / 1000).max(LEAST_QUOTA).into();
    }
    let mut limits = json!({ "cpu": cpu });
    if let Some(memory) = limit(container, "memory") {
        limits["memory"] = json!({ "limit": memory.units() });
    }
    limits
}

/// How readily the kernel kills the container when memory runs out: -997 for guaranteed pods, 1000 for those that
/// asked for nothing, in between by the share of the machine's memory that was requested (kubelet's formula).
#[must_use]
pub(crate) fn oom_score(container: &Container, qos: Qos, capacity_bytes: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requested = request(container, "memory").map_or(0, |memory| memory.units());
            (1000 - 1000 * requested / capacity_bytes.max(1)).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &str) -> Pod {
        let text = format!(r#"{{"spec":{{"containers":[{{"name":"a","resources":{resources}}}]}}}}"#);
        serde_json::from_str(&text).expect("because the test's pod is well formed")
    }

    fn container(resources: &str) -> Container {
        pod(resources).spec.expect("because the pod has a spec").containers.remove(0)
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let both = r#"{"limits":{"cpu":"1","memory":"1Gi"}"#;
        assert_eq!(qos(&pod("{}")), Qos::BestEffort);
        assert_eq!(qos(&pod(&format!("{both}}}"))), Qos::Guaranteed);
        assert_eq!(qos(&pod(&format!(r#"{both},"requests":{{"cpu":"1000m","memory":"1024Mi"}}}}"#))), Qos::Guaranteed);
        assert_eq!(qos(&pod(&format!(r#"{both},"requests":{{"cpu":"500m"}}}}"#))), Qos::Burstable);
        assert_eq!(qos(&pod(r#"{"limits":{"cpu":"1"}}"#)), Qos::Burstable);
    }

    #[test]
    fn cpu_and_memory_become_cgroup_settings() {
        let limits = limits(&container(r#"{"limits":{"cpu":"1500m","memory":"64Mi"},"requests":{"cpu":"250m"}}"#));
        assert_eq!(limits["cpu"], json!({ "shares": 256, "period": 100_000, "quota": 150_000 }));
        assert_eq!(limits["memory"]["limit"], 64 << 20);
        assert_eq!(super::limits(&container("{}"))["cpu"]["shares"], 2);
    }

    #[test]
    fn who_asked_for_more_memory_is_killed_later() {
        let small = container(r#"{"requests":{"memory":"100Mi"}}"#);
        let large = container(r#"{"requests":{"memory":"900Mi"}}"#);
        let capacity = 1000 << 20;
        assert_eq!(oom_score(&small, Qos::Burstable, capacity), 900);
        assert_eq!(oom_score(&large, Qos::Burstable, capacity), 100);
        assert_eq!(oom_score(&container("{}"), Qos::Burstable, capacity), 999);
    }
}
