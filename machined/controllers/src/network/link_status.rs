//! Shows the kernel's links as resources. The host fires this controller's trigger when the kernel reports a change.

use super::{LinkError, LinkHost, LinkStatus};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Writer};
use std::sync::Arc;

/// Writes [`LinkStatus`].
pub struct LinkStatusController<H> {
    host: Arc<H>,
    links: Writer<LinkStatus>,
}

impl<H: LinkHost> LinkStatusController<H> {
    /// Declares its output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> Self {
        LinkStatusController { host, links: ports.output() }
    }
}

impl<H: LinkHost> Controller for LinkStatusController<H> {
    type Error = LinkError;

    async fn reconcile(&mut self) -> Result<Outcome, LinkError> {
        self.links.replace(self.host.links().await?);
        Ok(Outcome::Done)
    }
}
