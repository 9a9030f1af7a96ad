//! The pod network and the service proxy against the real kernel, in network namespaces that the test makes.
//!
//! Needs root; for anybody else the test runs itself again as root of a user namespace (`unshare`, util-linux).

use controlplane_network::{Cidr, NetworkConfig, NftSocket, PodNetwork, namespace, proxy, routes};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Longest a connection may take; all of them are local, so more means that it was dropped.
const CONNECT: Duration = Duration::from_secs(3);
const CLUSTER_IP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 7, 7), 80);
const NODE_PORT: u16 = 30080;
const ONE: &str = "0b6f0000-0000-0000-0000-000000000001";
const TWO: &str = "0b6f0000-0000-0000-0000-000000000002";

/// Runs `work` in a fresh "machine": a network namespace with a loop-back and an empty state folder.
fn on_a_machine<F>(test: &str, work: impl FnOnce(NetworkConfig) -> F + Send)
where
    F: Future<Output = ()>,
{
    if !nix::unistd::Uid::effective().is_root() {
        let exe = std::env::current_exe().expect("because the test is a file");
        let status = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount"])
            .arg(exe)
            .args(["--exact", test, "--nocapture"])
            .status()
            .expect("because unshare is part of every Debian");
        assert!(status.success(), "{test} failed as root of a user namespace");
        return;
    }
    let folder = tempfile::tempdir().expect("because tests may write temporary files");
    let machine = folder.path().join("machine");
    namespace::create(&machine).expect("because root may make network namespaces");
    let config = NetworkConfig {
        state: folder.path().join("state"),
        namespaces: folder.path().join("netns"),
        ..NetworkConfig::default()
    };
    let entered = namespace::enter(&machine, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            loopback_up().await;
            work(config).await;
        });
        Ok(())
    });
    namespace::remove(&machine).expect("because nothing holds it");
    entered.expect("because the machine's namespace exists");
}

/// A new namespace's loop-back is down, and a host's answers to itself travel over it.
async fn loopback_up() {
    let (driver, handle, _events) = rtnetlink::new_connection().expect("because netlink is always there");
    let up = handle.link().set(rtnetlink::LinkUnspec::new_with_name("lo").up().build()).execute();
    tokio::select! {
        done = up => done.expect("because every namespace has a loop-back"),
        () = driver => panic!("the netlink socket closed"),
    }
}

fn range() -> Cidr {
    "10.244.0.0/24".parse().expect("because it is a valid range")
}

/// Answers every connection in the pod with the pod's name and the client's address.
fn serve(network: &PodNetwork, uid: &str, name: &'static str) {
    let listener = namespace::enter(&network.namespace(uid), || TcpListener::bind("0.0.0.0:8080"))
        .expect("because the pod's namespace is empty");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            if let Ok(SocketAddr::V4(peer)) = connection.peer_addr() {
                // A client that left early is its own affair.
                let _ = write!(connection, "{name} {}", peer.ip());
            }
        }
    });
}

fn ask(address: impl Into<SocketAddr>) -> io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address.into(), CONNECT)?;
    connection.set_read_timeout(Some(CONNECT))?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_from(namespace: &Path, address: impl Into<SocketAddr> + Send) -> io::Result<String> {
    namespace::enter(namespace, || ask(address)).map_err(|error| error.source)
}

