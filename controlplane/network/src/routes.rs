//! Routes to the pods of other nodes, over the other node's own address: for nodes that share a link, where no overlay is needed.
//!
//! One task, `pod routes`, woken by changes of Nodes and by period. Its routes carry a protocol number of their own, by which it finds
//! what an earlier run left; no other route is touched.

use crate::cidr::Cidr;
use crate::links::{LinkError, Links};
use controlplane_client::{Informer, Informers, Object};
use k8s_openapi::api::core::v1::Node;
use machined_reconcile::{Restart, Stop, Supervisor, Trigger};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How often the routes are looked at though nothing was heard: a link that went down took them along.
const PERIOD: Duration = Duration::from_secs(60);

/// By range, the address that leads there.
pub type Routes = BTreeMap<Cidr, Ipv4Addr>;

/// Keeps the routes of the node `own` until the supervisor stops it.
pub fn run(own: String, informers: &Informers, supervisor: &Supervisor) {
    let nodes = informers.all::<Node>();
    let trigger = Trigger::new();
    let fire = trigger.clone();
    nodes.cache().on_change(move |_change| fire.fire());
    supervisor
        .spawn("pod routes", Restart::Always, move |stop| keep(own.clone(), nodes.clone(), trigger.clone(), stop));
}

async fn keep(own: String, nodes: Informer<Node>, trigger: Trigger, mut stop: Stop) -> Result<(), LinkError> {
    let mut synced = nodes.synced();
    // Half of the nodes would take away routes that should stay.
    tokio::select! {
        () = synced.wait() => {}
        () = stop.requested() => return Ok(()),
    }
    let mut wakeups = trigger.wakeups(PERIOD);
    loop {
        tokio::select! {
            () = wakeups.next() => {
                let nodes = nodes.cache().list();
                let wanted = plan(&own, nodes.iter().map(AsRef::as_ref));
                apply(wanted).await?;
            }
            () = stop.requested() => return Ok(()),
        }
    }
}

/// Makes the calling thread's network namespace have exactly these routes to pods of other nodes.
///
/// # Errors
/// When the kernel cannot be asked. An address that is on none of the machine's links is a warning.
pub async fn apply(wanted: Routes) -> Result<(), LinkError> {
    Links::here(|links| async move { change(&links, wanted).await }).await
}

async fn change(links: &Links, wanted: Routes) -> Result<(), LinkError> {
    let there = links.pod_routes().await?;
    for range in there.keys().filter(|range| !wanted.contains_key(range)) {
        links.remove_pod_route(*range).await?;
        tracing::info!(%range, "the pods of a node that is gone are not routed any more");
    }
    for (range, gateway) in wanted.into_iter().filter(|(range, gateway)| there.get(range) != Some(gateway)) {
        match links.ensure_pod_route(range, gateway).await {
            Ok(()) => tracing::info!(%range, %gateway, "the pods of another node are routed"),
            // A node that is not on one of this machine's links must not keep the others from being reached.
            Err(error) => tracing::warn!(%range, %gateway, %error, "the pods of another node cannot be reached"),
        }
    }
    Ok(())
}

/// The routes that a node needs.
fn plan<'a>(own: &str, nodes: impl Iterator<Item = &'a Node>) -> Routes {
    let route = |node: &Node| {
        let range = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        let internal = addresses.iter().filter(|one| one.type_ == "InternalIP");
        Some((range, internal.filter_map(|one| one.address.parse().ok()).next()?))
    };
    nodes.filter(|node| node.name() != own).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, range: Option<&str>, addresses: &[(&str, &str)]) -> Node {
        let addresses: Vec<_> =
            addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        let node = json!({
            "metadata": {"name": name}, "spec": {"podCIDR": range}, "status": {"addresses": addresses},
        });
        serde_json::from_value(node).expect("because it is a Node")
    }

    #[test]
    fn the_pods_of_every_other_node_are_behind_its_address() {
        let nodes = [
            node("cp1", Some("10.244.0.0/24"), &[("InternalIP", "10.9.0.11")]),
            node(
                "cp2",
                Some("10.244.1.0/24"),
                &[("Hostname", "cp2"), ("InternalIP", "fd00::2"), ("InternalIP", "10.9.0.12")],
            ),
            node("new", None, &[("InternalIP", "10.9.0.13")]),
            node("silent", Some("10.244.3.0/24"), &[]),
        ];
        let range = "10.244.1.0/24".parse().expect("because it is a range");
        assert_eq!(plan("cp1", nodes.iter()), Routes::from([(range, Ipv4Addr::new(10, 9, 0, 12))]));
    }
}
