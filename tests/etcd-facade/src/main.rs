//! `etcd-facade`: a store of one member behind etcd's API, without TLS, for tests and measurements on one computer.

use anyhow::{Context, Result};
use clap::Parser;
use controlplane_replica::{Alone, Folder, LEASES, Member, Options, Replica};
use machined_reconcile::Supervisor;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

/// etcd's API over Cairn's store, for tests
#[derive(Debug, Parser)]
struct Arguments {
    /// Where it listens, in the clear
    #[arg(long, default_value = "127.0.0.1:2379")]
    listen: SocketAddr,
    /// Where the store lies; made when it is not there
    #[arg(long)]
    data: PathBuf,
}

/// How long the maintenance task gets to finish.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { listen, data } = Arguments::parse();
    let options = Options {
        files: Arc::new(Folder::create(&data).with_context(|| format!("making {}", data.display()))?),
        id: 1,
        member: Member { machine: "facade".to_owned(), address: listen.to_string() },
        bootstrap: true,
        peers: Arc::new(Alone),
        speaks: LEASES,
    };
    let (store, supervisor) = (Replica::open(options).await?, Supervisor::new());
    store.maintain(&supervisor);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    println!("etcd-facade answers on {}", listener.local_addr()?);
    let served = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_routes(tests_etcd_facade::routes(Arc::clone(&store), data))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
            // Without a handler the process ends at once, which the store survives too.
            let _asked = tokio::signal::ctrl_c().await;
        });
    tokio::select! {
        served = served => served?,
        why = store.failed() => anyhow::bail!("the store cannot go on: {why}"),
    }
    supervisor.stop(GRACE).await;
    Ok(store.close().await?)
}
