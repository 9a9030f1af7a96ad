//! Objects that every cluster has from its first minute. Made where missing, on every start; what exists is left alone. The endpoints of
//! the `kubernetes` Service follow the API servers that run.

use crate::admission;
use crate::caller::Caller;
use crate::failure::Failure;
use crate::query::WriteOptions;
use crate::registry::{self, Call};
use crate::request::ResourcePath;
use crate::server::Inner;
use controlplane_types::object::Object;
use controlplane_types::patch::PatchType;
use controlplane_types::{Endpoint, Reason};
use serde_json::{Value, json};
use std::collections::BTreeSet;
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
        ensure(server, SLICES, "default", kubernetes_slice(&BTreeSet::from([address]), port)).await?;
    }
    Ok(())
}

const SLICES: (&str, &str, &str) = ("discovery.k8s.io", "v1", "endpointslices");

/// Makes the `kubernetes` Service lead to these addresses, each with this server's port.
pub(crate) async fn advertise(server: &Inner, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), Failure> {
    let Some((_, port)) = server.options.advertise else { return Ok(()) };
    correct(server, SLICES, "default", kubernetes_slice(addresses, port)).await
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

fn kubernetes_slice(addresses: &BTreeSet<Ipv4Addr>, port: u16) -> Value {
    let endpoint = |address: &Ipv4Addr| json!({"addresses": [address.to_string()], "conditions": {"ready": true}});
    let endpoints: Vec<Value> = addresses.iter().map(endpoint).collect();
    json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// Creates an object through the registry, admission included, unless it exists. Says whether it was missing.
async fn ensure(
    server: &Inner,
    (group, version, resource): (&str, &str, &str),
    namespace: &str,
    object: Value,
) -> Result<bool, Failure> {
    let caller = Caller::controllers();
    let call = call(server, &caller, (group, version, resource), namespace, object.name())?;
    // Looked at first: admission would refuse to give out an existing Service's own address again.
    match registry::get(&call, None).await {
        Ok(_) => return Ok(false),
        Err(Failure::Api(error)) if error.reason == Reason::NotFound => {}
        Err(failure) => return Err(failure),
    }
    match registry::create(&call, object, &WriteOptions::default()).await {
        Err(Failure::Api(error)) if error.reason == Reason::AlreadyExists => Ok(false),
        Err(failure) => Err(failure),
        Ok(_) => Ok(true),
    }
}

/// Makes an object have the fields of `object`.
async fn correct(server: &Inner, kind: (&str, &str, &str), namespace: &str, object: Value) -> Result<(), Failure> {
    let caller = Caller::controllers();
    let call = call(server, &caller, kind, namespace, object.name())?;
    registry::patch(&call, Endpoint::Main, PatchType::Merge, object, &WriteOptions::default()).await?;
    Ok(())
}

fn call<'a>(
    server: &'a Inner,
    caller: &'a Caller,
    (group, version, resource): (&str, &str, &str),
    namespace: &str,
    name: &str,
) -> Result<Call<'a>, Failure> {
    let kind = server.kind(group, version, resource)?;
    let path = ResourcePath {
        group: group.into(),
        version: version.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..ResourcePath::default()
    };
    Ok(Call::new(server, kind, path, caller, "apiserver"))
}
