//! An IPv4 address range, as the pod and service networks are written ("10.244.0.0/24").
//!
//! Pure; used by address management, by the bridge and by the service proxy.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 range: a network address whose host bits are zero, and a prefix length of 0 to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// The text or the pair is no IPv4 range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not an IPv4 range; write one like 10.244.0.0/24, with all bits after the prefix zero")]
pub struct CidrError {
    /// What was given.
    pub text: String,
}

impl Cidr {
    /// The range of all addresses that share the first `prefix` bits of `network`.
    ///
    /// # Errors
    /// When `prefix` is above 32 or `network` has host bits set.
    pub fn new(network: Ipv4Addr, prefix: u8) -> Result<Self, CidrError> {
        let cidr = Self { network, prefix };
        if prefix > 32 || network.to_bits() & !cidr.mask() != 0 {
            return Err(CidrError { text: format!("{network}/{prefix}") });
        }
        Ok(cidr)
    }

    /// The first address, with all host bits zero.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Number of leading bits that all addresses share.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network mask as a number, most significant bit first.
    #[must_use]
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network.to_bits()
    }

    /// The gateway of a node's pod range: its first usable address, which the bridge carries.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | 1)
    }

    /// Addresses that pods may get: all but network, gateway and broadcast address, in order.
    pub fn pod_addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = u64::from(self.network.to_bits()) + 2;
        let broadcast = u64::from(self.network.to_bits() | !self.mask());
        (first..broadcast).map_while(|bits| u32::try_from(bits).ok().map(Ipv4Addr::from_bits))
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = || CidrError { text: text.to_owned() };
        let (network, prefix) = text.split_once('/').ok_or_else(bad)?;
        let network = network.parse().map_err(|_| bad())?;
        let prefix = prefix.parse().map_err(|_| bad())?;
        Self::new(network, prefix).map_err(|_| bad())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_reads_back_as_written() {
        let cidr: Cidr = "10.244.3.0/24".parse().expect("because it is a valid range");
        assert_eq!(cidr.to_string(), "10.244.3.0/24");
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 244, 3, 1));
        assert!(cidr.contains(Ipv4Addr::new(10, 244, 3, 255)));
        assert!(!cidr.contains(Ipv4Addr::new(10, 244, 4, 0)));
    }

    #[test]
    fn host_bits_and_long_prefixes_are_refused() {
        for text in ["10.244.3.7/24", "10.244.3.0/33", "10.244.3.0", "fd00::/64", ""] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn pods_get_neither_network_nor_gateway_nor_broadcast_address() {
        let cidr: Cidr = "10.0.0.0/29".parse().expect("because it is a valid range");
        let last_octets: Vec<u8> = cidr.pod_addresses().map(|a| a.octets()[3]).collect();
        assert_eq!(last_octets, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_widest_range_holds_every_address() {
        let cidr: Cidr = "0.0.0.0/0".parse().expect("because it is a valid range");
        assert!(cidr.contains(Ipv4Addr::BROADCAST));
    }
}
