//! Turns a [`Table`] into the netlink messages that replace it. Pure: bytes out, nothing sent.
//!
//! Numbers are those of linux/netfilter/nf_tables.h and nfnetlink.h, which are kernel ABI. All attribute integers
//! are big-endian; register contents of plain numbers are in the machine's order.

use super::statement::{Chain, Data, DataType, Element, Field, Hook, Map, Rule, Statement, Table, ValueType, Verdict};

/// Elements per message: keeps each list attribute far below the 64 KiB that its length field can say.
const ELEMENTS_PER_MESSAGE: usize = 512;

const SUBSYSTEM_NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACK: u16 = 0x4;
const FLAG_CREATE: u16 = 0x400;
const FLAG_APPEND: u16 = 0x800;

const FAMILY_IPV4: u8 = 2;
const NESTED: u16 = 0x8000;

const SET_CONSTANT: u32 = 0x2;
const SET_MAP: u32 = 0x8;
const TYPE_VERDICT: u32 = 0xffff_ff00;
const VERDICT_JUMP: i32 = -3;

const REGISTER_VERDICT: u32 = 0;
/// First of the four-byte registers; a key of several fields lies in consecutive ones.
const REGISTER_FIRST: u32 = 8;

const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const META_MARK: u32 = 3;
const META_PROTOCOL: u32 = 16;
const COMPARE_EQUAL: u32 = 0;
const COMPARE_UNEQUAL: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;
const ROUTE_TYPE_LOCAL: u32 = 2;
const RANDOM: u32 = 1;
const NAT_DESTINATION: u32 = 1;
const REJECT_WITH_ICMP: u32 = 0;
const ICMP_PORT_UNREACHABLE: u8 = 3;

/// Encodes the transaction that makes the kernel's table equal to `table`, whatever it was: it creates the table if
/// it is missing, deletes it, and creates it anew, all or nothing.
///
/// The result is one datagram; the second message asks for an acknowledgement.
#[must_use]
pub fn encode(table: &Table) -> Vec<u8> {
    let mut batch = Batch::new();
    batch.control(BATCH_BEGIN);
    batch.table(NEW_TABLE, FLAG_CREATE | FLAG_ACK, &table.name);
    batch.table(DELETE_TABLE, 0, &table.name);
    batch.table(NEW_TABLE, FLAG_CREATE, &table.name);
    for chain in &table.chains {
        batch.chain(&table.name, chain);
    }
    for (id, map) in table.maps.iter().enumerate() {
        let id = u32::try_from(id + 1).expect("because a batch of 2^32 sets exceeds the batch limit");
        batch.map(&table.name, id, map);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            batch.rule(&table.name, &chain.name, rule);
        }
    }
    batch.control(BATCH_END);
    batch.bytes
}

/// A growing datagram of netlink messages.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn new() -> Self {
        Self { bytes: Vec::new(), sequence: 0 }
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        let length = u32::try_from(20 + attributes.len()).expect("because one message is far below 4 GiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | FLAG_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(attributes);
        self.sequence += 1;
    }

    fn control(&mut self, kind: u16) {
        self.message(kind, 0, 0, SUBSYSTEM_NFTABLES, &[]);
    }

    fn nftables(&mut self, kind: u16, flags: u16, attributes: &Attributes) {
        self.message((SUBSYSTEM_NFTABLES << 8) | kind, flags, FAMILY_IPV4, 0, &attributes.0);
    }

    fn table(&mut self, kind: u16, flags: u16, name: &str) {
        self.nftables(kind, flags, &Attributes::default().text(1, name));
    }

    fn chain(&mut self, table: &str, chain: &Chain) {
        let mut attributes = Attributes::default().text(1, table).text(3, &chain.name);
        if let Some(hook) = chain.hook {
            let (number, priority, kind) = hook_numbers(hook);
            let hook = Attributes::default().number(1, number).signed(2, priority);
            attributes = attributes.nest(4, &hook).text(7, kind);
        }
        self.nftables(NEW_CHAIN, FLAG_CREATE, &attributes);
    }

    fn map(&mut self, table: &str, id: u32, map: &Map) {
        let mut flags = 0;
        let mut attributes = Attributes::default()
            .text(1, table)
            .text(2, &map.name)
            .number(4, joined_type(&map.key))
            .number(5, register_bytes(map.key.len()));
        match &map.data {
            DataType::Set => {}
            DataType::Verdict => {
                flags |= SET_MAP;
                attributes = attributes.number(6, TYPE_VERDICT).number(7, 16);
            }
            DataType::Values(types) => {
                flags |= SET_MAP;
                attributes = attributes.number(6, joined_type(types)).number(7, register_bytes(types.len()));
            }
        }
        attributes = attributes.number(3, flags | SET_CONSTANT).number(10, id);
        let size = u32::try_from(map.elements.len()).expect("because a batch of 2^32 elements exceeds the batch limit");
        attributes = attributes.nest(9, &Attributes::default().number(1, size.max(1)));
        self.nftables(NEW_SET, FLAG_CREATE, &attributes);
        for elements in map.elements.chunks(ELEMENTS_PER_MESSAGE) {
            let list =
                elements.iter().fold(Attributes::default(), |list, element| list.nest(1, &encode_element(element)));
            let attributes = Attributes::default().text(1, table).text(2, &map.name).number(4, id).nest(3, &list);
            self.nftables(NEW_ELEMENTS, FLAG_CREATE, &attributes);
        }
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let expressions = rule.0.iter().fold(Expressions::default(), |all, statement| all.statement(statement));
        let attributes = Attributes::default().text(1, table).text(2, chain).nest(4, &expressions.0);
        self.nftables(NEW_RULE, FLAG_CREATE | FLAG_APPEND, &attributes);
    }
}

