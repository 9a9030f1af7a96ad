//! A whole machine as one document, for machines that belong to a class: what they are handed names nothing that they would have to look up.
//!
//! One machine has one text, so that a change of a class that changes nothing for a machine is no new activation of its documents.

use crate::machine::{Addressing, ExtensionConfig, ImageConfig, LinkConfig, MachineConfig, RegistryConfig};
use kdl::KdlValue;
use std::fmt::{self, Write};

impl MachineConfig {
    /// The document; [`MachineConfig::parse`] reads the same machine from it.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("because a text takes everything");
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "machine {} {{", quoted(self.name.as_str()))?;
        writeln!(out, "    identity {}", quoted(self.identity.as_str()))?;
        writeln!(out, "    role {}", quoted(&self.role.to_string()))?;
        if !self.network.links.is_empty() || !self.network.nameservers.is_empty() {
            writeln!(out, "    network {{")?;
            self.network.links.iter().try_for_each(|link| write_link(out, link))?;
            for server in &self.network.nameservers {
                writeln!(out, "        nameserver {}", quoted(&server.to_string()))?;
            }
            writeln!(out, "    }}")?;
        }
        if !self.time_servers.is_empty() {
            writeln!(out, "    time {{")?;
            for server in &self.time_servers {
                writeln!(out, "        server {}", quoted(server))?;
            }
            writeln!(out, "    }}")?;
        }
        self.registries.iter().try_for_each(|registry| write_registry(out, registry))?;
        if let Some(ImageConfig { digest, url, attempt }) = &self.image {
            let attempt = if *attempt == 1 { String::new() } else { format!(" attempt={attempt}") };
            writeln!(out, "    image digest={} url={}{attempt}", quoted(&digest.to_string()), quoted(url))?;
        }
        for ExtensionConfig { name, digest, url } in &self.extensions {
            let (name, digest) = (quoted(name.as_str()), quoted(&digest.to_string()));
            writeln!(out, "    extension {name} digest={digest} url={}", quoted(url))?;
        }
        if let Some(canary) = self.canary {
            let pause = canary.pause.as_secs();
            let pause = if pause == 0 { String::new() } else { format!(" pause=\"{pause}s\"") };
            writeln!(out, "    canary{pause}")?;
        }
        writeln!(out, "}}")
    }
}

fn write_link(out: &mut String, link: &LinkConfig) -> fmt::Result {
    writeln!(out, "        link {} {{", quoted(&link.name))?;
    match &link.addressing {
        Addressing::Dhcp => writeln!(out, "            dhcp #true")?,
        Addressing::Static { addresses, gateway } => {
            for address in addresses {
                writeln!(out, "            address {}", quoted(&address.to_string()))?;
            }
            if let Some(gateway) = gateway {
                writeln!(out, "            gateway {}", quoted(&gateway.to_string()))?;
            }
        }
    }
    writeln!(out, "        }}")
}

fn write_registry(out: &mut String, registry: &RegistryConfig) -> fmt::Result {
    writeln!(out, "    registry {} {{", quoted(&registry.name))?;
    for mirror in &registry.mirrors {
        writeln!(out, "        mirror {}", quoted(mirror))?;
    }
    writeln!(out, "    }}")
}

/// A string as KDL has it; a plain word stands without quotes.
fn quoted(text: &str) -> KdlValue {
    KdlValue::from(text)
}
