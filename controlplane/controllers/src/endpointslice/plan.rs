//! Which slices a Service should have.

use crate::pods::{has_ended, is_ready, node};
use controlplane_client::{Kind, Object, reference};
use controlplane_types::selector::typed::has_all;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The label that names a slice's Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The label that names who keeps a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Ours: upstream's name, for tools look for it.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Marks slices of a Service without an address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints of one slice; upstream's default. Each change of one rewrites its slice.
const ENDPOINTS_LIMIT: usize = 100;

/// What to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    /// Present slices with new content.
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// Whether a change of a pod changes nothing about its endpoints.
pub(super) fn looks_the_same(old: &Pod, new: &Pod) -> bool {
    let look = |pod: &Pod| {
        let ips = pod.status.as_ref().and_then(|status| status.pod_ips.clone());
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let labels = pod.metadata.labels.clone();
        let node = node(pod).map(str::to_owned);
        (ips, ip, labels, node, is_ready(pod), has_ended(pod), pod.is_terminating(), pod.metadata.uid.clone())
    };
    look(old) == look(new)
}

/// Plans the slices of a Service; of one that is gone, their deletion.
pub(super) fn plan(service: Option<&Service>, pods: &[Arc<Pod>], existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let spec = service.and_then(|service| service.spec.as_ref());
    let (Some(service), Some(spec)) = (service, spec) else {
        return Plan { delete: existing, ..Plan::default() };
    };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return Plan::default();
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Plan { delete: existing, ..Plan::default() };
    }
    let selected: Vec<&Arc<Pod>> =
        pods.iter().filter(|pod| has_all(selector, pod.metadata.labels.as_ref()) && !has_ended(pod)).collect();
    let mut wanted = Vec::new();
    for family in families(spec) {
        wanted.extend(slices(service, spec, family, &selected));
    }
    reconcile(wanted, existing)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn address_type(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn of(self, pod: &Pod) -> Option<String> {
        let status = pod.status.as_ref()?;
        let many = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        many.chain(status.pod_ip.as_deref())
            .find(|text| match text.parse() {
                Ok(IpAddr::V4(_)) => self == Family::V4,
                Ok(IpAddr::V6(_)) => self == Family::V6,
                Err(_no_address) => false,
            })
            .map(str::to_owned)
    }
}

fn families(spec: &ServiceSpec) -> Vec<Family> {
    let named = spec.ip_families.iter().flatten();
    let families: Vec<Family> = named.map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 }).collect();
    if families.is_empty() { vec![Family::V4] } else { families }
}

fn slices(service: &Service, spec: &ServiceSpec, family: Family, pods: &[&Arc<Pod>]) -> Vec<EndpointSlice> {
    // A named target port may be another number in each pod: pods with the same numbers share slices.
    let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for pod in pods {
        let Some(address) = family.of(pod) else { continue };
        let ports = ports(spec, pod);
        let group = serde_json::to_string(&ports).expect("because ports are plain data");
        let (_, endpoints) = groups.entry(group).or_insert_with(|| (ports, Vec::new()));
        endpoints.push(endpoint(spec, pod, address));
    }
    if groups.is_empty() {
        // A slice without endpoints says that there are none; no slice says nothing.
        groups.insert(String::new(), (Vec::new(), Vec::new()));
    }
    let mut slices = Vec::new();
    for (group, (ports, mut endpoints)) in groups {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let chunks: Vec<&[Endpoint]> =
            if endpoints.is_empty() { vec![&[]] } else { endpoints.chunks(ENDPOINTS_LIMIT).collect() };
        for (number, chunk) in chunks.into_iter().enumerate() {
            slices.push(EndpointSlice {
                metadata: metadata(service, spec, &format!("{} {group} {number}", family.address_type())),
                address_type: family.address_type().to_owned(),
                endpoints: Some(chunk.to_vec()),
                ports: Some(ports.clone()),
            });
        }
    }
    slices
}

/// The name comes from what the slice is of, so that making it twice fails instead of leaving two.
fn metadata(service: &Service, spec: &ServiceSpec, what: &str) -> ObjectMeta {
    let digest = Sha256::digest(format!("{} {what}", service.uid()));
    let suffix: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    ObjectMeta {
        name: Some(format!("{}-{suffix}", service.name())),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![service.controller_reference()]),
        ..ObjectMeta::default()
    }
}

fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target(port, pod)?),
                protocol: Some(protocol(port).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let all = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let same = |candidate: &&k8s_openapi::api::core::v1::ContainerPort| {
                candidate.name.as_ref() == Some(name)
                    && candidate.protocol.as_deref().unwrap_or("TCP") == protocol(port)
            };
            all.filter(same).map(|found| found.container_port).next()
        }
    }
}

