//! The Lease service: leases as the store has them. The store does not say which lease a key has; who holds one can list its keys.

use crate::error::status;
use crate::wire::{header, number};
use crate::{Facade, pb};
use controlplane_replica::{LEASES, LeaseStatus, Replica};
use controlplane_store::{LeaseId, LeaseProblem, Store, StoreError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Renewals of one stream that are answered before the client reads the answers.
const ANSWERS_WAITING: usize = 16;

/// A lease as etcd numbers it.
pub(crate) const fn lease_id(number: i64) -> LeaseId {
    LeaseId(number.cast_unsigned())
}

fn missing(error: &StoreError) -> bool {
    matches!(error, StoreError::Lease { problem: LeaseProblem::Missing, .. })
}

/// Seconds that a lease lives on, rounded up: one that is there is not over.
fn seconds_left(status: &LeaseStatus) -> i64 {
    let left = status.left.map_or(u64::from(status.lease.seconds), |left| left.as_millis().div_ceil(1000) as u64);
    number(left)
}

#[tonic::async_trait]
impl pb::lease_server::Lease for Facade {
    type LeaseKeepAliveStream = ReceiverStream<Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        let seconds = u32::try_from(ttl.max(1)).map_err(|_| Status::out_of_range("etcdserver: too large lease TTL"))?;
        // Of an id that the client leaves to us, etcd's are positive.
        let id = if id == 0 { (RandomState::new().build_hasher().finish() >> 1).cast_signed() } else { id };
        // The only member there is speaks them; etcd's revision begins at 1, so the level is written when it is needed.
        if self.store.level().map_err(status)? < LEASES {
            self.store.raise(LEASES, &[]).await.map_err(status)?;
        }
        self.store.grant(lease_id(id), seconds).await.map_err(status)?;
        let header = header(self.store.revision());
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl: i64::from(seconds), error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.store.revoke(lease_id(request.into_inner().id)).await.map_err(status)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: header(self.store.revision()) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (mut requests, store) = (request.into_inner(), Arc::clone(&self.store));
        let (answers, stream) = mpsc::channel(ANSWERS_WAITING);
        // Ends with the client's stream, or when nobody reads the answers.
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if answers.send(keep_alive(&store, request.id).await).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let found = self.store.lease(lease_id(id)).await.map_err(status)?;
        let header = header(self.store.revision());
        Ok(Response::new(match found {
            // As etcd says that it is over.
            None => pb::LeaseTimeToLiveResponse { header, id, ttl: -1, granted_ttl: 0, keys: Vec::new() },
            Some(found) => pb::LeaseTimeToLiveResponse {
                header,
                id,
                ttl: seconds_left(&found),
                granted_ttl: i64::from(found.lease.seconds),
                keys: if keys { found.keys } else { Vec::new() },
            },
        }))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let leases = self.store.leases().await.map_err(status)?;
        let leases = leases.into_iter().map(|lease| pb::LeaseStatus { id: lease.id.0.cast_signed() }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: header(self.store.revision()), leases }))
    }
}

/// Renews a lease. One that is over has no time left, which is how etcd says it here.
async fn keep_alive(store: &Replica, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
    let ttl = match store.renew(lease_id(id)).await {
        Ok(()) => store.lease(lease_id(id)).await.map_err(status)?.map_or(0, |found| i64::from(found.lease.seconds)),
        Err(error) if missing(&error) => 0,
        Err(error) => return Err(status(error)),
    };
    Ok(pb::LeaseKeepAliveResponse { header: header(store.revision()), id, ttl })
}
