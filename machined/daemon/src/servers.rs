//! The two listeners: the machine API over TLS, and the local socket.

use crate::api::disk_keys::DiskKeysService;
use crate::api::local_service::{LocalService, LocalStream};
use crate::api::machine_service::MachineService;
use crate::api::maintenance_service::MaintenanceService;
use crate::facts::{first_api_millis, uptime};
use crate::gate::Gate;
use crate::listener;
use crate::metrics;
use crate::model::Model;
use jiff::Timestamp;
use machined_access::tls::ServerKeys;
use machined_access::{IdentityError, LEAF_LIFETIME, LeafKey, tls};
use machined_api::disk_keys_server::DiskKeysServer;
use machined_api::local_server::LocalServer;
use machined_api::machine_server::MachineServer;
use machined_api::maintenance_server::MaintenanceServer;
use machined_controllers::identity::MachineKey;
use machined_reconcile::Stop;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::Server;

/// Finished handshakes that wait for tonic to take them; it does so at once.
const READY_STREAMS: usize = 8;
/// Largest message from a service: two documents of a megabyte and an access table, as the ledger takes them.
const LOCAL_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// A connection that says nothing is asked whether it still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why a listener cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The address is taken or not there.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address or path.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No certificate.
    #[error("the API's certificate cannot be made")]
    Leaf(#[from] IdentityError),
    /// TLS refused the certificate.
    #[error("the API's certificate cannot be used")]
    Tls(#[from] rustls::Error),
    /// tonic ended.
    #[error("the API server failed")]
    Serve(#[from] tonic::transport::Error),
}

async fn leaf(key: &MachineKey, own: &LeafKey) -> Result<machined_access::Leaf, IdentityError> {
    let names = vec![tls::MACHINE_NAME.to_owned()];
    Ok(own.with_chain(key.issue_leaf(own.spki(), "machined", names, Timestamp::now()).await?))
}

/// Replaces the leaf at two thirds of its life, for ever.
async fn renew(key: &MachineKey, own: &LeafKey, keys: &ServerKeys) -> Result<(), ServeError> {
    let life = Duration::try_from(LEAF_LIFETIME).unwrap_or(Duration::from_secs(3600));
    loop {
        tokio::time::sleep(life * 2 / 3).await;
        keys.set_machine(leaf(key, own).await?)?;
        tracing::info!("the API has a new leaf");
    }
}

/// Listens on every address of the machine.
pub(crate) async fn listen(port: u16) -> Result<TcpListener, ServeError> {
    let refused = |source| ServeError::Listen { address: format!("port {port}"), source };
    TcpListener::bind(("0.0.0.0", port)).await.map_err(refused)
}

/// Serves the machine API from the moment the identity is there; until then clients wait in the listener's queue.
pub(crate) async fn machine_api(mut model: Model, listener: TcpListener, mut stop: Stop) -> Result<(), ServeError> {
    let set = model.keys.wait_for(|set| set.contains_key(MachineKey::ID)).await;
    let key = set[MachineKey::ID].clone();
    let own = LeafKey::generate()?;
    let keys = ServerKeys::new(leaf(&key, &own).await?)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(Arc::clone(&keys), &["h2"])?));
    let millis = u64::try_from(uptime().as_millis()).unwrap_or(u64::MAX);
    model.api_millis.store(first_api_millis(millis), Ordering::Relaxed);
    model.events.add("ApiServing", "machine", format!("{millis} ms after the kernel started"));
    let (streams, ready) = mpsc::channel(READY_STREAMS);
    let gate = Gate::new(&model);
    let keys_of_others = DiskKeysService::new(gate.clone(), model.shares.clone());
    let (scraped, door) = (model.clone(), gate.clone());
    let scrape = axum::routing::get(move |request| metrics::serve(door.clone(), scraped.clone(), request));
    let routes = Routes::new(MachineServer::new(MachineService::new(gate, model.clone())))
        .add_service(MaintenanceServer::new(MaintenanceService::new(model)))
        .add_service(DiskKeysServer::new(keys_of_others));
    let routes = Routes::from(routes.into_axum_router().route(metrics::PATH, scrape));
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(ready), async move { stop.requested().await });
    tokio::select! {
        served = server => Ok(served?),
        renewed = renew(&key, &own, &keys) => renewed,
        () = listener::accept(listener, acceptor, streams) => Ok(()),
    }
}

/// Serves the local API on `socket`.
pub(crate) async fn local_api(model: Model, socket: &Path, mut stop: Stop) -> Result<(), ServeError> {
    let listen = |source| ServeError::Listen { address: socket.display().to_string(), source };
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(listen)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(listen(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(socket).map_err(listen)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(listen)?;
    let streams = UnixListenerStream::new(listener).map(|stream| stream.map(LocalStream::new));
    let service = LocalServer::new(LocalService::new(model)).max_decoding_message_size(LOCAL_MESSAGE_BYTES);
    let server = Server::builder().add_service(service);
    Ok(server.serve_with_incoming_shutdown(streams, async move { stop.requested().await }).await?)
}
