//! Connections to the machine API, pinned to the machine's identity.

use crate::contexts::{Context, Machine};
use crate::session::Session;
use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use machined_access::{Leaf, tls};
use machined_api::machine_client::MachineClient;
use machined_api::maintenance_client::MaintenanceClient;
use machined_ids::{Fingerprint, MachineName};
use rustls::pki_types::ServerName;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long a connection may take; a machine on another continent answers within one second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The machine API with this person's login on every call.
pub(crate) type LoggedIn = MachineClient<InterceptedService<Channel, Bearer>>;

/// Puts the login on every call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Opens the machine API as the person who is logged in.
pub(crate) async fn connect(
    folder: &std::path::Path,
    context: &Context,
    name: Option<&MachineName>,
) -> Result<(MachineName, LoggedIn)> {
    let (name, machine) = context.machine(name)?;
    let now = Timestamp::now();
    let session = Session::load(folder, context, now)?;
    let channel = channel(machine, Some(session.client_leaf(now)?)).await?;
    let mut token = MetadataValue::try_from(format!("Bearer {}", session.token)).context("the login is text")?;
    token.set_sensitive(true);
    Ok((name.clone(), MachineClient::with_interceptor(channel, Bearer(token))))
}

/// Opens the maintenance API of a machine that nobody introduced yet.
pub(crate) async fn maintenance(address: &str, identity: &Fingerprint) -> Result<MaintenanceClient<Channel>> {
    let machine = Machine { address: address.to_owned(), identity: identity.clone() };
    Ok(MaintenanceClient::new(channel(&machine, None).await?))
}

async fn channel(machine: &Machine, own: Option<Leaf>) -> Result<Channel> {
    let expected = BTreeSet::from([machine.identity.clone()]);
    let config = Arc::new(tls::pinned_client_config(expected, own, &["h2"])?);
    let address = machine.address.clone();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let (config, address) = (Arc::clone(&config), address.clone());
        async move { dial(config, &address).await.map(TokioIo::new) }
    });
    // The URI is only what tonic puts into :authority; the connector knows the address.
    Endpoint::from_static("http://machine.cairn.internal")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(explain)
        .with_context(|| format!("cannot reach the machine API at {}", machine.address))
}

/// tonic hides why a connection failed in the chain of sources; people need the innermost words.
fn explain(error: tonic::transport::Error) -> anyhow::Error {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    anyhow::anyhow!("{cause}")
}

/// Opens TLS to a machine; see [`tls::pinned_client_config`].
pub(crate) async fn dial(config: Arc<rustls::ClientConfig>, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(tls::MACHINE_NAME).expect("because the constant is a DNS name");
    TlsConnector::from(config).connect(name, stream).await
}

/// `host:port`, with the machine API's port where none is given.
pub(crate) fn with_port(address: &str, port: u16) -> String {
    let has_port = address.parse::<std::net::SocketAddr>().is_ok()
        || address.parse::<std::net::IpAddr>().is_err() && address.contains(':');
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Ok(std::net::IpAddr::V4(_)) | Err(_) if has_port => address.to_owned(),
        Ok(std::net::IpAddr::V4(_)) | Err(_) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn a_port_is_added_where_none_is_given() {
        for (given, expected) in [
            ("10.0.0.1", "10.0.0.1:50000"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("cp1.example.org", "cp1.example.org:50000"),
            ("cp1.example.org:1", "cp1.example.org:1"),
            ("2001:db8::1", "[2001:db8::1]:50000"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ] {
            assert_eq!(with_port(given, 50_000), expected);
        }
    }
}
