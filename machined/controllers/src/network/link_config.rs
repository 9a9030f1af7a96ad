//! Gathers the layers of network configuration and writes the winner for each link.

use super::{LinkSpec, LinkStatus, NamesSpec, NetworkLayer, merge};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Reader, Writer};
use std::convert::Infallible;

/// Gives the layers as they are now; the inputs behind it were declared at the same [`Ports`].
pub type Layers = Box<dyn Fn() -> Vec<NetworkLayer> + Send>;

/// Writes [`LinkSpec`] and [`NamesSpec`].
pub struct LinkConfigController {
    layers: Layers,
    links: Reader<LinkStatus>,
    specs: Writer<LinkSpec>,
    names: Writer<NamesSpec>,
}

impl LinkConfigController {
    /// Declares inputs and outputs at `ports`.
    pub fn new(ports: &mut Ports, layers: Layers) -> Self {
        LinkConfigController { layers, links: ports.input(), specs: ports.output(), names: ports.output() }
    }
}

impl Controller for LinkConfigController {
    type Error = Infallible;

    async fn reconcile(&mut self) -> Result<Outcome, Infallible> {
        let (specs, names) = merge(&(self.layers)(), &self.links.all());
        self.specs.replace(specs);
        self.names.put(NamesSpec::ID, names);
        Ok(Outcome::Done)
    }
}
