//! DHCP messages to and from bytes. Pure but for the random transaction id.

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use machined_controllers::network::LeaseTerms;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Where a server says nothing: long enough not to bother it, short enough to notice when it is gone.
const DEFAULT_LEASE: Duration = Duration::from_secs(3600);
/// Shorter leases would make the machine ask all the time.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);
/// Longest message that we take, in bytes; fits one Ethernet frame.
const MESSAGE_BYTES_MAX: u16 = 1472;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Is anybody there?
    Discover,
    /// I take the address that this server offered.
    Select { address: Ipv4Addr, server: Ipv4Addr },
    /// I have this address and want to keep it.
    Extend { address: Ipv4Addr },
}

/// A message to a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) kind: Kind,
    pub(super) hardware: &'a [u8],
    pub(super) transaction: u32,
}

/// A message from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Offer(LeaseTerms),
    Ack(LeaseTerms),
    Nak,
}

/// A new random transaction id.
pub(super) fn transaction() -> u32 {
    Message::default().xid()
}

impl Question<'_> {
    pub(super) fn encode(&self) -> Result<Vec<u8>, dhcproto::error::EncodeError> {
        let mut message = Message::default();
        message.set_xid(self.transaction).set_chaddr(self.hardware);
        let options = message.opts_mut();
        let wanted = [
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::AddressLeaseTime,
            OptionCode::Renewal,
            OptionCode::Rebinding,
        ];
        options.insert(DhcpOption::ParameterRequestList(wanted.to_vec()));
        options.insert(DhcpOption::MaxMessageSize(MESSAGE_BYTES_MAX));
        let kind = match self.kind {
            Kind::Discover => MessageType::Discover,
            Kind::Select { address, server } => {
                options.insert(DhcpOption::RequestedIpAddress(address));
                options.insert(DhcpOption::ServerIdentifier(server));
                MessageType::Request
            }
            Kind::Extend { .. } => MessageType::Request,
        };
        options.insert(DhcpOption::MessageType(kind));
        match self.kind {
            // The link has no address yet, so the answer must come as a broadcast to be heard.
            Kind::Discover | Kind::Select { .. } => message.set_flags(Flags::default().set_broadcast()),
            Kind::Extend { address } => message.set_ciaddr(address),
        };
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes))?;
        Ok(bytes)
    }
}

/// What `bytes` answers to `question`; `None` when they answer something else or are damaged.
pub(super) fn reply_to(question: &Question<'_>, bytes: &[u8]) -> Option<Reply> {
    let message = Message::decode(&mut Decoder::new(bytes)).ok()?;
    if message.xid() != question.transaction || message.chaddr() != question.hardware {
        return None;
    }
    match (question.kind, message.opts().msg_type()?) {
        (Kind::Discover, MessageType::Offer) => terms(&message).map(Reply::Offer),
        (Kind::Select { .. } | Kind::Extend { .. }, MessageType::Ack) => terms(&message).map(Reply::Ack),
        (Kind::Select { .. } | Kind::Extend { .. }, MessageType::Nak) => Some(Reply::Nak),
        // A late offer of the discovery before, or another client's business.
        (Kind::Discover | Kind::Select { .. } | Kind::Extend { .. }, _) => None,
    }
}

/// The length of a contiguous mask.
fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() >= 32).then_some(bits.leading_ones() as u8)
}

