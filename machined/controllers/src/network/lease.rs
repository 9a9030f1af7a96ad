//! Keeps a DHCPv4 lease for each link that wants one (RFC 2131, section 4.4.5).
//!
//! ```text
//! none --new--> bound --T1: renew--> bound
//!                 \-----T2: rebind--> bound
//!                  \----expired-----> none
//! ```

use super::{DhcpHost, LeaseRequest, LinkSpec, LinkStatus};
use machined_config::Cidr;
use machined_reconcile::{Backoff, Outcome};
use machined_runtime::{Controller, Ports, Reader, Resource, Set, Writer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Between attempts while no server answers; RFC 2131 wants growing delays up to about a minute.
const NO_ANSWER: Backoff = Backoff { base: Duration::from_secs(1), limit: Duration::from_secs(60) };

/// What a server grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The leased address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix in bits, at most 32.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub nameservers: Vec<Ipv4Addr>,
    /// The server that granted it.
    pub server: Ipv4Addr,
    /// How long the address may be used.
    pub lifetime: Duration,
    /// T1: when to ask the same server again.
    pub renew_after: Duration,
    /// T2: when to ask any server.
    pub rebind_after: Duration,
}

impl LeaseTerms {
    /// The address with its prefix; `None` when the prefix is longer than an address.
    #[must_use]
    pub fn cidr(&self) -> Option<Cidr> {
        Cidr::new(self.address.into(), self.prefix)
    }
}

/// How a link stands with its DHCP server; the id is the link's name. A link that never had an answer since machined started has
/// none: whatever address an earlier machined gave it may still be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// A lease is in force.
    Held(LeaseTerms),
    /// There was one, and it is over.
    Lost,
}

impl Lease {
    /// The terms of a lease in force.
    #[must_use]
    pub fn held(&self) -> Option<&LeaseTerms> {
        match self {
            Lease::Held(terms) => Some(terms),
            Lease::Lost => None,
        }
    }
}

impl Resource for Lease {
    const KIND: &'static str = "lease";
}

/// What a lease needs at a point of its life.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing { next: Duration },
    Ask(LeaseRequest),
    Expired,
}

/// `age` since the lease was granted.
fn due(terms: &LeaseTerms, age: Duration) -> Due {
    let address = terms.address;
    if age >= terms.lifetime {
        Due::Expired
    } else if age >= terms.rebind_after {
        Due::Ask(LeaseRequest::Rebind { address })
    } else if age >= terms.renew_after {
        Due::Ask(LeaseRequest::Renew { address, server: terms.server })
    } else {
        Due::Nothing { next: terms.renew_after - age }
    }
}

/// An exchange to be had on a link.
struct Wanted {
    link: String,
    hardware: Vec<u8>,
    request: LeaseRequest,
}

/// Attempts on one link.
struct Attempts {
    failures: u32,
    not_before: tokio::time::Instant,
}

/// Writes [`Lease`].
pub struct LeaseController<H> {
    host: Arc<H>,
    specs: Reader<LinkSpec>,
    links: Reader<LinkStatus>,
    leases: Writer<Lease>,
    granted: BTreeMap<String, tokio::time::Instant>,
    attempts: BTreeMap<String, Attempts>,
}

impl<H: DhcpHost> LeaseController<H> {
    /// Declares inputs and output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> Self {
        LeaseController {
            host,
            specs: ports.input(),
            links: ports.input(),
            leases: ports.output(),
            granted: BTreeMap::new(),
            attempts: BTreeMap::new(),
        }
    }

    /// What each link wants now, and when to look again.
    fn requests(&self, links: &Set<LinkStatus>) -> (Vec<Wanted>, Option<Duration>) {
        let now = tokio::time::Instant::now();
        let (mut requests, mut next) = (Vec::new(), None::<Duration>);
        let leases = self.leases.current();
        for (name, _) in self.specs.all().iter().filter(|(_, spec)| spec.dhcp) {
            let Some(link) = links.get(name).filter(|link| link.up && link.carrier) else { continue };
            let mut wait = |delay: Duration| next = Some(next.map_or(delay, |n| n.min(delay)));
            if let Some(attempts) = self.attempts.get(name).filter(|attempts| attempts.not_before > now) {
                wait(attempts.not_before - now);
                continue;
            }
            let want = |request| Wanted { link: name.clone(), hardware: link.hardware.clone(), request };
            let granted = leases.get(name).and_then(Lease::held).zip(self.granted.get(name));
            match granted.map(|(terms, since)| due(terms, now - *since)) {
                Some(Due::Nothing { next }) => wait(next),
                Some(Due::Ask(request)) => requests.push(want(request)),
                Some(Due::Expired) | None => requests.push(want(LeaseRequest::New)),
            }
        }
        (requests, next)
    }

    /// Drops leases that are over or no longer wanted.
    fn drop_old(&mut self) {
        let now = tokio::time::Instant::now();
        let specs = self.specs.all();
        for (name, lease) in self.leases.current().iter() {
            if !specs.get(name).is_some_and(|spec| spec.dhcp) {
                self.leases.remove(name);
                self.granted.remove(name);
                continue;
            }
            let age = self.granted.get(name).map(|since| now - *since);
            let terms = lease.held().filter(|terms| age.is_none_or(|age| due(terms, age) == Due::Expired));
            if let Some(terms) = terms {
                tracing::warn!(link = name, address = %terms.address, "the DHCP lease is over");
                self.leases.put(name, Lease::Lost);
                self.granted.remove(name);
            }
        }
    }

    fn record(&mut self, name: String, answer: Result<LeaseTerms, super::LinkError>) {
        let now = tokio::time::Instant::now();
        match answer {
            Ok(terms) => {
                tracing::info!(
                    link = name,
                    address = %terms.address,
                    server = %terms.server,
                    lifetime_secs = terms.lifetime.as_secs(),
                    "got a DHCP lease"
                );
                self.attempts.remove(&name);
                self.granted.insert(name.clone(), now);
                self.leases.put(&name, Lease::Held(terms));
            }
            Err(error) => {
                let failures = self.attempts.get(&name).map_or(1, |attempts| attempts.failures + 1);
                let cause = error.source.to_string();
                tracing::warn!(link = name, attempt = failures, error = %error, cause, "no DHCP lease yet");
                self.attempts.insert(name, Attempts { failures, not_before: now + NO_ANSWER.delay(failures) });
            }
        }
    }
}

