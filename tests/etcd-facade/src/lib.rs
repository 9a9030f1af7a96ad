//! etcd's v3 API over Cairn's store: a tool for tests, so that etcdctl and etcd's own benchmark can judge the store.
//!
//! ```text
//! etcdctl, benchmark --gRPC--> kv.rs, txn.rs, watch.rs, lease.rs, status.rs --Store trait--> Replica (openraft, redb), alone in its group
//! ```
//!
//! It translates and decides nothing: what the store cannot do is answered `UNIMPLEMENTED` with the reason, never done by halves. Not there:
//! the lease of a key, ranges and nested transactions inside a transaction, compares over a range, deletions of more than [`DELETE_LIMIT`] keys at once,
//! authentication, TLS. It is no part of an image.

mod error;
mod kv;
mod lease;
mod status;
mod txn;
mod watch;
mod wire;

/// Messages, clients and servers generated from `proto/etcd/facade.proto`.
pub mod pb {
    #![allow(missing_docs, clippy::all, unreachable_pub, reason = "generated; the .proto says what they are")]
    tonic::include_proto!("etcdserverpb");
}

use controlplane_replica::Replica;
use std::path::PathBuf;
use std::sync::Arc;
use tonic::service::Routes;

/// Keys that one request deletes: each is compared and deleted in one transaction of the store.
pub const DELETE_LIMIT: usize = controlplane_store::OPS_LIMIT / 2;

/// Bytes of a request: the store's largest transaction and its frame.
const MESSAGE_LIMIT: usize = controlplane_store::TXN_LIMIT + (64 << 10);

/// The services, over one store.
#[derive(Clone)]
pub(crate) struct Facade {
    pub(crate) store: Arc<Replica>,
    /// Where the store lies, for its size.
    pub(crate) folder: PathBuf,
}

/// Everything that is answered, over a store that lies in `folder`.
#[must_use]
pub fn routes(store: Arc<Replica>, folder: PathBuf) -> Routes {
    let facade = Facade { store, folder };
    let mut routes = Routes::builder();
    routes
        .add_service(pb::kv_server::KvServer::new(facade.clone()).max_decoding_message_size(MESSAGE_LIMIT))
        .add_service(pb::watch_server::WatchServer::new(facade.clone()))
        .add_service(pb::lease_server::LeaseServer::new(facade.clone()))
        .add_service(pb::cluster_server::ClusterServer::new(facade.clone()))
        .add_service(pb::maintenance_server::MaintenanceServer::new(facade));
    routes.routes()
}