fn terms(message: &Message) -> Option<LeaseTerms> {
    let options = message.opts();
    let seconds = |code| match options.get(code) {
        Some(DhcpOption::AddressLeaseTime(seconds) | DhcpOption::Renewal(seconds) | DhcpOption::Rebinding(seconds)) => {
            Some(Duration::from_secs(u64::from(*seconds)))
        }
        Some(_) | None => None,
    };
    let list = |code| match options.get(code) {
        Some(DhcpOption::Router(list) | DhcpOption::DomainNameServer(list)) => list.clone(),
        Some(_) | None => Vec::new(),
    };
    let prefix = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => prefix(*mask)?,
        Some(_) | None => 24,
    };
    let server = match options.get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => *server,
        Some(_) | None => return None,
    };
    let address = message.yiaddr();
    if address.is_unspecified() {
        return None;
    }
    let lifetime = seconds(OptionCode::AddressLeaseTime).unwrap_or(DEFAULT_LEASE).max(SHORTEST_LEASE);
    // RFC 2131, 4.4.5: T1 is half of the lease and T2 seven eighths, unless the server says so in the right order.
    let rebind = seconds(OptionCode::Rebinding).filter(|t2| *t2 < lifetime).unwrap_or(lifetime * 7 / 8);
    let renew = seconds(OptionCode::Renewal).filter(|t1| *t1 < rebind).unwrap_or((lifetime / 2).min(rebind));
    Some(LeaseTerms {
        address,
        prefix,
        gateway: list(OptionCode::Router).first().copied(),
        nameservers: list(OptionCode::DomainNameServer),
        server,
        lifetime,
        renew_after: renew,
        rebind_after: rebind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const DISCOVER: Question<'static> = Question { kind: Kind::Discover, hardware: &HARDWARE, transaction: 7 };

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().expect("because it is an address")
    }

    fn answer(kind: MessageType, transaction: u32, more: &[DhcpOption]) -> Vec<u8> {
        let mut message = Message::default();
        message.set_xid(transaction).set_chaddr(&HARDWARE).set_yiaddr(ip("10.0.2.15"));
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(ip("10.0.2.2")));
        for option in more {
            message.opts_mut().insert(option.clone());
        }
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).expect("because it is small");
        bytes
    }

    #[test]
    fn an_offer_is_read_with_everything_in_it() {
        let options = [
            DhcpOption::SubnetMask(ip("255.255.252.0")),
            DhcpOption::Router(vec![ip("10.0.2.2")]),
            DhcpOption::DomainNameServer(vec![ip("10.0.2.3"), ip("10.0.2.4")]),
            DhcpOption::AddressLeaseTime(86_400),
        ];
        let Some(Reply::Offer(terms)) = reply_to(&DISCOVER, &answer(MessageType::Offer, 7, &options)) else {
            panic!("the offer was not taken");
        };
        assert_eq!((terms.address, terms.prefix), (ip("10.0.2.15"), 22));
        assert_eq!((terms.gateway, terms.nameservers.len()), (Some(ip("10.0.2.2")), 2));
        assert_eq!(terms.renew_after, Duration::from_secs(43_200));
        assert_eq!(terms.rebind_after, Duration::from_secs(75_600));
    }

    #[test]
    fn what_is_for_others_is_not_taken() {
        assert_eq!(reply_to(&DISCOVER, &answer(MessageType::Offer, 8, &[])), None);
        assert_eq!(reply_to(&DISCOVER, &answer(MessageType::Ack, 7, &[])), None);
        let other = Question { hardware: &[1, 2, 3, 4, 5, 6], ..DISCOVER };
        assert_eq!(reply_to(&other, &answer(MessageType::Offer, 7, &[])), None);
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let good = answer(MessageType::Offer, 7, &[DhcpOption::SubnetMask(ip("255.0.255.0"))]);
        assert_eq!(reply_to(&DISCOVER, &good), None, "a mask with holes is no mask");
        for end in 0..good.len() {
            let _any_answer_will_do = reply_to(&DISCOVER, &good[..end]);
        }
    }

    #[test]
    fn a_lease_without_an_order_of_its_times_gets_the_usual_one() {
        let options = [DhcpOption::AddressLeaseTime(100), DhcpOption::Renewal(99), DhcpOption::Rebinding(500)];
        let Some(Reply::Offer(terms)) = reply_to(&DISCOVER, &answer(MessageType::Offer, 7, &options)) else {
            panic!("the offer was not taken");
        };
        assert!(terms.renew_after < terms.rebind_after && terms.rebind_after < terms.lifetime);
    }

    #[test]
    fn a_selection_names_the_server_and_an_extension_does_not() {
        let select = Kind::Select { address: ip("10.0.2.15"), server: ip("10.0.2.2") };
        let decode = |kind| {
            let bytes = Question { kind, ..DISCOVER }.encode().expect("because it is small");
            Message::decode(&mut Decoder::new(&bytes)).expect("because we encoded it")
        };
        assert!(decode(select).opts().contains(OptionCode::ServerIdentifier));
        let extend = decode(Kind::Extend { address: ip("10.0.2.15") });
        assert!(!extend.opts().contains(OptionCode::ServerIdentifier));
        assert_eq!(extend.ciaddr(), ip("10.0.2.15"));
        assert!(!extend.flags().broadcast());
    }
}