fn hook_numbers(hook: Hook) -> (u32, i32, &'static str) {
    match hook {
        Hook::NatPrerouting => (0, -100, "nat"),
        Hook::NatOutput => (3, -100, "nat"),
        Hook::NatPostrouting => (4, 100, "nat"),
        Hook::FilterInput => (1, 0, "filter"),
        Hook::FilterForward => (2, 0, "filter"),
        Hook::FilterOutput => (3, 0, "filter"),
    }
}

/// The `nft` program's number for the type, six bits a part; the kernel only stores it, people see it in listings.
fn joined_type(parts: &[ValueType]) -> u32 {
    parts.iter().fold(0, |joined, part| {
        let number = match part {
            ValueType::Number => 4,
            ValueType::Address => 7,
            ValueType::Protocol => 12,
            ValueType::Port => 13,
        };
        (joined << 6) | number
    })
}

fn register_bytes(parts: usize) -> u32 {
    u32::try_from(parts * 4).expect("because a key has a handful of parts")
}

fn encode_element(element: &Element) -> Attributes {
    let key: Vec<u8> = element.key.iter().flat_map(|value| value.register()).collect();
    let attributes = Attributes::default().nest(1, &Attributes::default().raw(1, &key));
    match &element.data {
        Data::Set => attributes,
        Data::Verdict(verdict) => attributes.nest(2, &encode_verdict(verdict)),
        Data::Values(values) => {
            let data: Vec<u8> = values.iter().flat_map(|value| value.register()).collect();
            attributes.nest(2, &Attributes::default().raw(1, &data))
        }
    }
}

fn encode_verdict(verdict: &Verdict) -> Attributes {
    let Verdict::Jump(chain) = verdict;
    Attributes::default().nest(2, &Attributes::default().signed(1, VERDICT_JUMP).text(2, chain))
}

/// The expressions of one rule.
#[derive(Default)]
struct Expressions(Attributes);

impl Expressions {
    fn push(self, name: &str, data: &Attributes) -> Self {
        Self(self.0.nest(1, &Attributes::default().text(1, name).nest(2, data)))
    }