fn web(endpoints: &[Ipv4Addr]) -> (Service, EndpointSlice) {
    let endpoints: Vec<_> = endpoints.iter().map(|ip| serde_json::json!({ "addresses": [ip] })).collect();
    let service = serde_json::json!({ "metadata": { "namespace": "shop", "name": "web" }, "spec": {
        "clusterIP": CLUSTER_IP.ip(), "ports": [{ "name": "http", "port": 80, "nodePort": NODE_PORT }] } });
    let slice = serde_json::json!({ "addressType": "IPv4", "endpoints": endpoints,
        "metadata": { "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }] });
    let well_formed = "because the test's objects are well formed";
    (serde_json::from_value(service).expect(well_formed), serde_json::from_value(slice).expect(well_formed))
}

fn apply(socket: &NftSocket, config: &NetworkConfig, endpoints: &[Ipv4Addr]) {
    let (service, slice) = web(endpoints);
    let rules = proxy::plan([&service], [&slice], config, range());
    socket.apply(&rules.table()).expect("because the kernel has nf_tables");
}

#[test]
fn connections_reach_pods_through_cluster_ip_and_node_port() {
    on_a_machine("connections_reach_pods_through_cluster_ip_and_node_port", services_work);
}

/// With the module br_netfilter, frames between ports of a bridge pass the IP hooks too; both ways must work.
#[test]
fn connections_reach_pods_whether_or_not_the_bridge_calls_the_ip_hooks() {
    const SETTING: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    on_a_machine("connections_reach_pods_whether_or_not_the_bridge_calls_the_ip_hooks", async |config| {
        match std::fs::read_to_string(SETTING) {
            Ok(on) => {
                let other = if on.trim() == "1" { "0" } else { "1" };
                std::fs::write(SETTING, other).expect("because the namespace is ours");
                services_work(config).await;
            }
            Err(_module_not_loaded) => services_work(config).await,
        }
    });
}

async fn services_work(config: NetworkConfig) {
    let network = PodNetwork::open(config.clone(), range()).await.expect("because the namespace is ours");
    let one = network.attach(ONE).await.expect("because the range is empty");
    let two = network.attach(TWO).await.expect("because the range has room");
    serve(&network, ONE, "one");
    serve(&network, TWO, "two");
    let socket = NftSocket::open().expect("because the kernel has nf_tables");
    apply(&socket, &config, &[one.address, two.address]);

    let node_port = SocketAddrV4::new(one.gateway, NODE_PORT);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let here = ask(CLUSTER_IP).expect("because both endpoints listen");
        seen.insert(here.split(' ').next().map(str::to_owned));
        ask(node_port).expect("because this machine's own programs reach node ports");
        // From the pod also to itself: the hairpin.
        let inside = ask_from(&network.namespace(ONE), CLUSTER_IP).expect("because pods reach services");
        let expected = if inside.starts_with("one") { one.gateway } else { one.address };
        assert!(inside.ends_with(&format!(" {expected}")), "{inside}");
        ask_from(&network.namespace(ONE), node_port).expect("because pods reach node ports");
    }
    assert_eq!(seen.len(), 2, "both endpoints are chosen");
    let direct = ask_from(&network.namespace(ONE), SocketAddrV4::new(two.address, 8080));
    assert_eq!(direct.expect("because pods reach each other"), format!("two {}", one.address));
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    on_a_machine("a_service_without_endpoints_refuses_at_once", async |config| {
        let network = PodNetwork::open(config.clone(), range()).await.expect("because the namespace is ours");
        let one = network.attach(ONE).await.expect("because the range is empty");
        let socket = NftSocket::open().expect("because the kernel has nf_tables");
        apply(&socket, &config, &[]);
        let refused = |answer: io::Result<String>| {
            assert_eq!(answer.expect_err("because nobody listens").kind(), io::ErrorKind::ConnectionRefused);
        };
        refused(ask(CLUSTER_IP));
        refused(ask_from(&network.namespace(ONE), CLUSTER_IP));
        refused(ask_from(&network.namespace(ONE), SocketAddrV4::new(one.gateway, NODE_PORT)));
    });
}

#[test]
fn a_restarted_agent_finds_pods_where_it_left_them() {
    on_a_machine("a_restarted_agent_finds_pods_where_it_left_them", async |config| {
        let network = PodNetwork::open(config.clone(), range()).await.expect("because the namespace is ours");
        let before = network.attach(ONE).await.expect("because the range is empty");
        serve(&network, ONE, "one");
        drop(network);
        let network = PodNetwork::open(config, range()).await.expect("because the state is readable");
        assert_eq!(network.attach(ONE).await.expect("because it is attached"), before);
        ask(SocketAddrV4::new(before.address, 8080)).expect("because the pod's server still runs");
        assert_eq!(network.pods().await, [ONE]);
        network.detach(ONE).await.expect("because nothing is in its way");
        network.detach(ONE).await.expect("because a detached pod may be detached again");
        assert!(!network.namespace(ONE).exists());
        assert!(network.pods().await.is_empty());
    });
}

#[test]
fn a_foreign_change_to_our_table_is_noticed_and_our_own_is_not() {
    on_a_machine("a_foreign_change_to_our_table_is_noticed_and_our_own_is_not", async |config| {
        let socket = NftSocket::open().expect("because the kernel has nf_tables");
        apply(&socket, &config, &[]);
        let other = NftSocket::open().expect("because the kernel has nf_tables");
        let quiet = tokio::time::timeout(Duration::from_millis(100), socket.changed_by_others("cairn"));
        assert!(quiet.await.is_err(), "our own transaction woke us");
        apply(&other, &config, &[]);
        tokio::time::timeout(CONNECT, socket.changed_by_others("cairn"))
            .await
            .expect("because the other's transaction is announced")
            .expect("because the socket is open");
    });
}

/// Destinations of the namespace's routes, as /proc shows them: hexadecimal, last byte first.
fn destinations() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/route").expect("because every kernel has it");
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

#[test]
fn pods_of_other_nodes_are_routed_until_the_node_is_gone() {
    on_a_machine("pods_of_other_nodes_are_routed_until_the_node_is_gone", |config| async move {
        let network = PodNetwork::open(config, range()).await.expect("because root may make links");
        let own = destinations();
        let other: Cidr = "10.244.1.0/24".parse().expect("because it is a valid range");
        // The bridge is a link that both addresses are on.
        let wanted = |last| routes::Routes::from([(other, Ipv4Addr::new(10, 244, 0, last))]);
        for gateway in [9, 9, 10] {
            routes::apply(wanted(gateway)).await.expect("because the kernel has routes");
            assert_eq!(destinations().iter().filter(|to| *to == "0001F40A").count(), 1);
        }
        routes::apply(routes::Routes::new()).await.expect("because the kernel has routes");
        assert_eq!(destinations(), own, "what is not a route to other nodes' pods stays");
        let unreachable = routes::Routes::from([(other, Ipv4Addr::new(192, 0, 2, 1))]);
        routes::apply(unreachable).await.expect("because one node out of reach is no error");
        assert_eq!(destinations(), own);
        drop(network);
    });
}