fn endpoint(spec: &ServiceSpec, pod: &Pod, address: String) -> Endpoint {
    let (serving, terminating) = (is_ready(pod), pod.is_terminating());
    let always = spec.publish_not_ready_addresses == Some(true);
    let mut target = reference(pod);
    // It would change with every write to the pod; the uid says enough.
    (target.resource_version, target.api_version) = (None, None);
    let of_this_service = pod.spec.as_ref().filter(|it| it.subdomain.is_some());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(always || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: of_this_service.and_then(|spec| spec.hostname.clone()),
        node_name: node(pod).map(str::to_owned),
        target_ref: Some(target),
        ..Endpoint::default()
    }
}

fn reconcile(wanted: Vec<EndpointSlice>, existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let mut left: BTreeMap<String, Arc<EndpointSlice>> =
        existing.into_iter().map(|slice| (slice.name().to_owned(), slice)).collect();
    for slice in wanted {
        match left.remove(slice.name()) {
            None => plan.create.push(slice),
            Some(present) if is_same(&present, &slice) => {}
            Some(present) => {
                let mut metadata = present.metadata.clone();
                metadata.labels = slice.metadata.labels.clone();
                plan.update.push(EndpointSlice { metadata, ..slice });
            }
        }
    }
    plan.delete = left.into_values().collect();
    plan
}

fn is_same(present: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let list =
        |slice: &EndpointSlice| (slice.endpoints.clone().unwrap_or_default(), slice.ports.clone().unwrap_or_default());
    list(present) == list(wanted) && present.metadata.labels == wanted.metadata.labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(more: Value) -> Service {
        let mut spec = json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": [{"port": 80, "targetPort": "http"}]});
        for (key, value) in more.as_object().expect("because the test wrote an object") {
            spec[key] = value.clone();
        }
        let object = json!({"metadata": {"name": "web", "namespace": "a", "uid": "s"}, "spec": spec});
        serde_json::from_value(object).expect("because the test wrote a service")
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let status = json!({"phase": "Running", "podIP": format!("10.244.0.{number}"),
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]});
        let object = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "a", "uid": format!("p{number}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": status,
        });
        Arc::new(serde_json::from_value(object).expect("because the test wrote a pod"))
    }

    fn ready(slice: &EndpointSlice) -> Vec<(&str, bool)> {
        let endpoints = slice.endpoints.iter().flatten();
        let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().and_then(|it| it.ready) == Some(true);
        endpoints.map(|endpoint| (endpoint.addresses[0].as_str(), ready(endpoint))).collect()
    }

    #[test]
    fn ready_and_unready_pods_are_listed_with_the_number_of_the_named_port() {
        let plan = plan(Some(&service(json!({}))), &[pod(2, false), pod(1, true)], vec![]);
        let [slice] = &plan.create[..] else { panic!("one slice: {plan:?}") };
        assert_eq!(ready(slice), [("10.244.0.1", true), ("10.244.0.2", false)]);
        assert_eq!(slice.ports.as_ref().map(|ports| ports[0].port), Some(Some(8080)));
    }

    #[test]
    fn a_slice_that_is_right_is_left_alone_and_one_that_is_not_keeps_its_name() {
        let service = service(json!({}));
        let first = plan(Some(&service), &[pod(1, true)], vec![]).create.remove(0);
        let there = vec![Arc::new(first.clone())];
        let same = plan(Some(&service), &[pod(1, true)], there.clone());
        assert!(same.create.is_empty() && same.update.is_empty() && same.delete.is_empty());
        let changed = plan(Some(&service), &[pod(1, false)], there);
        assert_eq!(changed.update[0].metadata.name, first.metadata.name);
    }

    #[test]
    fn many_endpoints_take_several_slices_and_surplus_ones_go() {
        let service = service(json!({}));
        let pods: Vec<Arc<Pod>> = (1..=150).map(|number| pod(number, true)).collect();
        let slices: Vec<Arc<EndpointSlice>> =
            plan(Some(&service), &pods, vec![]).create.into_iter().map(Arc::new).collect();
        assert_eq!(slices.iter().map(|slice| ready(slice).len()).collect::<Vec<_>>(), [100, 50]);
        let fewer = plan(Some(&service), &pods[..1], slices);
        assert_eq!((fewer.update.len(), fewer.delete.len()), (1, 1));
    }

    #[test]
    fn a_service_without_selector_is_left_to_others_and_of_a_gone_one_everything_goes() {
        let slice = Arc::new(plan(Some(&service(json!({}))), &[pod(1, true)], vec![]).create.remove(0));
        let manual = plan(Some(&service(json!({"selector": null}))), &[], vec![Arc::clone(&slice)]);
        assert!(manual.delete.is_empty() && manual.update.is_empty());
        assert_eq!(plan(None, &[], vec![slice]).delete.len(), 1);
    }

    #[test]
    fn a_terminating_pod_still_serves_but_is_not_ready() {
        let mut leaving = (*pod(1, true)).clone();
        leaving.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("because it is a time");
        let plan = plan(Some(&service(json!({}))), &[Arc::new(leaving)], vec![]);
        let endpoint = &plan.create[0].endpoints.as_ref().expect("because there is one")[0];
        let conditions = EndpointConditions { ready: Some(false), serving: Some(true), terminating: Some(true) };
        assert_eq!(endpoint.conditions, Some(conditions));
    }
}
