//! This service's leaf: its own key with the chain that the machine's identity signed, renewed while the process lives.

use machined_access::{Leaf, LeafKey};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use tokio::sync::watch;

/// Hands out the newest leaf.
#[derive(Clone)]
pub(crate) struct LeafSource {
    key: Arc<LeafKey>,
    chain: watch::Receiver<Vec<CertificateDer<'static>>>,
}

impl LeafSource {
    /// A source over a key and a chain that somebody renews.
    pub(crate) fn new(key: Arc<LeafKey>, chain: watch::Receiver<Vec<CertificateDer<'static>>>) -> LeafSource {
        LeafSource { key, chain }
    }

    /// The newest leaf.
    pub(crate) fn current(&self) -> Leaf {
        self.key.with_chain(self.chain.borrow().clone())
    }

    /// Waits for the next one; `false` when nobody renews any more. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> bool {
        self.chain.changed().await.is_ok()
    }
}
