//! What a table may hold: chains, rules of statements, sets and maps. Values only; [`super::encode`] makes messages.

use std::net::Ipv4Addr;

/// A whole IPv4 table, which replaces the one of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Name of the table in the `ip` family.
    pub name: String,
    /// Sets and maps.
    pub maps: Vec<Map>,
    /// Chains with their rules.
    pub chains: Vec<Chain>,
}

/// A named set (no data) or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Name, unique in the table.
    pub name: String,
    /// Shape of the keys: one or several joined values.
    pub key: Vec<ValueType>,
    /// What a lookup gives.
    pub data: DataType,
    /// The elements.
    pub elements: Vec<Element>,
}

/// One element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key, value by value.
    pub key: Vec<Value>,
    /// What the lookup gives.
    pub data: Data,
}

/// What a map's lookups give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataType {
    /// Nothing: it is a set.
    Set,
    /// A verdict.
    Verdict,
    /// Joined values.
    Values(Vec<ValueType>),
}

/// What one element's lookup gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: it is in the set.
    Set,
    /// A verdict.
    Verdict(Verdict),
    /// Joined values.
    Values(Vec<Value>),
}

/// Where a rule may send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To a chain, and back when that chain ends without a decision.
    Jump(String),
}

/// The kind of a value; each takes four bytes in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// An IPv4 address.
    Address,
    /// An IP protocol number.
    Protocol,
    /// A port.
    Port,
    /// A plain number in the machine's byte order.
    Number,
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// An IPv4 address.
    Address(Ipv4Addr),
    /// An IP protocol number.
    Protocol(u8),
    /// A port.
    Port(u16),
    /// A plain number in the machine's byte order.
    Number(u32),
}

/// A chain; with a hook the kernel starts there, without one only rules do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name, unique in the table.
    pub name: String,
    /// Where the kernel calls it.
    pub hook: Option<Hook>,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// Where the kernel calls a base chain; the priorities are the standard ones of nat (-100, 100) and filter (0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Destination NAT of packets that arrive.
    NatPrerouting,
    /// Destination NAT of packets that this host sends.
    NatOutput,
    /// Source NAT of packets that leave.
    NatPostrouting,
    /// Filter for packets to this host.
    FilterInput,
    /// Filter for packets that pass through.
    FilterForward,
    /// Filter for packets that this host sends.
    FilterOutput,
}

/// Statements that run in order until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(pub Vec<Statement>);

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Goes on when the packet's fields are in the set.
    InSet {
        /// The fields that make the key.
        fields: Vec<Field>,
        /// The set's name.
        set: String,
    },
    /// Looks the packet's fields up in a verdict map and does what it says.
    VerdictMap {
        /// The fields that make the key.
        fields: Vec<Field>,
        /// The map's name.
        map: String,
    },
    /// Goes on when the field, masked, equals the value.
    AddressIs {
        /// Source or destination.
        field: Field,
        /// Bits that count.
        mask: u32,
        /// Value of those bits.
        value: u32,
    },
    /// Goes on when the field, masked, differs from the value.
    AddressIsNot {
        /// Source or destination.
        field: Field,
        /// Bits that count.
        mask: u32,
        /// Value of those bits.
        value: u32,
    },
    /// Goes on when the destination is an address of this host.
    ToLocalAddress,
    /// Goes on when all bits of the packet mark in the mask are set.
    MarkHas(u32),
    /// Sets bits of the packet mark.
    SetMark(u32),
    /// Clears bits of the packet mark.
    ClearMark(u32),
    /// Rewrites the destination to a random element of a map from `0..count` to address and port.
    RandomDestination {
        /// The map's name.
        map: String,
        /// Number of elements, at least one.
        count: u32,
    },
    /// Rewrites the source to the address of the interface that the packet leaves by.
    Masquerade,
    /// Answers "port unreachable".
    Reject,
    /// Goes through another chain.
    Jump(String),
}

/// A field of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// IPv4 source address.
    Source,
    /// IPv4 destination address.
    Destination,
    /// IP protocol.
    Protocol,
    /// TCP or UDP destination port.
    DestinationPort,
}

impl Value {
    /// The value as it lies in its register: four bytes, padded with zeroes.
    #[must_use]
    pub fn register(self) -> [u8; 4] {
        match self {
            Self::Address(address) => address.octets(),
            Self::Protocol(protocol) => [protocol, 0, 0, 0],
            Self::Port(port) => {
                let [high, low] = port.to_be_bytes();
                [high, low, 0, 0]
            }
            Self::Number(number) => number.to_ne_bytes(),
        }
    }
}
