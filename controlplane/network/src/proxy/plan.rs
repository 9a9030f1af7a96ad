//! Which packets go where: Services joined with their ready endpoints. Pure; called on each change and by period.
//!
//! Must never send traffic to an endpoint that is neither ready nor the last one serving while it terminates.

use super::ruleset::{Frontend, Ruleset, ServicePort, TransportProtocol};
use crate::cidr::Cidr;
use crate::config::NetworkConfig;
use k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Label by which an EndpointSlice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The rules for these services on a node with pod range `pods`.
///
/// Services without cluster IP ("None", not assigned, or IPv6), of type ExternalName, and ports of other protocols
/// than TCP and UDP are left out. The result does not depend on the order of the inputs.
#[must_use]
pub fn plan<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    config: &NetworkConfig,
    pods: Cidr,
) -> Ruleset {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        if let Some(key) = owner(slice) {
            by_service.entry(key).or_default().push(slice);
        }
    }
    let mut ports: Vec<ServicePort> = services
        .into_iter()
        .flat_map(|service| {
            let key =
                (service.metadata.namespace.as_deref().unwrap_or(""), service.metadata.name.as_deref().unwrap_or(""));
            service_ports(service, by_service.get(&key).map(Vec::as_slice).unwrap_or_default())
        })
        .collect();
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    Ruleset { pods, cluster: config.cluster_pods, ports }
}

fn owner(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.as_deref()?, name))
}

fn service_ports(service: &Service, slices: &[&EndpointSlice]) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let addresses: Vec<Ipv4Addr> = cluster_ips(service).filter_map(|text| text.parse().ok()).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let port = |port: &ApiPort| {
        let protocol = TransportProtocol::parse(port.protocol.as_deref())?;
        let number = u16::try_from(port.port).ok()?;
        let mut frontends: Vec<Frontend> =
            addresses.iter().map(|address| Frontend::Address { address: *address, port: number }).collect();
        frontends.extend(node_port(port).map(|port| Frontend::NodePort { port }));
        let endpoints = endpoints(slices, port.name.as_deref().unwrap_or(""), protocol);
        Some(ServicePort { name: port_name(service, port, protocol), protocol, frontends, endpoints })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

/// The cluster IPs and the external ones; an IPv6 or "None" entry does not parse and falls out.
fn cluster_ips(service: &Service) -> impl Iterator<Item = &str> {
    let spec = service.spec.as_ref();
    let several = spec.and_then(|spec| spec.cluster_ips.as_ref()).filter(|list| !list.is_empty());
    let single = spec.filter(|_| several.is_none()).and_then(|spec| spec.cluster_ip.as_ref());
    let external = spec.and_then(|spec| spec.external_ips.as_ref());
    several.into_iter().flatten().chain(single).chain(external.into_iter().flatten()).map(String::as_str)
}

fn node_port(port: &ApiPort) -> Option<u16> {
    port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// Stable and readable in `nft list ruleset`: namespace/service/protocol/port.
fn port_name(service: &Service, port: &ApiPort, protocol: TransportProtocol) -> String {
    let namespace = service.metadata.namespace.as_deref().unwrap_or("");
    let name = service.metadata.name.as_deref().unwrap_or("");
    format!("{namespace}/{name}/{}/{}", protocol.name(), port.port)
}

/// Ready endpoints; when there is none, those that still serve while they terminate, so that a rollout of one
/// replica does not refuse connections (KEP-1669).
fn endpoints(slices: &[&EndpointSlice], port_name: &str, protocol: TransportProtocol) -> Vec<SocketAddrV4> {
    let choose = |wanted: fn(&Endpoint) -> bool| -> Vec<SocketAddrV4> {
        let mut found = BTreeSet::new();
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            let matching = slice.ports.iter().flatten().find(|port| {
                port.name.as_deref().unwrap_or("") == port_name
                    && TransportProtocol::parse(port.protocol.as_deref()) == Some(protocol)
            });
            let Some(port) = matching.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            let addresses = slice.endpoints.iter().flatten().filter(|endpoint| wanted(endpoint));
            let addresses = addresses.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse().ok());
            found.extend(addresses.map(|address| SocketAddrV4::new(address, port)));
        }
        found.into_iter().collect()
    };
    let ready = choose(is_ready);
    if ready.is_empty() { choose(is_serving) } else { ready }
}

