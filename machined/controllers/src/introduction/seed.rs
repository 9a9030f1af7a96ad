//! The seed: what an image builder may bake into META, so that a machine needs nobody at its side at first boot.
//!
//! ```kdl
//! seed {
//!     introduction "{...the introduction file...}"
//!     repository "http://git.example/cluster.git"
//!     network { link "eth0" { address "10.0.0.5/24"; gateway "10.0.0.1"; }; nameserver "10.0.0.1"; }
//! }
//! ```
//!
//! Every part may be missing. Its introduction counts only while none is recorded.

use crate::identity::{MetaAccessError, MetaHost};
use init_boot::MetaKind;
use machined_config::{MachineNetwork, Problems, read};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Resource, Writer};
use std::sync::Arc;

/// The seed; the id is [`Seed::ID`]. In the store once META was read, empty when there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seed {
    /// The introduction file's text.
    pub introduction: Option<String>,
    /// Addresses of the repository.
    pub repositories: Vec<String>,
    /// Network of the machine.
    pub network: MachineNetwork,
}

impl Seed {
    /// The id of the one seed.
    pub const ID: &'static str = "seed";

    /// Reads a seed's text.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        read::document("seed", text, |file| {
            file.one("seed")?.children(|block| {
                let introduction = block.optional_value("introduction");
                let repositories =
                    block.many("repository").iter().filter_map(read::Node::only_argument).collect::<Vec<String>>();
                let network = match block.optional("network") {
                    Some(node) => node.children(MachineNetwork::read)?,
                    None => MachineNetwork::default(),
                };
                Some(Seed { introduction, repositories, network })
            })
        })
    }
}

impl Resource for Seed {
    const KIND: &'static str = "seed";
}

/// Why the seed cannot be used. The machine comes up without it.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// META failed.
    #[error("the seed cannot be read")]
    Meta(#[from] MetaAccessError),
    /// Its text is wrong.
    #[error("the seed in META is ignored")]
    Text(#[source] Problems),
}

/// Writes [`Seed`].
pub struct SeedController<H> {
    host: Arc<H>,
    seeds: Writer<Seed>,
}

impl<H: MetaHost> SeedController<H> {
    /// Declares its output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> Self {
        SeedController { host, seeds: ports.output() }
    }
}

impl<H: MetaHost> Controller for SeedController<H> {
    type Error = SeedError;

    async fn reconcile(&mut self) -> Result<Outcome, SeedError> {
        if !self.seeds.current().is_empty() {
            return Ok(Outcome::Done);
        }
        let Some(bytes) = self.host.read(MetaKind::Seed).await? else {
            self.seeds.put(Seed::ID, Seed::default());
            return Ok(Outcome::Done);
        };
        let parsed = Seed::parse(&String::from_utf8_lossy(&bytes));
        // A bad seed must not keep the machine from coming up: somebody has to be able to reach it.
        self.seeds.put(Seed::ID, parsed.as_ref().ok().cloned().unwrap_or_default());
        parsed.map(|_| Outcome::Done).map_err(SeedError::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_seed_is_read() {
        let text = r##"seed {
            introduction #"{"cluster":"x"}"#
            repository "http://10.0.2.2/demo.git"
            network { link "eth0" { dhcp #true; }; nameserver "10.0.2.3"; }
        }"##;
        let seed = Seed::parse(text).expect("because it is a seed");
        assert_eq!(seed.introduction.as_deref(), Some("{\"cluster\":\"x\"}"));
        assert_eq!(seed.repositories, ["http://10.0.2.2/demo.git"]);
        assert_eq!(seed.network.links.len(), 1);
    }

    #[test]
    fn an_unknown_word_in_a_seed_is_a_mistake() {
        assert!(Seed::parse("seed { repositry \"http://a\"; }").is_err());
        assert_eq!(Seed::parse("seed").expect("because every part may be missing"), Seed::default());
    }
}
