//! Merges the layers of network configuration. Pure.

use super::{LinkSpec, LinkStatus, NamesSpec};
use machined_config::Cidr;
use machined_runtime::Set;
use std::net::IpAddr;

/// Where a part of the configuration comes from; a later one wins over an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// DHCP on every physical link.
    Default,
    /// The kernel command line.
    CommandLine,
    /// The seed that was baked into the image.
    Seed,
    /// The machine's document as it was last, while its state volume is not open.
    LastDocument,
    /// The machine's document in the repository.
    Document,
}

/// One link in a layer. A layer that names a link says everything about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerLink {
    /// The link's name.
    pub name: String,
    /// Ask a DHCP server.
    pub dhcp: bool,
    /// Static addresses.
    pub addresses: Vec<Cidr>,
    /// Default gateway over this link.
    pub gateway: Option<IpAddr>,
}

/// What one layer says about the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLayer {
    /// Which one.
    pub layer: Layer,
    /// Links that it names.
    pub links: Vec<LayerLink>,
    /// Name servers; empty says nothing.
    pub nameservers: Vec<IpAddr>,
    /// Host name.
    pub hostname: Option<String>,
}

/// The winner for each physical link, and the names. A link that no layer names asks DHCP, but only while no layer names
/// any: who configures one link of a machine means the others to stay quiet.
#[must_use]
pub fn merge(layers: &[NetworkLayer], links: &Set<LinkStatus>) -> (Set<LinkSpec>, NamesSpec) {
    let mut ordered: Vec<&NetworkLayer> = layers.iter().collect();
    ordered.sort_by_key(|layer| layer.layer);
    let mut names = NamesSpec::default();
    let mut specs = Set::new();
    let any_named = layers.iter().any(|layer| !layer.links.is_empty());
    for (name, _) in links.iter().filter(|(_, link)| link.physical) {
        let named = ordered.iter().rev().find_map(|layer| layer.links.iter().find(|link| link.name == *name));
        let spec = match named {
            Some(link) => LinkSpec { dhcp: link.dhcp, addresses: link.addresses.clone(), gateway: link.gateway },
            None if any_named => continue,
            None => LinkSpec { dhcp: true, ..LinkSpec::default() },
        };
        specs.insert(name.clone(), spec);
    }
    for layer in ordered {
        if !layer.nameservers.is_empty() {
            names.nameservers.clone_from(&layer.nameservers);
        }
        if layer.hostname.is_some() {
            names.hostname.clone_from(&layer.hostname);
        }
    }
    (specs, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn links(names: &[&str]) -> Set<LinkStatus> {
        let link = |physical| LinkStatus {
            index: 2,
            hardware: vec![2, 0, 0, 0, 0, 1],
            physical,
            loopback: false,
            up: false,
            carrier: false,
            addresses: Vec::new(),
            gateways: Vec::new(),
        };
        names.iter().map(|name| ((*name).to_owned(), link(name.starts_with("eth")))).collect()
    }

    fn layer(layer: Layer, link: &str, address: Option<&str>) -> NetworkLayer {
        let addresses = address.iter().map(|a| a.parse().expect("because it is an address")).collect();
        let link = LayerLink { name: link.to_owned(), dhcp: address.is_none(), addresses, gateway: None };
        NetworkLayer { layer, links: vec![link], nameservers: Vec::new(), hostname: None }
    }

    #[test]
    fn without_any_word_every_physical_link_asks_dhcp() {
        let (specs, names) = merge(&[], &links(&["eth0", "eth1", "lo", "bridge0"]));
        assert_eq!(specs.keys().collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert!(specs.values().all(|spec| spec.dhcp));
        assert_eq!(names, NamesSpec::default());
    }

    #[test]
    fn the_document_wins_over_the_seed_whatever_their_order() {
        let document = layer(Layer::Document, "eth0", Some("10.0.0.5/24"));
        let seed = layer(Layer::Seed, "eth0", None);
        let (specs, _) = merge(&[document, seed], &links(&["eth0"]));
        assert!(!specs["eth0"].dhcp);
        assert_eq!(specs["eth0"].addresses, ["10.0.0.5/24".parse::<Cidr>().expect("because it is an address")]);
    }

    #[test]
    fn naming_one_link_leaves_the_others_alone() {
        let (specs, _) = merge(&[layer(Layer::Seed, "eth1", None)], &links(&["eth0", "eth1"]));
        assert_eq!(specs.keys().collect::<Vec<_>>(), ["eth1"]);
    }

    #[test]
    fn names_come_from_the_last_layer_that_has_some() {
        let mut seed = layer(Layer::Seed, "eth0", None);
        seed.nameservers = vec!["10.0.2.3".parse().expect("because it is an address")];
        let mut document = layer(Layer::Document, "eth0", None);
        document.hostname = Some("cp1".to_owned());
        let (_, names) = merge(&[document, seed.clone()], &links(&["eth0"]));
        assert_eq!(names.hostname.as_deref(), Some("cp1"));
        assert_eq!(names.nameservers, seed.nameservers);
    }
}
