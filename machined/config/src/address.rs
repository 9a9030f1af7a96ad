//! Networks and interface addresses in CIDR notation.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address with the length of its network prefix: `10.0.0.5/24`, or a whole network: `10.244.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// A text is not an address and a prefix length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a prefix length, such as 10.0.0.5/24")]
pub struct CidrError;

impl Cidr {
    /// Puts an address and a prefix length together; `None` when the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(&address)).then_some(Cidr { address, prefix })
    }

    /// The address, host bits included.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The first address of the network.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        let host_bits = u32::from(bits(&self.address) - self.prefix);
        match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        }
    }

    /// Whether `other` lies in this network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        Cidr::new(other, self.prefix)
            .is_some_and(|other| other.address.is_ipv4() == self.address.is_ipv4() && other.network() == self.network())
    }

    /// Whether one of the two networks lies in the other.
    #[must_use]
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// Whether the address is the network's first one, as a whole network is written.
    #[must_use]
    pub fn is_network(&self) -> bool {
        self.network() == self.address
    }
}

fn bits(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError)?;
        let address = address.parse().map_err(|_| CidrError)?;
        let prefix = prefix.parse().map_err(|_| CidrError)?;
        Cidr::new(address, prefix).ok_or(CidrError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("because the tests use good networks")
    }

    #[test]
    fn a_network_is_its_address_without_host_bits() {
        assert_eq!(cidr("10.0.5.7/16").network().to_string(), "10.0.0.0");
        assert_eq!(cidr("10.0.5.7/0").network().to_string(), "0.0.0.0");
        assert_eq!(cidr("2001:db8::5/64").network().to_string(), "2001:db8::");
        assert!(cidr("10.96.0.0/12").is_network() && !cidr("10.96.0.1/12").is_network());
    }

    #[test]
    fn networks_overlap_when_one_lies_in_the_other() {
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.244.0.0/16")));
        assert!(cidr("10.244.0.0/16").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.96.0.0/12").overlaps(&cidr("10.244.0.0/16")));
        assert!(!cidr("0.0.0.0/0").overlaps(&cidr("::/0")));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "/8", "10.0.0.0/-1", ""] {
            assert_eq!(bad.parse::<Cidr>(), Err(CidrError), "{bad:?} was taken");
        }
    }
}
