//! The kernel command line as a layer of network configuration. Pure.
//!
//! `cairn.link=eth0,dhcp`, `cairn.link=eth0,10.0.0.5/24,10.0.0.1` (addresses, then the gateway) and `cairn.nameserver=10.0.0.1`, each as
//! often as needed. For networks where a machine could not even reach its repository with the defaults.

use super::{Layer, LayerLink, NetworkLayer};
use init_boot::Parameter;

const LINK: &str = "cairn.link";
const NAMESERVER: &str = "cairn.nameserver";

/// A parameter that says nothing useful.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?} on the kernel command line is ignored: expected {expected}")]
pub struct ParameterError {
    /// The parameter.
    pub name: &'static str,
    /// What stands there.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

/// `eth0,dhcp` or `eth0,ADDRESS/PREFIX[,ADDRESS/PREFIX...][,GATEWAY]`.
fn link(value: &str) -> Option<LayerLink> {
    let (name, rest) = value.split_once(',')?;
    let mut link = LayerLink { name: name.to_owned(), dhcp: rest == "dhcp", addresses: Vec::new(), gateway: None };
    if name.is_empty() || link.dhcp {
        return (!name.is_empty()).then_some(link);
    }
    for part in rest.split(',') {
        match (part.parse(), part.parse()) {
            // Nothing comes after the gateway.
            _ if link.gateway.is_some() => return None,
            (Ok(cidr), _) => link.addresses.push(cidr),
            (Err(_), Ok(gateway)) => link.gateway = Some(gateway),
            (Err(_), Err(_)) => return None,
        }
    }
    (!link.addresses.is_empty()).then_some(link)
}

/// The layer that the parameters make, and what in them could not be understood.
#[must_use]
pub fn command_line_layer(parameters: &[Parameter]) -> (NetworkLayer, Vec<ParameterError>) {
    let mut layer =
        NetworkLayer { layer: Layer::CommandLine, links: Vec::new(), nameservers: Vec::new(), hostname: None };
    let mut errors = Vec::new();
    for parameter in parameters {
        let value = parameter.value.clone().unwrap_or_default();
        match parameter.name.as_str() {
            LINK => match link(&value) {
                Some(link) => layer.links.push(link),
                None => {
                    let expected = "eth0,dhcp or eth0,10.0.0.5/24,10.0.0.1";
                    errors.push(ParameterError { name: LINK, value, expected });
                }
            },
            NAMESERVER => match value.parse() {
                Ok(server) => layer.nameservers.push(server),
                Err(_) => errors.push(ParameterError { name: NAMESERVER, value, expected: "an IP address" }),
            },
            _ => {}
        }
    }
    (layer, errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use init_boot::CommandLine;

    fn read(text: &str) -> (NetworkLayer, Vec<ParameterError>) {
        command_line_layer(&CommandLine::parse(text).expect("because it is a command line").extra)
    }

    #[test]
    fn links_and_name_servers_are_read() {
        let (layer, errors) =
            read("quiet cairn.link=eth0,10.0.0.5/24,10.0.0.1 cairn.link=eth1,dhcp cairn.nameserver=10.0.0.1");
        assert_eq!(errors, []);
        assert_eq!(layer.links.len(), 2);
        assert_eq!(layer.links[0].addresses, ["10.0.0.5/24".parse().expect("because it is an address")]);
        assert_eq!(layer.links[0].gateway, Some("10.0.0.1".parse().expect("because it is an address")));
        assert!(layer.links[1].dhcp);
        assert_eq!(layer.nameservers.len(), 1);
    }

    #[test]
    fn mistakes_are_said_and_change_nothing() {
        for bad in ["eth0", ",dhcp", "eth0,", "eth0,10.0.0.1", "eth0,10.0.0.5/24,10.0.0.1,10.0.0.6/24", "eth0,x"] {
            let (layer, errors) = read(&format!("cairn.link={bad}"));
            assert_eq!((layer.links.len(), errors.len()), (0, 1), "{bad}");
        }
        assert_eq!(read("cairn.nameserver=dns.example").1.len(), 1);
    }
}
