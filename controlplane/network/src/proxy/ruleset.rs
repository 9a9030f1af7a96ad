//! The decided rules and how they lie in the kernel's table `ip cairn`.
//!
//! ```text
//! prerouting, output (dstnat)  -> services: (address, protocol, port) ------vmap cluster-ips--> svc/<port>
//!                                           to this host: node-ports: mark; vmap node-ports --> svc/<port>; unmark
//! svc/<port>:   dnat to ep/<port>[random mod n]
//! postrouting:  marked | own pod to itself | own pod to outside of the cluster -> masquerade
//! input, forward, output (filter): frontends without endpoint -> reject
//! ```
//! Every step is one hash look-up, however many services there are.

use crate::cidr::Cidr;
use crate::nftables::statement::{Data, DataType, Field, Statement, Value, ValueType};
use crate::nftables::{Chain, Element, Hook, Map, Rule, Table, Verdict};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Name of our table; no other table is ever read or written.
pub(crate) const TABLE: &str = "cairn";
/// Packet mark of connections that must leave with this host's address; one bit, so other users of marks coexist.
const MASQUERADE_MARK: u32 = 0x4000;
/// The loop-back range: node ports do not listen there, since the kernel drops such packets on other interfaces.
const LOOPBACK: (u32, u32) = (0xff00_0000, 0x7f00_0000);

/// All rules of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The node's own pod range.
    pub pods: Cidr,
    /// The pod range of the whole cluster; traffic inside it keeps its source.
    pub cluster: Cidr,
    /// Service ports, ordered by name.
    pub ports: Vec<ServicePort>,
}

/// One port of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Unique and stable: namespace/service/protocol/port.
    pub name: String,
    /// TCP or UDP.
    pub protocol: TransportProtocol,
    /// Where clients knock.
    pub frontends: Vec<Frontend>,
    /// Where connections go, sorted; empty means that they are rejected.
    pub endpoints: Vec<SocketAddrV4>,
}

/// Where clients of a service port knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend {
    /// A cluster or external IP.
    Address {
        /// The address.
        address: Ipv4Addr,
        /// The port on it.
        port: u16,
    },
    /// A port on every address of every node.
    NodePort {
        /// The port.
        port: u16,
    },
}