/// An unknown condition counts as ready, as the EndpointSlice API asks of consumers.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn is_serving(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig::default()
    }

    fn pods() -> Cidr {
        "10.244.0.0/24".parse().expect("because it is a valid range")
    }

    fn service(text: &str) -> Service {
        serde_json::from_str(text).expect("because the test's Service is well formed")
    }

    fn slice(text: &str) -> EndpointSlice {
        serde_json::from_str(text).expect("because the test's EndpointSlice is well formed")
    }

    fn web(ports: &str) -> Service {
        service(&format!(
            r#"{{"metadata":{{"namespace":"shop","name":"web"}},"spec":{{"clusterIP":"10.96.0.9","ports":{ports}}}}}"#
        ))
    }

    fn web_slice(endpoints: &str) -> EndpointSlice {
        slice(&format!(
            r#"{{"addressType":"IPv4","metadata":{{"namespace":"shop","labels":{{"kubernetes.io/service-name":"web"}}}},
            "ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],"endpoints":{endpoints}}}"#
        ))
    }

    const HTTP: &str = r#"[{"name":"http","port":80,"nodePort":30080,"protocol":"TCP"}]"#;

    #[test]
    fn a_port_reaches_the_ready_endpoints_of_its_name() {
        let slice = web_slice(
            r#"[{"addresses":["10.244.0.5"],"conditions":{"ready":true}},
                {"addresses":["10.244.0.6"],"conditions":{"ready":false}},
                {"addresses":["10.244.0.4"]}]"#,
        );
        let rules = plan([&web(HTTP)], [&slice], &config(), pods());
        let port = &rules.ports[0];
        assert_eq!(port.name, "shop/web/tcp/80");
        assert_eq!(
            port.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.244.0.4:8080", "10.244.0.5:8080"]
        );
        assert_eq!(
            port.frontends,
            [Frontend::Address { address: Ipv4Addr::new(10, 96, 0, 9), port: 80 }, Frontend::NodePort { port: 30080 }]
        );
    }

    #[test]
    fn a_terminating_endpoint_serves_only_when_no_other_is_ready() {
        let leaving = r#"{"addresses":["10.244.0.7"],"conditions":{"ready":false,"serving":true,"terminating":true}}"#;
        let alone = web_slice(&format!("[{leaving}]"));
        assert_eq!(plan([&web(HTTP)], [&alone], &config(), pods()).ports[0].endpoints.len(), 1);
        let beside = web_slice(&format!(r#"[{leaving},{{"addresses":["10.244.0.8"],"conditions":{{"ready":true}}}}]"#));
        let rules = plan([&web(HTTP)], [&beside], &config(), pods());
        assert_eq!(rules.ports[0].endpoints[0].ip(), &Ipv4Addr::new(10, 244, 0, 8));
    }

    #[test]
    fn headless_and_external_name_services_have_no_rules() {
        let headless = service(r#"{"metadata":{"name":"a"},"spec":{"clusterIP":"None","ports":[{"port":1}]}}"#);
        let external = service(
            r#"{"metadata":{"name":"b"},"spec":{"type":"ExternalName","clusterIP":"10.96.0.7","ports":[{"port":1}]}}"#,
        );
        assert!(plan([&headless, &external], [], &config(), pods()).ports.is_empty());
    }

    #[test]
    fn another_namespaces_slice_is_not_joined() {
        let mut foreign = web_slice(r#"[{"addresses":["10.244.0.5"]}]"#);
        foreign.metadata.namespace = Some("other".to_owned());
        assert!(plan([&web(HTTP)], [&foreign], &config(), pods()).ports[0].endpoints.is_empty());
    }

    #[test]
    fn the_order_of_services_does_not_change_the_rules() {
        let a = web(r#"[{"port":80},{"port":81,"protocol":"UDP"},{"port":82,"protocol":"SCTP"}]"#);
        let b = service(
            r#"{"metadata":{"namespace":"a","name":"x"},"spec":{"clusterIP":"10.96.0.7","ports":[{"port":1}]}}"#,
        );
        let one = plan([&a, &b], [], &config(), pods());
        assert_eq!(one, plan([&b, &a], [], &config(), pods()));
        assert_eq!(
            one.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(),
            ["a/x/tcp/1", "shop/web/tcp/80", "shop/web/udp/81"]
        );
    }
}
