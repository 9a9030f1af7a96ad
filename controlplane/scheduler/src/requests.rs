//! What a pod asks for.

use controlplane_types::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Amounts by resource name: thousandths for `cpu`, whole units for all others.
pub type Requests = BTreeMap<String, i64>;

/// Thousandths of a CPU that a container without a request is taken for when nodes are compared: upstream's figure.
const USUAL_CPU: i64 = 100;

/// Bytes that a container without a request is taken for when nodes are compared: upstream's figure.
const USUAL_MEMORY: i64 = 200 * 1024 * 1024;

/// Reads amounts; what is no quantity counts as nothing, for validation lets none through.
pub(crate) fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Requests {
    let read = |(name, quantity): (&String, &Quantity)| {
        let amount: Amount = quantity.0.parse().unwrap_or(Amount::ZERO);
        (name.clone(), if name == "cpu" { amount.milli() } else { amount.units() })
    };
    list.into_iter().flatten().map(read).collect()
}

/// What a pod must be given: its containers together, or its hungriest init container if that is more.
#[must_use]
pub fn requests(pod: &Pod) -> Requests {
    total(pod, |container| amounts(container.resources.as_ref().and_then(|resources| resources.requests.as_ref())))
}

/// The same, with usual amounts where nothing is asked for: so that such pods are spread, too.
pub(crate) fn usual_requests(pod: &Pod) -> Requests {
    total(pod, |container| {
        let mut amounts = amounts(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
        amounts.entry("cpu".to_owned()).or_insert(USUAL_CPU);
        amounts.entry("memory".to_owned()).or_insert(USUAL_MEMORY);
        amounts
    })
}

fn total(pod: &Pod, of: impl Fn(&Container) -> Requests) -> Requests {
    let Some(spec) = &pod.spec else { return Requests::new() };
    let mut sum = Requests::new();
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    // Init containers run one after the other, beside the sidecars that were started before them.
    let mut sidecars = Requests::new();
    let mut peak = Requests::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &own);
            add(&mut sum, &own);
        } else {
            let mut now = sidecars.clone();
            add(&mut now, &own);
            raise(&mut peak, &now);
        }
    }
    raise(&mut sum, &peak);
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

pub(crate) fn add(sum: &mut Requests, more: &Requests) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.saturating_add(*amount);
    }
}

pub(crate) fn subtract(sum: &mut Requests, less: &Requests) {
    for (name, amount) in less {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.saturating_sub(*amount);
    }
}

fn raise(to: &mut Requests, at_least: &Requests) {
    for (name, amount) in at_least {
        let entry = to.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    #[test]
    fn containers_add_up_and_the_hungriest_init_container_sets_the_floor() {
        let container =
            |cpu: &str, memory: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}});
        let pod = pod(json!({
            "containers": [container("250m", "64Mi"), container("0.5", "64Mi")],
            "initContainers": [container("2", "16Mi")],
        }));
        let requests = requests(&pod);
        assert_eq!(requests["cpu"], 2000);
        assert_eq!(requests["memory"], 128 * 1024 * 1024);
    }

    #[test]
    fn a_sidecar_counts_beside_containers_and_later_init_containers() {
        let pod = pod(json!({
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                {"name": "i", "resources": {"requests": {"cpu": "3"}}},
            ],
        }));
        assert_eq!(requests(&pod)["cpu"], 4000);
    }
}
