//! Objects that every cluster has from its first minute. Made where missing, on every start; never changed when they exist.

use crate::admission;
use crate::caller::Caller;
use crate::failure::Failure;
use crate::query::WriteOptions;
use crate::registry::{self, Call};
use crate::request::ResourcePath;
use crate::server::Inner;
use controlplane_types::Reason;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// The namespaces of every cluster.
pub(crate) const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease", "cairn-system"];

/// Makes what is missing.
pub(crate) async fn run(server: &Inner) -> Result<(), Failure> {
    for name in NAMESPACES {
        ensure(server, ("", "v1", "namespaces"), "", json!({"metadata": {"name": name}})).await?;
    }
    ensure(server, ("", "v1", "services"), "default", kubernetes_service(server)).await?;
    if let Some((address, port)) = server.options.advertise {
        let slice = kubernetes_slice(address, port);
        let kind = ("discovery.k8s.io", "v1", "endpointslices");
        ensure(server, kind, "default", slice).await?;
    }
    Ok(())
}

/// The first address of the service range, where every pod finds the API server.
fn service_ip(server: &Inner) -> Ipv4Addr {
    Ipv4Addr::from(*admission::service_addresses(server.options.service_range).start())
}

fn kubernetes_service(server: &Inner) -> Value {
    let target = server.options.advertise.map_or(6443, |(_, port)| port);
    json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": service_ip(server).to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": target}],
        },
    })
}

fn kubernetes_slice(address: Ipv4Addr, port: u16) -> Value {
    json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// Creates an object through the registry, admission included, unless it exists.
async fn ensure(
    server: &Inner,
    (group, version, resource): (&str, &str, &str),
    namespace: &str,
    object: Value,
) -> Result<(), Failure> {
    let kind = server.kind(group, version, resource)?;
    let path = ResourcePath {
        group: group.into(),
        version: version.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        ..ResourcePath::default()
    };
    let caller = Caller::controllers();
    let call = Call::new(server, kind, path, &caller, "apiserver");
    match registry::create(&call, object, &WriteOptions::default()).await {
        Err(Failure::Api(error)) if error.reason == Reason::AlreadyExists => Ok(()),
        Err(failure) => Err(failure),
        Ok(_) => Ok(()),
    }
}