    fn statement(self, statement: &Statement) -> Self {
        match statement {
            Statement::InSet { fields, set } => self.load(fields).lookup(set, None),
            Statement::VerdictMap { fields, map } => self.load(fields).lookup(map, Some(REGISTER_VERDICT)),
            Statement::AddressIs { field, mask, value } => self.address(*field, *mask, *value, COMPARE_EQUAL),
            Statement::AddressIsNot { field, mask, value } => self.address(*field, *mask, *value, COMPARE_UNEQUAL),
            Statement::ToLocalAddress => self
                .push(
                    "fib",
                    &Attributes::default()
                        .number(1, REGISTER_FIRST)
                        .number(2, FIB_ADDRESS_TYPE)
                        .number(3, FIB_OF_DESTINATION),
                )
                .compare(COMPARE_EQUAL, &ROUTE_TYPE_LOCAL.to_ne_bytes()),
            Statement::MarkHas(bits) => {
                self.load_mark().bits(&bits.to_ne_bytes(), &[0; 4]).compare(COMPARE_EQUAL, &bits.to_ne_bytes())
            }
            Statement::SetMark(bits) => self.load_mark().bits(&(!bits).to_ne_bytes(), &bits.to_ne_bytes()).store_mark(),
            Statement::ClearMark(bits) => self.load_mark().bits(&(!bits).to_ne_bytes(), &[0; 4]).store_mark(),
            Statement::RandomDestination { map, count } => self
                .push("numgen", &Attributes::default().number(1, REGISTER_FIRST).number(2, *count).number(3, RANDOM))
                .lookup(map, Some(REGISTER_FIRST))
                .push(
                    "nat",
                    &Attributes::default()
                        .number(1, NAT_DESTINATION)
                        .number(2, u32::from(FAMILY_IPV4))
                        .number(3, REGISTER_FIRST)
                        .number(5, REGISTER_FIRST + 1),
                ),
            Statement::Masquerade => self.push("masq", &Attributes::default()),
            Statement::Reject => {
                self.push("reject", &Attributes::default().number(1, REJECT_WITH_ICMP).raw(2, &[ICMP_PORT_UNREACHABLE]))
            }
            Statement::Jump(chain) => {
                let verdict = encode_verdict(&Verdict::Jump(chain.clone()));
                self.push("immediate", &Attributes::default().number(1, REGISTER_VERDICT).nest(2, &verdict))
            }
        }
    }

    fn load(self, fields: &[Field]) -> Self {
        (REGISTER_FIRST..).zip(fields).fold(self, |all, (register, field)| all.load_field(*field, register))
    }

    fn load_field(self, field: Field, register: u32) -> Self {
        let payload = |base: u32, offset: u32, length: u32| {
            Attributes::default().number(1, register).number(2, base).number(3, offset).number(4, length)
        };
        match field {
            Field::Source => self.push("payload", &payload(BASE_NETWORK, 12, 4)),
            Field::Destination => self.push("payload", &payload(BASE_NETWORK, 16, 4)),
            Field::Protocol => self.push("meta", &Attributes::default().number(1, register).number(2, META_PROTOCOL)),
            Field::DestinationPort => self.push("payload", &payload(BASE_TRANSPORT, 2, 2)),
        }
    }

    fn load_mark(self) -> Self {
        self.push("meta", &Attributes::default().number(1, REGISTER_FIRST).number(2, META_MARK))
    }

    fn store_mark(self) -> Self {
        self.push("meta", &Attributes::default().number(2, META_MARK).number(3, REGISTER_FIRST))
    }

    fn address(self, field: Field, mask: u32, value: u32, operator: u32) -> Self {
        self.load_field(field, REGISTER_FIRST)
            .bits(&mask.to_be_bytes(), &[0; 4])
            .compare(operator, &value.to_be_bytes())
    }

    fn bits(self, mask: &[u8; 4], xor: &[u8; 4]) -> Self {
        let data = |bytes: &[u8; 4]| Attributes::default().raw(1, bytes);
        let attributes = Attributes::default()
            .number(1, REGISTER_FIRST)
            .number(2, REGISTER_FIRST)
            .number(3, 4)
            .nest(4, &data(mask))
            .nest(5, &data(xor));
        self.push("bitwise", &attributes)
    }

    fn compare(self, operator: u32, value: &[u8; 4]) -> Self {
        let data = Attributes::default().raw(1, value);
        self.push("cmp", &Attributes::default().number(1, REGISTER_FIRST).number(2, operator).nest(3, &data))
    }

    fn lookup(self, set: &str, into: Option<u32>) -> Self {
        let attributes = Attributes::default().text(1, set).number(2, REGISTER_FIRST);
        let attributes = match into {
            Some(register) => attributes.number(3, register),
            None => attributes,
        };
        self.push("lookup", &attributes)
    }
}

/// Netlink attributes: length, type, value, padding to four bytes.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn raw(mut self, kind: u16, value: &[u8]) -> Self {
        let length =
            u16::try_from(4 + value.len()).expect("because names and element lists are bounded far below 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes)
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.raw(kind, &value.to_be_bytes())
    }

    fn signed(self, kind: u16, value: i32) -> Self {
        self.raw(kind, &value.to_be_bytes())
    }

    fn nest(self, kind: u16, inner: &Self) -> Self {
        self.raw(kind | NESTED, &inner.0)
    }
}
