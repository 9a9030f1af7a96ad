//! Cluster IPs and node ports of Services: what a Service needs, keeps, takes and gives back.

use super::Extra;
use super::allocation::{self, NODE_PORTS, Pool};
use crate::failure::Failure;
use crate::registry::Call;
use controlplane_types::object::{list, map_mut, set, set_default, text};
use controlplane_types::{ApiError, FieldError, Reason};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Fills in and reserves the numbers of a Service, and releases those that the change gives up.
pub(super) async fn reserve(call: &Call<'_>, old: Option<&Value>, new: &mut Value) -> Result<Extra, Failure> {
    if let Some(old) = old {
        keep_allocated(old, new);
    }
    let held = old.map(Numbers::of).unwrap_or_default();
    let mut extra = Extra::default();
    if needs_cluster_ip(new) {
        extra.add(cluster_ip(call, held.ip, new).await?);
    }
    if needs_node_ports(new) {
        extra.add(node_ports(call, &held.ports, new).await?);
    }
    let wanted = Numbers::of(new);
    if let Some(ip) = held.ip.filter(|ip| wanted.ip != Some(*ip)) {
        extra.add(allocation::give_back(Pool::ClusterIp, ip));
    }
    for port in held.ports.difference(&wanted.ports) {
        extra.add(allocation::give_back(Pool::NodePort, *port));
    }
    Ok(extra)
}

/// Releases everything that a Service holds.
pub(super) fn release(service: &Value) -> Extra {
    let held = Numbers::of(service);
    let mut extra = Extra::default();
    if let Some(ip) = held.ip {
        extra.add(allocation::give_back(Pool::ClusterIp, ip));
    }
    for port in held.ports {
        extra.add(allocation::give_back(Pool::NodePort, port));
    }
    extra
}

/// The numbers in a Service.
#[derive(Debug, Default, PartialEq, Eq)]
struct Numbers {
    ip: Option<u32>,
    ports: BTreeSet<u32>,
}

impl Numbers {
    fn of(service: &Value) -> Numbers {
        let ip = text(service, &["spec", "clusterIP"]).parse::<Ipv4Addr>().ok().map(u32::from);
        let ports = list(service, &["spec", "ports"]).iter().filter_map(node_port).collect();
        Numbers { ip, ports }
    }
}

fn node_port(port: &Value) -> Option<u32> {
    port["nodePort"].as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
}

fn needs_cluster_ip(service: &Value) -> bool {
    text(service, &["spec", "type"]) != "ExternalName" && text(service, &["spec", "clusterIP"]) != "None"
}

fn needs_node_ports(service: &Value) -> bool {
    match text(service, &["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    }
}

/// A client that sends a Service without the numbers it got keeps them, as upstream.
fn keep_allocated(old: &Value, new: &mut Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) && text(new, &["spec", "clusterIP"]).is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old["spec"].get(field) {
                set(new, &["spec"], field, value.clone());
            }
        }
    }
    if !(needs_node_ports(old) && needs_node_ports(new)) {
        return;
    }
    let mut used: BTreeSet<u32> = Numbers::of(new).ports;
    let Some(ports) = new["spec"]["ports"].as_array_mut() else { return };
    for port in ports.iter_mut().filter(|port| node_port(port).is_none()) {
        let same = |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
        let kept = list(old, &["spec", "ports"]).iter().find(same).and_then(node_port);
        if let Some(number) = kept.filter(|number| used.insert(*number)) {
            port["nodePort"] = json!(number);
        }
    }
}

