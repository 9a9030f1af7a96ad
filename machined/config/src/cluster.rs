//! `cluster.kdl`: what all machines of a cluster share.

use crate::address::Cidr;
use crate::read::{self, Block, Problems};
use machined_ids::{ClusterId, ClusterLevel, MachineName};
use std::str::FromStr;
use std::time::Duration;

pub use init_boot::artefact::CLUSTER_LEVEL;

/// What all machines of a cluster share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The random id that `cairnctl init` made.
    pub id: ClusterId,
    /// A name for people; a DNS label.
    pub name: MachineName,
    /// The cluster's level rises no further than this, and images that do not speak it are refused. Default: as far as every machine's
    /// release speaks.
    pub level: Option<ClusterLevel>,
    /// The one machine that may bootstrap the cluster.
    pub bootstrap: MachineName,
    /// Addresses or DNS names at which clients find the APIs; at least one.
    pub endpoints: Vec<String>,
    /// Networks inside the cluster.
    pub network: ClusterNetwork,
    /// How long an applied step may take until everything in it runs, before the newest healthy step is applied again. Default 10
    /// minutes.
    pub rollout_deadline: RolloutDeadline,
}

/// A time in which a rollout must end: `30s`, `10m` or `2h`, between one second and a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolloutDeadline(Duration);

impl RolloutDeadline {
    /// Shorter than this, nobody could have looked.
    pub const MIN: Duration = Duration::from_secs(1);
    /// Longer than this, nobody is waiting any more.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);

    /// The time.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Default for RolloutDeadline {
    fn default() -> Self {
        RolloutDeadline(Duration::from_secs(10 * 60))
    }
}

impl FromStr for RolloutDeadline {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a number with s, m or h, between 1s and 24h, like 10m";
        let seconds = [("s", 1), ("m", 60), ("h", 3600)];
        let read = seconds.into_iter().find_map(|(unit, seconds)| {
            let digits = text.strip_suffix(unit)?;
            let number: u64 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
            number.checked_mul(seconds).map(Duration::from_secs)
        });
        let deadline = read.filter(|time| (RolloutDeadline::MIN..=RolloutDeadline::MAX).contains(time));
        deadline.map(RolloutDeadline).ok_or(EXPECTED)
    }
}

/// Networks inside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNetwork {
    /// Addresses of pods; each machine gets a part. Default 10.244.0.0/16.
    pub pods: Cidr,
    /// Virtual addresses of services. Default 10.96.0.0/12.
    pub services: Cidr,
    /// DNS domain of the cluster. Default `cluster.local`.
    pub domain: String,
}

impl Default for ClusterNetwork {
    fn default() -> Self {
        let network = |text: &str| text.parse().expect("because the default networks are well-formed");
        ClusterNetwork {
            pods: network("10.244.0.0/16"),
            services: network("10.96.0.0/12"),
            domain: "cluster.local".to_owned(),
        }
    }
}

impl ClusterConfig {
    /// Reads `cluster.kdl`. `path` is for messages.
    ///
    /// # Errors
    /// Every mistake in the document.
    pub fn parse(path: &str, text: &str) -> Result<Self, Problems> {
        read::document(path, text, |file| file.one("cluster")?.children(cluster))
    }
}

fn cluster(block: &Block<'_>) -> Option<ClusterConfig> {
    // Everything is read before anything is required, so that all mistakes are found.
    let id = block.value("id");
    let name = block.value("name");
    let level: Option<u32> = block.optional_value("level");
    if let Some(level) = level.filter(|level| !(1..=CLUSTER_LEVEL).contains(level)) {
        block.problem(format!("`level` is {level}; this release runs 1 to {CLUSTER_LEVEL}"));
    }
    let bootstrap = block.value("bootstrap");
    let endpoints: Vec<String> = block.many("endpoint").iter().filter_map(read::Node::only_argument).collect();
    if endpoints.is_empty() {
        block.problem("`endpoint` is missing here: an address or name at which clients find the APIs");
    }
    let network =
        block.optional("network").map_or_else(|| Some(ClusterNetwork::default()), |node| node.children(network));
    let rollout_deadline = block.optional("rollout").map_or_else(RolloutDeadline::default, |node| {
        let deadline = node.property("deadline");
        node.finish();
        deadline.unwrap_or_default()
    });
    Some(ClusterConfig {
        id: id?,
        name: name?,
        level: level.map(ClusterLevel),
        bootstrap: bootstrap?,
        endpoints,
        network: network?,
        rollout_deadline,
    })
}

fn network(block: &Block<'_>) -> Option<ClusterNetwork> {
    let default = ClusterNetwork::default();
    let pods: Cidr = block.optional_value("pods").unwrap_or(default.pods);
    let services: Cidr = block.optional_value("services").unwrap_or(default.services);
    let domain = block.optional_value("domain").unwrap_or(default.domain);
    for (name, cidr) in [("pods", pods), ("services", services)] {
        if !cidr.is_network() {
            block.problem(format!("`{name}` has host bits; the network is {}/{}", cidr.network(), cidr.prefix()));
        }
    }
    if pods.overlaps(&services) {
        block.problem(format!("`pods` {pods} and `services` {services} overlap"));
    }
    // Each machine gets a /24 of the pods' network.
    if pods.address().is_ipv4() && pods.prefix() > 24 {
        block.problem(format!("`pods` {pods} is too small: each machine needs a /24"));
    }
    Some(ClusterNetwork { pods, services, domain })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline(rollout: &str) -> Result<Duration, Problems> {
        let text = format!(
            "cluster {{\n id \"00112233445566778899aabbccddeeff\"\n name \"demo\"\n bootstrap \"cp1\"\n endpoint \"10.0.2.15\"\n {rollout}\n}}"
        );
        ClusterConfig::parse("cluster.kdl", &text).map(|config| config.rollout_deadline.get())
    }

    #[test]
    fn a_rollout_has_ten_minutes_unless_the_cluster_says_otherwise() {
        assert_eq!(deadline("").ok(), Some(Duration::from_secs(600)));
        for (text, seconds) in [("1s", 1), ("90s", 90), ("15m", 900), ("24h", 86_400)] {
            assert_eq!(
                deadline(&format!("rollout deadline=\"{text}\"")).ok(),
                Some(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for bad in ["0s", "25h", "10", "m", "-1m", "1.5m", "+5m", "99999999999999999999h", "10m "] {
            assert!(deadline(&format!("rollout deadline=\"{bad}\"")).is_err(), "{bad:?} was taken");
        }
        assert!(deadline("rollout deadlin=\"10m\"").is_err());
    }
}
