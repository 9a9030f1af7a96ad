//! The seed: what an image builder may bake into META, so that a machine needs nobody at its side at first boot.
//!
//! ```kdl
//! seed {
//!     introduction "{...the introduction file...}"
//!     repository "http://git.example/cluster.git"
//!     network { link "eth0" { address "10.0.0.5/24"; gateway "10.0.0.1"; }; nameserver "10.0.0.1"; }
//!     encryption "required"
//! }
//! ```
//!
//! Every part may be missing. Its introduction counts only while none is recorded.

use crate::identity::{MetaAccessError, MetaHost};
use init_boot::MetaKind;
use machined_config::{Insistence, MachineNetwork, Problems, read};
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
    /// How its volumes have to be encrypted; when nothing is said, they are where a TPM and the image allow it.
    pub encryption: Option<Insistence>,
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
                let encryption = match block.optional("encryption") {
                    Some(node) => Some(node.only_argument()?),
                    None => None,
                };
                Some(Seed { introduction, repositories, network, encryption })
            })
        })
    }

    /// What is left of a seed that cannot be read. One that says a word about encryption must not end in a plain disk because of a mistake
    /// somewhere else in it.
    fn unreadable(text: &str) -> Self {
        Seed { encryption: text.contains("encryption").then_some(Insistence::Required), ..Seed::default() }
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
        let text = String::from_utf8_lossy(&bytes);
        let parsed = Seed::parse(&text);
        // A bad seed must not keep the machine from coming up: somebody has to be able to reach it.
        self.seeds.put(Seed::ID, parsed.as_ref().map_or_else(|_| Seed::unreadable(&text), Seed::clone));
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
        assert_eq!(seed.encryption, None);
    }

    #[test]
    fn a_seed_may_insist_on_encryption_and_a_mistake_in_it_does_not_take_that_back() {
        for (text, wish) in [("required", Insistence::Required), ("tpm", Insistence::Tpm)] {
            let seed = Seed::parse(&format!("seed {{ encryption \"{text}\"; }}")).expect("because it is a seed");
            assert_eq!(seed.encryption, Some(wish));
        }
        for bad in
            ["seed { encryption \"maybe\"; }", "seed { encryption; }", "seed { encryption \"tpm\"; reposit \"a\"; }"]
        {
            assert!(Seed::parse(bad).is_err(), "{bad} was taken");
            assert_eq!(Seed::unreadable(bad).encryption, Some(Insistence::Required));
        }
        assert_eq!(Seed::unreadable("seed { repositry \"http://a\"; }"), Seed::default());
    }

    #[test]
    fn an_unknown_word_in_a_seed_is_a_mistake() {
        assert!(Seed::parse("seed { repositry \"http://a\"; }").is_err());
        assert_eq!(Seed::parse("seed").expect("because every part may be missing"), Seed::default());
    }
}
