//! Who the member is, and how it is.

use crate::wire::{MEMBER, header, number};
use crate::{Facade, pb};
use controlplane_store::Store;
use std::io;
use std::path::Path;
use tonic::{Request, Response, Status};

/// The etcd whose API is spoken; clients choose features by it.
const VERSION: &str = "3.6.0";

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Facade {
    async fn alarm(&self, _: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        Ok(Response::new(pb::AlarmResponse { header: header(self.store.revision()) }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let leader = if self.store.is_leader() { MEMBER } else { 0 };
        // etcdctl divides by the size.
        let size = size(&self.folder).map_err(|error| Status::internal(format!("etcd-facade: {error}")))?.max(1);
        Ok(Response::new(pb::StatusResponse {
            header: header(self.store.revision()),
            version: VERSION.to_owned(),
            leader,
            db_size: size,
            db_size_in_use: size,
            ..Default::default()
        }))
    }
}

/// Bytes of a store's files.
fn size(folder: &Path) -> io::Result<i64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        sum += entry?.metadata()?.len();
    }
    Ok(number(sum))
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Facade {
    async fn member_list(&self, _: Request<pb::MemberListRequest>) -> Result<Response<pb::MemberListResponse>, Status> {
        let member = pb::Member { id: MEMBER, name: "facade".to_owned(), ..Default::default() };
        Ok(Response::new(pb::MemberListResponse { header: header(self.store.revision()), members: vec![member] }))
    }
}
