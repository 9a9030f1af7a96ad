//! Host name, hosts file and resolver file, from specification and leases.
//!
//! Writes [`Names`] and the files below [`ETC`], to which /etc points.

use super::{Lease, LinkError, LinkHost, LinkStatus, Names, NamesSpec};
use crate::files::{FileError, FilesHost, Lasting};
use machined_config::Cidr;
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Reader, Set, Writer};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// Where the files are that /etc/hosts, /etc/hostname and /etc/resolv.conf point to.
pub const ETC: &str = "/run/cairn/etc";

/// Name servers written to the resolver file; more are never asked (resolv.conf(5), MAXNS).
const NAMESERVERS_MAX: usize = 3;

/// Why names could not be set.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// The kernel refused the host name.
    #[error("the host name cannot be set")]
    Hostname(#[from] LinkError),
    /// A file could not be written.
    #[error("a names file cannot be written")]
    File(#[from] FileError),
}

/// Decides the names in force. Without a given host name, the hardware address of the first physical link makes one.
fn decide(spec: &NamesSpec, leases: &Set<Lease>, links: &Set<LinkStatus>) -> Names {
    let hardware = links.values().find(|link| link.physical && link.hardware.len() == 6).map(|link| &link.hardware);
    let fallback = || match hardware.map(Vec::as_slice) {
        Some([.., a, b, c]) => format!("cairn-{a:02x}{b:02x}{c:02x}"),
        Some(_) | None => "cairn".to_owned(),
    };
    let mut nameservers: Vec<IpAddr> = if spec.nameservers.is_empty() {
        let held = leases.values().filter_map(Lease::held);
        held.flat_map(|terms| terms.nameservers.iter().copied().map(IpAddr::V4)).collect()
    } else {
        spec.nameservers.clone()
    };
    nameservers.truncate(NAMESERVERS_MAX);
    Names { hostname: spec.hostname.clone().unwrap_or_else(fallback), nameservers }
}

fn resolv_conf(names: &Names) -> String {
    names.nameservers.iter().fold(String::new(), |mut text, server| {
        writeln!(text, "nameserver {server}").expect("because a String takes all that is written to it");
        text
    })
}

fn hosts(names: &Names, links: &Set<LinkStatus>) -> String {
    let own = links.values().filter(|link| link.physical).flat_map(|link| link.addresses.first());
    let address = own.map(Cidr::address).next().unwrap_or(IpAddr::from([127, 0, 1, 1]));
    format!("127.0.0.1 localhost\n::1 localhost\n{address} {}\n", names.hostname)
}

/// Writes [`Names`].
pub struct NamesController<L, F> {
    links_host: Arc<L>,
    files: Arc<F>,
    spec: Reader<NamesSpec>,
    leases: Reader<Lease>,
    links: Reader<LinkStatus>,
    names: Writer<Names>,
    written: [String; 3],
}

impl<L: LinkHost, F: FilesHost> NamesController<L, F> {
    /// Declares inputs and output at `ports`.
    pub fn new(ports: &mut Ports, links_host: Arc<L>, files: Arc<F>) -> Self {
        NamesController {
            links_host,
            files,
            spec: ports.input(),
            leases: ports.input(),
            links: ports.input(),
            names: ports.output(),
            written: Default::default(),
        }
    }
}

impl<L: LinkHost, F: FilesHost> Controller for NamesController<L, F> {
    type Error = NamesError;

    async fn reconcile(&mut self) -> Result<Outcome, NamesError> {
        let Some(spec) = self.spec.get(NamesSpec::ID) else { return Ok(Outcome::Done) };
        let links = self.links.all();
        let names = decide(&spec, &self.leases.all(), &links);
        let contents = [format!("{}\n", names.hostname), hosts(&names, &links), resolv_conf(&names)];
        if contents != self.written {
            self.links_host.set_hostname(&names.hostname)?;
            for (file, text) in ["hostname", "hosts", "resolv.conf"].into_iter().zip(&contents) {
                self.files.replace(&Path::new(ETC).join(file), text.as_bytes(), Lasting::Boot).await?;
            }
            self.written = contents;
        }
        self.names.put(Names::ID, names);
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(address: &str) -> Set<LinkStatus> {
        let link = LinkStatus {
            index: 2,
            hardware: vec![0x52, 0x54, 0, 0x12, 0x34, 0x56],
            physical: true,
            loopback: false,
            up: true,
            carrier: true,
            addresses: vec![address.parse().expect("because it is an address")],
            gateways: Vec::new(),
        };
        Set::from([("eth0".to_owned(), link)])
    }

    #[test]
    fn without_a_given_name_the_hardware_address_makes_one() {
        let names = decide(&NamesSpec::default(), &Set::new(), &link("10.0.2.15/24"));
        assert_eq!(names.hostname, "cairn-123456");
        assert_eq!(decide(&NamesSpec::default(), &Set::new(), &Set::new()).hostname, "cairn");
    }

    #[test]
    fn given_name_servers_replace_those_of_leases() {
        let server: IpAddr = "10.0.2.3".parse().expect("because it is an address");
        let spec = NamesSpec { hostname: Some("cp1".to_owned()), nameservers: vec![server; 5] };
        let names = decide(&spec, &Set::new(), &link("10.0.2.15/24"));
        assert_eq!(resolv_conf(&names), "nameserver 10.0.2.3\n".repeat(3));
        assert_eq!(hosts(&names, &link("10.0.2.15/24")), "127.0.0.1 localhost\n::1 localhost\n10.0.2.15 cp1\n");
    }
}