/// A protocol that services may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransportProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl TransportProtocol {
    /// Reads the API's spelling; absent means TCP, anything but TCP and UDP gives none.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some(_) => None,
        }
    }

    /// Lower case, as it appears in chain names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl Ruleset {
    /// Lays the rules out as the table that replaces the kernel's.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut chains = self.base_chains();
        let mut maps = self.frontend_maps();
        for port in self.ports.iter().filter(|port| !port.endpoints.is_empty()) {
            maps.push(endpoint_map(port));
            chains.push(balance_chain(port));
        }
        Table { name: TABLE.to_owned(), maps, chains }
    }

    fn base_chains(&self) -> Vec<Chain> {
        let address = vec![Field::Destination, Field::Protocol, Field::DestinationPort];
        let port = vec![Field::Protocol, Field::DestinationPort];
        let jump = |chain: &str| Rule(vec![Statement::Jump(chain.to_owned())]);
        let chain = |name: &str, hook, rules| Chain { name: name.to_owned(), hook, rules };
        let reject_address =
            Rule(vec![Statement::InSet { fields: address.clone(), set: "rejected-ips".to_owned() }, Statement::Reject]);
        let reject_port = Rule(vec![
            Statement::ToLocalAddress,
            Statement::InSet { fields: port.clone(), set: "rejected-node-ports".to_owned() },
            Statement::Reject,
        ]);
        let (mask, value) = LOOPBACK;
        let not_loopback = Statement::AddressIsNot { field: Field::Destination, mask, value };
        let by_address = Rule(vec![Statement::VerdictMap { fields: address, map: "cluster-ips".to_owned() }]);
        let by_port = Rule(vec![Statement::VerdictMap { fields: port, map: "node-ports".to_owned() }]);
        let to_node_ports =
            Rule(vec![Statement::ToLocalAddress, not_loopback, Statement::Jump("node-ports".to_owned())]);
        vec![
            // Chains that others jump to come first: the kernel wants targets to exist.
            chain(
                "node-ports",
                None,
                vec![
                    Rule(vec![Statement::SetMark(MASQUERADE_MARK)]),
                    by_port,
                    Rule(vec![Statement::ClearMark(MASQUERADE_MARK)]),
                ],
            ),
            chain("services", None, vec![by_address, to_node_ports]),
            chain("prerouting", Some(Hook::NatPrerouting), vec![jump("services")]),
            chain("output", Some(Hook::NatOutput), vec![jump("services")]),
            chain("postrouting", Some(Hook::NatPostrouting), self.postrouting()),
            chain("filter-input", Some(Hook::FilterInput), vec![reject_port.clone()]),
            chain("filter-forward", Some(Hook::FilterForward), vec![reject_address.clone()]),
            chain("filter-output", Some(Hook::FilterOutput), vec![reject_address, reject_port]),
        ]
    }

    fn postrouting(&self) -> Vec<Rule> {
        let within =
            |field, range: Cidr| Statement::AddressIs { field, mask: range.mask(), value: range.network().to_bits() };
        let cluster = self.cluster;
        vec![
            Rule(vec![
                Statement::MarkHas(MASQUERADE_MARK),
                Statement::ClearMark(MASQUERADE_MARK),
                Statement::Masquerade,
            ]),
            Rule(vec![
                Statement::InSet { fields: vec![Field::Source, Field::Destination], set: "hairpins".to_owned() },
                Statement::Masquerade,
            ]),
            Rule(vec![
                within(Field::Source, self.pods),
                Statement::AddressIsNot {
                    field: Field::Destination,
                    mask: cluster.mask(),
                    value: cluster.network().to_bits(),
                },
                Statement::Masquerade,
            ]),
        ]
    }

    fn frontend_maps(&self) -> Vec<Map> {
        let address = vec![ValueType::Address, ValueType::Protocol, ValueType::Port];
        let port = vec![ValueType::Protocol, ValueType::Port];
        let map = |name: &str, key: &Vec<ValueType>, data: DataType, elements| Map {
            name: name.to_owned(),
            key: key.clone(),
            data,
            elements,
        };
        vec![
            map("cluster-ips", &address, DataType::Verdict, self.frontends(true, address_key)),
            map("node-ports", &port, DataType::Verdict, self.frontends(true, node_port_key)),
            map("rejected-ips", &address, DataType::Set, self.frontends(false, address_key)),
            map("rejected-node-ports", &port, DataType::Set, self.frontends(false, node_port_key)),
            map("hairpins", &vec![ValueType::Address, ValueType::Address], DataType::Set, self.hairpins()),
        ]
    }

    /// Elements for all frontends that `key` accepts, of ports with (`served`) or without endpoints. Two services
    /// that claim one external address and port must not make the transaction fail: the first by name wins.
    fn frontends(&self, served: bool, key: fn(&ServicePort, &Frontend) -> Option<Vec<Value>>) -> Vec<Element> {
        let mut taken = BTreeSet::new();
        let mut elements = Vec::new();
        for port in &self.ports {
            for key in port.frontends.iter().filter_map(|frontend| key(port, frontend)) {
                let bytes: Vec<u8> = key.iter().flat_map(|value| value.register()).collect();
                if taken.insert(bytes) && served != port.endpoints.is_empty() {
                    let data = if served { Data::Verdict(Verdict::Jump(balance_name(port))) } else { Data::Set };
                    elements.push(Element { key, data });
                }
            }
        }
        elements
    }

    /// A pod that reaches itself through a service must not see its own address as the peer's.
    fn hairpins(&self) -> Vec<Element> {
        let own = self.ports.iter().flat_map(|port| &port.endpoints).map(|endpoint| *endpoint.ip());
        let own: BTreeSet<Ipv4Addr> = own.filter(|address| self.pods.contains(*address)).collect();
        let element = |address| Element { key: vec![Value::Address(address); 2], data: Data::Set };
        own.into_iter().map(element).collect()
    }
}

fn address_key(service: &ServicePort, frontend: &Frontend) -> Option<Vec<Value>> {
    match frontend {
        Frontend::Address { address, port } => {
            Some(vec![Value::Address(*address), Value::Protocol(service.protocol.number()), Value::Port(*port)])
        }
        Frontend::NodePort { .. } => None,
    }
}

fn node_port_key(service: &ServicePort, frontend: &Frontend) -> Option<Vec<Value>> {
    match frontend {
        Frontend::NodePort { port } => Some(vec![Value::Protocol(service.protocol.number()), Value::Port(*port)]),
        Frontend::Address { .. } => None,
    }
}

fn balance_name(port: &ServicePort) -> String {
    format!("svc/{}", port.name)
}

fn endpoint_map_name(port: &ServicePort) -> String {
    format!("ep/{}", port.name)
}

fn endpoint_map(port: &ServicePort) -> Map {
    let element = |(index, endpoint): (u32, &SocketAddrV4)| Element {
        key: vec![Value::Number(index)],
        data: Data::Values(vec![Value::Address(*endpoint.ip()), Value::Port(endpoint.port())]),
    };
    Map {
        name: endpoint_map_name(port),
        key: vec![ValueType::Number],
        data: DataType::Values(vec![ValueType::Address, ValueType::Port]),
        elements: (0..).zip(&port.endpoints).map(element).collect(),
    }
}

fn balance_chain(port: &ServicePort) -> Chain {
    let count = u32::try_from(port.endpoints.len()).expect("because a service has far fewer than 2^32 endpoints");
    let statement = Statement::RandomDestination { map: endpoint_map_name(port), count };
    Chain { name: balance_name(port), hook: None, rules: vec![Rule(vec![statement])] }
}
