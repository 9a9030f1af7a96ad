//! The way to this machine's API server: mTLS with a leaf for gitsync, the server pinned to the machine's own identity.

use crate::machine::{Machine, MachineError};
use controlplane_client::{Client, HttpsTransport};
use jiff::{SignedDuration, Timestamp};
use machined_access::{IdentityError, LeafKey, tls};
use machined_ids::Fingerprint;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;

/// A leaf is replaced when less than this is left of it.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(10);

/// There is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot make a key")]
    Key(#[from] IdentityError),
    #[error("machined's leaf ends at {0:?}")]
    Expiry(String, #[source] jiff::Error),
    #[error("the leaf cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("the API server has no usable name")]
    Name(#[source] controlplane_client::BoxError),
}

/// Makes clients and renews their leaf.
pub(crate) struct Api {
    machine: Machine,
    server: SocketAddr,
    client: Option<(Client, Timestamp)>,
}

impl Api {
    pub(crate) fn new(machine: Machine, server: SocketAddr) -> Self {
        Api { machine, server, client: None }
    }

    /// A client whose leaf is good for a while.
    ///
    /// # Errors
    /// [`ApiError`]
    pub(crate) async fn client(&mut self, identity: &Fingerprint, now: Timestamp) -> Result<Client, ApiError> {
        if let Some((client, until)) = &self.client
            && now < *until
        {
            return Ok(client.clone());
        }
        let key = LeafKey::generate()?;
        let (chain, expires) = self.machine.leaf(key.spki()).await?;
        let expires: Timestamp = expires.parse().map_err(|error| ApiError::Expiry(expires.clone(), error))?;
        let leaf = key.with_chain(chain.into_iter().map(CertificateDer::from).collect());
        let tls = tls::pinned_client_config([identity.clone()].into(), Some(leaf), &[])?;
        let name = ServerName::try_from(tls::MACHINE_NAME).map_err(|error| ApiError::Name(error.into()))?;
        let transport =
            HttpsTransport::new(vec![self.server], name, &tls).map_err(|error| ApiError::Name(error.into()))?;
        let client = Client::new(Arc::new(transport));
        self.client = Some((client.clone(), expires - RENEW_BEFORE));
        Ok(client)
    }
}
