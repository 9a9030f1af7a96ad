//! The way of a machine without a store to the API servers of the control plane: mTLS, to whichever of them answers.
//!
//! A server is believed when the accepted step has its machine as part of the control plane, and the connection shows this machine's
//! newest leaf. Both change while the process runs; so the transport is made anew with each leaf, and the table is asked at each handshake.

use crate::leaf::LeafSource;
use crate::table::Table;
use controlplane_client::{Body, EndpointsError, HttpsTransport, Transport, TransportError};
use http::{Request, Response};
use machined_access::tls;
use machined_reconcile::{Restart, Stop, Supervisor};
use rustls::pki_types::ServerName;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

/// Why there is no way to the control plane.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error(transparent)]
    Endpoints(#[from] EndpointsError),
    #[error("this machine's certificate cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("the API servers have no usable name")]
    Name(#[source] controlplane_client::BoxError),
}

/// Reaches the API servers at the cluster's endpoints.
pub(crate) struct Remote {
    endpoints: Vec<String>,
    table: Table,
    current: RwLock<Arc<HttpsTransport>>,
}

impl Remote {
    /// A transport to the API servers at `endpoints` (`host:port`), tried in order.
    ///
    /// Task: `way to the control plane`, which follows the leaf.
    ///
    /// # Errors
    /// [`RemoteError`]. That no server answers is none: each request says so.
    pub(crate) async fn new(
        endpoints: Vec<String>,
        table: Table,
        leaf: LeafSource,
        supervisor: &Supervisor,
    ) -> Result<Arc<Remote>, RemoteError> {
        let first = transport(&endpoints, &table, &leaf).await?;
        let remote = Arc::new(Remote { endpoints, table, current: RwLock::new(Arc::new(first)) });
        let renewed = Arc::clone(&remote);
        supervisor.spawn("way to the control plane", Restart::Always, move |stop| {
            Arc::clone(&renewed).follow(leaf.clone(), stop)
        });
        Ok(remote)
    }

    async fn follow(self: Arc<Self>, mut leaf: LeafSource, mut stop: Stop) -> Result<(), RemoteError> {
        loop {
            tokio::select! {
                renewed = leaf.changed() => if !renewed { return Ok(()) },
                () = stop.requested() => return Ok(()),
            }
            // What runs on the old connections goes on until they end.
            let next = Arc::new(transport(&self.endpoints, &self.table, &leaf).await?);
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        }
    }
}

async fn transport(endpoints: &[String], table: &Table, leaf: &LeafSource) -> Result<HttpsTransport, RemoteError> {
    let table = table.clone();
    let expected = move |identity: &_| table.current().is_control_plane(identity);
    let tls = tls::client_config(expected, Some(leaf.current()), &[])?;
    let name = ServerName::try_from(tls::MACHINE_NAME).map_err(|error| RemoteError::Name(error.into()))?;
    Ok(HttpsTransport::at_endpoints(endpoints, name, &tls).await?)
}

impl Transport for Remote {
    fn call(
        &self,
        request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, TransportError>> + Send + '_>> {
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        Box::pin(async move { current.call(request).await })
    }
}