impl<H: DhcpHost> Controller for LeaseController<H> {
    type Error = Infallible;

    async fn reconcile(&mut self) -> Result<Outcome, Infallible> {
        self.drop_old();
        let (requests, next) = self.requests(&self.links.all());
        if requests.is_empty() {
            return Ok(next.map_or(Outcome::Done, Outcome::Again));
        }
        // All at once, so that a silent network does not keep another link waiting.
        let exchanges = requests.into_iter().map(|wanted| {
            let host = Arc::clone(&self.host);
            async move {
                let answer = host.exchange(&wanted.link, &wanted.hardware, wanted.request).await;
                (wanted.link, answer)
            }
        });
        for (name, answer) in futures_util::future::join_all(exchanges).await {
            self.record(name, answer);
        }
        Ok(Outcome::Again(Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::LinkError;
    use machined_reconcile::Supervisor;
    use machined_runtime::{Store, start};
    use std::sync::Mutex;

    fn terms(hours: u64) -> LeaseTerms {
        LeaseTerms {
            address: "10.0.2.15".parse().expect("because it is an address"),
            prefix: 24,
            gateway: None,
            nameservers: Vec::new(),
            server: "10.0.2.2".parse().expect("because it is an address"),
            lifetime: Duration::from_secs(hours * 3600),
            renew_after: Duration::from_secs(hours * 1800),
            rebind_after: Duration::from_secs(hours * 3150),
        }
    }

    #[test]
    fn a_lease_is_renewed_rebound_and_dropped_in_time() {
        let terms = terms(1);
        let address = terms.address;
        assert_eq!(due(&terms, Duration::ZERO), Due::Nothing { next: Duration::from_secs(1800) });
        let renew = LeaseRequest::Renew { address, server: terms.server };
        assert_eq!(due(&terms, Duration::from_secs(1800)), Due::Ask(renew));
        assert_eq!(due(&terms, Duration::from_secs(3150)), Due::Ask(LeaseRequest::Rebind { address }));
        assert_eq!(due(&terms, Duration::from_secs(3600)), Due::Expired);
    }

    /// A server that is silent for the first requests, and writes down all of them with their time.
    struct FakeServer {
        silent: u32,
        asked: Mutex<Vec<(Duration, LeaseRequest)>>,
        start: tokio::time::Instant,
    }
    impl DhcpHost for FakeServer {
        async fn exchange(&self, _: &str, _: &[u8], request: LeaseRequest) -> Result<LeaseTerms, LinkError> {
            let mut asked = self.asked.lock().expect("because no test panics with it");
            asked.push((self.start.elapsed(), request));
            if asked.len() <= self.silent as usize {
                return Err(LinkError { doing: "ask".to_owned(), source: "nobody answered".into() });
            }
            Ok(terms(1))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_network_is_asked_again_and_a_lease_is_renewed_at_half_its_life() {
        let (store, supervisor) = (Store::new(), Supervisor::new());
        let host = Arc::new(FakeServer { silent: 2, asked: Mutex::default(), start: tokio::time::Instant::now() });
        let mut ports = Ports::new(&store, "lease");
        let controller = LeaseController::new(&mut ports, Arc::clone(&host));
        start(&supervisor, &ports, controller);
        let specs = store.writer::<LinkSpec>().expect("because nobody else writes it");
        specs.put("eth0", LinkSpec { dhcp: true, ..LinkSpec::default() });
        let links = store.writer::<LinkStatus>().expect("because nobody else writes it");
        links.put("eth0", up());
        let mut leases = store.reader::<Lease>();
        leases.wait_for(|set| set.contains_key("eth0")).await;
        tokio::time::sleep(Duration::from_secs(2000)).await;
        supervisor.stop(Duration::from_secs(1)).await;
        let asked = host.asked.lock().expect("because no test panics with it").clone();
        let at: Vec<u64> = asked.iter().map(|(at, _)| at.as_secs()).collect();
        assert_eq!(at, [0, 1, 3, 1803]);
        assert!(matches!(asked[3].1, LeaseRequest::Renew { .. }));
    }

    fn up() -> LinkStatus {
        LinkStatus {
            index: 2,
            hardware: vec![2, 0, 0, 0, 0, 1],
            physical: true,
            loopback: false,
            up: true,
            carrier: true,
            addresses: Vec::new(),
            gateways: Vec::new(),
        }
    }
}
