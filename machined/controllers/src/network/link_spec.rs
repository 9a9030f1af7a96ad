//! Makes the kernel's links agree with specifications and leases.

use super::{Lease, LinkError, LinkHost, LinkSpec, LinkStatus, plan};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Reader};
use std::sync::Arc;

/// Acts on the kernel; `link_status` sees the effect.
pub struct LinkSpecController<H> {
    host: Arc<H>,
    specs: Reader<LinkSpec>,
    leases: Reader<Lease>,
    /// Only for its signal.
    _links: Reader<LinkStatus>,
}

impl<H: LinkHost> LinkSpecController<H> {
    /// Declares inputs at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> Self {
        LinkSpecController { host, specs: ports.input(), leases: ports.input(), _links: ports.input() }
    }
}

impl<H: LinkHost> Controller for LinkSpecController<H> {
    type Error = LinkError;

    async fn reconcile(&mut self) -> Result<Outcome, LinkError> {
        // Asked afresh: the status in the store may be from before the last change, and a change made twice is noise.
        let links = self.host.links().await?;
        for change in plan(&self.specs.all(), &self.leases.all(), &links) {
            self.host.change(&change).await?;
            tracing::info!(?change, "changed the network");
        }
        Ok(Outcome::Done)
    }
}
