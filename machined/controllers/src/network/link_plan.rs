//! What must change in the kernel so that a link is as specified. Pure.

use super::{Lease, LeaseTerms, LinkSpec, LinkStatus};
use machined_config::Cidr;
use machined_runtime::Set;
use std::net::IpAddr;

/// One change of the kernel's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// Set a link up.
    Up {
        /// The link.
        link: String,
    },
    /// Add an address.
    AddAddress {
        /// The link.
        link: String,
        /// The address with its prefix.
        address: Cidr,
    },
    /// Remove an address.
    RemoveAddress {
        /// The link.
        link: String,
        /// The address with its prefix.
        address: Cidr,
    },
    /// Add a default route.
    AddGateway {
        /// The link.
        link: String,
        /// The gateway.
        gateway: IpAddr,
    },
    /// Remove a default route.
    RemoveGateway {
        /// The link.
        link: String,
        /// The gateway.
        gateway: IpAddr,
    },
}

/// The changes for all links, in the order in which they must be made: a route needs its address, so addresses come first and
/// old addresses go last. Links without a specification are not touched, but loopback is set up.
#[must_use]
pub fn plan(specs: &Set<LinkSpec>, leases: &Set<Lease>, links: &Set<LinkStatus>) -> Vec<LinkChange> {
    let loopback = links.iter().filter(|(_, link)| link.loopback && !link.up);
    let mut changes: Vec<LinkChange> = loopback.map(|(name, _)| LinkChange::Up { link: name.clone() }).collect();
    for (name, spec) in specs {
        let Some(now) = links.get(name) else { continue };
        let link = || name.clone();
        if !now.up {
            changes.push(LinkChange::Up { link: link() });
        }
        if spec.dhcp && !leases.contains_key(name) {
            // A machined that was just started again has no lease yet; the address of the one before it stays meanwhile.
            continue;
        }
        let terms = leases.get(name).and_then(Lease::held).filter(|_| spec.dhcp);
        let leased = terms.and_then(LeaseTerms::cidr);
        let addresses: Vec<Cidr> = spec.addresses.iter().copied().chain(leased).collect();
        let leased = terms.and_then(|terms| terms.gateway).map(IpAddr::V4);
        let gateways: Vec<IpAddr> = spec.gateway.or(leased).into_iter().collect();
        let missing = |address: &&Cidr| !now.addresses.contains(*address);
        let stale = |address: &&Cidr| !addresses.contains(*address);

        changes.extend(addresses.iter().filter(missing).map(|a| LinkChange::AddAddress { link: link(), address: *a }));
        for old in now.gateways.iter().filter(|gateway| !gateways.contains(gateway)) {
            changes.push(LinkChange::RemoveGateway { link: link(), gateway: *old });
        }
        for new in gateways.iter().filter(|gateway| !now.gateways.contains(gateway)) {
            changes.push(LinkChange::AddGateway { link: link(), gateway: *new });
        }
        changes.extend(
            now.addresses.iter().filter(stale).map(|a| LinkChange::RemoveAddress { link: link(), address: *a }),
        );
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn link(up: bool, addresses: &[&str], gateways: &[&str]) -> LinkStatus {
        LinkStatus {
            index: 2,
            hardware: vec![2, 0, 0, 0, 0, 1],
            physical: true,
            loopback: false,
            up,
            carrier: up,
            addresses: addresses.iter().map(|a| net(a)).collect(),
            gateways: gateways.iter().map(|g| g.parse().expect("because it is an address")).collect(),
        }
    }
    fn net(text: &str) -> Cidr {
        text.parse().expect("because it is an address with a prefix")
    }
    fn one<T>(value: T) -> Set<T> {
        Set::from([("eth0".to_owned(), value)])
    }
    fn lease() -> Lease {
        let terms = LeaseTerms {
            address: "10.0.2.15".parse().expect("because it is an address"),
            prefix: 24,
            gateway: Some("10.0.2.2".parse().expect("because it is an address")),
            nameservers: Vec::new(),
            server: "10.0.2.2".parse().expect("because it is an address"),
            lifetime: Duration::from_secs(3600),
            renew_after: Duration::from_secs(1800),
            rebind_after: Duration::from_secs(3150),
        };
        Lease::Held(terms)
    }
    fn dhcp() -> Set<LinkSpec> {
        one(LinkSpec { dhcp: true, ..LinkSpec::default() })
    }

    #[test]
    fn a_new_lease_gives_up_address_and_route_in_this_order() {
        let changes = plan(&dhcp(), &one(lease()), &one(link(false, &[], &[])));
        let eth0 = || "eth0".to_owned();
        let expected = [
            LinkChange::Up { link: eth0() },
            LinkChange::AddAddress { link: eth0(), address: net("10.0.2.15/24") },
            LinkChange::AddGateway { link: eth0(), gateway: "10.0.2.2".parse().expect("because it is an address") },
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_link_as_specified_needs_nothing() {
        let now = one(link(true, &["10.0.2.15/24"], &["10.0.2.2"]));
        assert_eq!(plan(&dhcp(), &one(lease()), &now), []);
    }

    #[test]
    fn a_lost_lease_takes_address_and_route_away() {
        let changes = plan(&dhcp(), &one(Lease::Lost), &one(link(true, &["10.0.2.15/24"], &["10.0.2.2"])));
        assert!(matches!(changes[..], [LinkChange::RemoveGateway { .. }, LinkChange::RemoveAddress { .. }]));
    }

    #[test]
    fn before_the_first_answer_an_earlier_address_stays() {
        assert_eq!(plan(&dhcp(), &Set::new(), &one(link(true, &["10.0.2.15/24"], &["10.0.2.2"]))), []);
    }

    #[test]
    fn links_that_nobody_specified_are_not_touched() {
        let changes = plan(&Set::new(), &Set::new(), &one(link(true, &["10.9.9.9/24"], &["10.9.9.1"])));
        assert_eq!(changes, []);
    }
}
