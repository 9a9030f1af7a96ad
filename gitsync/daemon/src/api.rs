//! The way to the API: mTLS with a leaf for gitsync. A control-plane machine asks its own server, pinned to its own identity; a worker
//! asks at the cluster's endpoints, tried in turn, and believes the control-plane machines of the accepted step.

use crate::cluster::Target;
use crate::machine::{Machine, MachineError};
use controlplane_client::{Client, EndpointsError, HttpsTransport};
use jiff::{SignedDuration, Timestamp};
use machined_access::{IdentityError, LeafKey, tls};
use machined_config::Role;
use machined_ids::Fingerprint;
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::BTreeSet;
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
    #[error(transparent)]
    Endpoints(#[from] EndpointsError),
    #[error("the API server has no usable name")]
    Name(#[source] controlplane_client::BoxError),
}

/// Where the API is, and who may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    servers: Vec<String>,
    believed: BTreeSet<Fingerprint>,
}

impl Way {
    /// `own` is this machine's server. Every API server listens on the same port.
    fn of(target: &Target, own: SocketAddr) -> Self {
        match target.role {
            Role::ControlPlane => Way { servers: vec![own.to_string()], believed: [target.identity.clone()].into() },
            Role::Worker => {
                let endpoints = target.desired.documents.cluster.endpoints.iter();
                let table = &target.desired.access;
                let believed = table.machines.values().map(|machine| &machine.identity);
                Way {
                    servers: endpoints.map(|host| format!("{host}:{}", own.port())).collect(),
                    believed: believed.filter(|identity| table.is_control_plane(identity)).cloned().collect(),
                }
            }
        }
    }
}

/// Makes clients and renews their leaf.
pub(crate) struct Api {
    machine: Machine,
    server: SocketAddr,
    client: Option<(Client, Way, Timestamp)>,
}

impl Api {
    /// `server` is this machine's own, where it has one.
    pub(crate) fn new(machine: Machine, server: SocketAddr) -> Self {
        Api { machine, server, client: None }
    }

    /// A client that goes where the accepted step says, and whose leaf is good for a while.
    ///
    /// # Errors
    /// [`ApiError`]
    pub(crate) async fn client(&mut self, target: &Target, now: Timestamp) -> Result<Client, ApiError> {
        let way = Way::of(target, self.server);
        if let Some((client, known, until)) = &self.client
            && *known == way
            && now < *until
        {
            return Ok(client.clone());
        }
        let key = LeafKey::generate()?;
        let (chain, expires) = self.machine.leaf(key.spki()).await?;
        let expires: Timestamp = expires.parse().map_err(|error| ApiError::Expiry(expires.clone(), error))?;
        let leaf = key.with_chain(chain.into_iter().map(CertificateDer::from).collect());
        let tls = tls::pinned_client_config(way.believed.clone(), Some(leaf), &[])?;
        let name = ServerName::try_from(tls::MACHINE_NAME).map_err(|error| ApiError::Name(error.into()))?;
        let transport = HttpsTransport::at_endpoints(&way.servers, name, &tls).await?;
        let client = Client::new(Arc::new(transport));
        self.client = Some((client.clone(), way, expires - RENEW_BEFORE));
        Ok(client)
    }
}
