//! The way of a machine without a store to the API servers of the control plane: to the cluster's endpoints, tried in their order.
//!
//! The node agent and gitsync of a worker go this way. Whom to believe there is in the TLS configuration that they bring.

use crate::https::HttpsTransport;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;

/// There is no way to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum EndpointsError {
    /// No name of an endpoint leads anywhere.
    #[error("no endpoint of cluster.kdl has an address: {}", endpoints.join(", "))]
    Names {
        /// The endpoints.
        endpoints: Vec<String>,
        /// What looking up the last of them came to.
        #[source]
        source: Option<io::Error>,
    },
    /// The servers' name cannot be part of a URL.
    #[error("the API servers have no usable name")]
    Name(#[from] http::uri::InvalidUri),
}

impl HttpsTransport {
    /// Reaches the first of `endpoints` (`host:port`) whose server answers and is believed by `tls`; `name` as in [`HttpsTransport::new`].
    /// Their addresses are looked up now; whether one answers, each request says.
    ///
    /// # Errors
    /// [`EndpointsError`]
    pub async fn at_endpoints(
        endpoints: &[String],
        name: ServerName<'static>,
        tls: &rustls::ClientConfig,
    ) -> Result<Self, EndpointsError> {
        let (mut servers, mut unknown) = (Vec::new(), None);
        for endpoint in endpoints {
            match tokio::net::lookup_host(endpoint).await {
                Ok(found) => servers.extend(found.filter(SocketAddr::is_ipv4)),
                Err(error) => unknown = Some(error),
            }
        }
        if servers.is_empty() {
            return Err(EndpointsError::Names { endpoints: endpoints.to_vec(), source: unknown });
        }
        Ok(HttpsTransport::new(servers, name, tls)?)
    }
}