async fn cluster_ip(call: &Call<'_>, held: Option<u32>, service: &mut Value) -> Result<Extra, Failure> {
    let asked = text(service, &["spec", "clusterIP"]).to_owned();
    let range = addresses(call.server.options.service_range);
    let number = if asked.is_empty() {
        let taken = allocation::taken(&*call.server.store, Pool::ClusterIp).await?;
        allocation::choose(range, &taken)
            .ok_or_else(|| ApiError::new(Reason::ServiceUnavailable, "the range of cluster IPs is used up"))?
    } else {
        let parsed = asked.parse::<Ipv4Addr>().ok().map(u32::from).filter(|n| range.contains(n));
        parsed.ok_or_else(|| {
            let detail = "must be an address of the cluster's service range";
            invalid(call, FieldError::invalid("spec.clusterIPs", &json!([asked]), detail))
        })?
    };
    let ip = Ipv4Addr::from(number).to_string();
    set(service, &["spec"], "clusterIP", ip.clone());
    set(service, &["spec"], "clusterIPs", json!([ip]));
    set_default(service, &["spec"], "ipFamilies", json!(["IPv4"]));
    set_default(service, &["spec"], "ipFamilyPolicy", "SingleStack");
    if held == Some(number) {
        return Ok(Extra::default());
    }
    if !asked.is_empty() && allocation::taken(&*call.server.store, Pool::ClusterIp).await?.contains(&number) {
        let error = FieldError::invalid(
            "spec.clusterIPs",
            &json!([asked]),
            "failed to allocate IP: provided IP is already allocated",
        );
        return Err(invalid(call, error).into());
    }
    Ok(allocation::take(Pool::ClusterIp, number, &owner(call)))
}

async fn node_ports(call: &Call<'_>, held: &BTreeSet<u32>, service: &mut Value) -> Result<Extra, Failure> {
    let mut taken = allocation::taken(&*call.server.store, Pool::NodePort).await?;
    let mut extra = Extra::default();
    let mut own = held.clone();
    let Some(ports) = map_mut(service, &["spec"]).get_mut("ports").and_then(Value::as_array_mut) else {
        return Ok(extra);
    };
    for (index, port) in ports.iter_mut().enumerate() {
        let number = match node_port(port) {
            Some(number) if own.contains(&number) => continue,
            Some(number) => {
                let field = format!("spec.ports[{index}].nodePort");
                let detail = match (NODE_PORTS.contains(&number), taken.contains(&number)) {
                    (false, _) => "provided port is not in the valid range. The range of valid ports is 30000-32767",
                    (true, true) => "provided port is already allocated",
                    (true, false) => "",
                };
                if !detail.is_empty() {
                    return Err(invalid(call, FieldError::invalid(field, &json!(number), detail)).into());
                }
                number
            }
            None => allocation::choose(NODE_PORTS, &taken)
                .ok_or_else(|| ApiError::new(Reason::ServiceUnavailable, "the range of node ports is used up"))?,
        };
        port["nodePort"] = json!(number);
        taken.insert(number);
        own.insert(number);
        extra.add(allocation::take(Pool::NodePort, number, &owner(call)));
    }
    Ok(extra)
}

fn owner(call: &Call<'_>) -> String {
    format!("{}/{}", call.path.namespace, call.path.name)
}

fn invalid(call: &Call<'_>, error: FieldError) -> ApiError {
    ApiError::invalid(&call.kind, &call.path.name, vec![error])
}

/// The addresses of a range that may be given out: all but the first (the network) and the last.
pub(crate) fn addresses((base, length): (Ipv4Addr, u8)) -> RangeInclusive<u32> {
    let host_bits = 32_u32.saturating_sub(u32::from(length));
    let size = 1_u64 << host_bits;
    let first = u32::from(base) & u32::try_from(u64::from(u32::MAX) + 1 - size).unwrap_or(0);
    let last = first | u32::try_from(size - 1).unwrap_or(u32::MAX);
    first + 1..=last.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_range_leaves_out_its_ends() {
        let range = addresses((Ipv4Addr::new(10, 96, 3, 4), 12));
        assert_eq!(Ipv4Addr::from(*range.start()), Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(Ipv4Addr::from(*range.end()), Ipv4Addr::new(10, 111, 255, 254));
    }

    #[test]
    fn a_changed_service_keeps_the_numbers_it_does_not_mention() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort",
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
        keep_allocated(&old, &mut new);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert_eq!(new["spec"]["ports"][1].get("nodePort"), None);
    }
}
