//! Maintenance: the one thing that a machine without a cluster takes, once.

use crate::facts::VERSION;
use crate::gate::Connection;
use crate::model::Model;
use jiff::Timestamp;
use machined_access::{AuditApi, AuditOutcome, AuditRecord};
use machined_api::maintenance_server::Maintenance;
use machined_api::{IdentifyReply, IdentifyRequest, IntroduceReply, IntroduceRequest};
use machined_controllers::introduction::{self, IntroduceError, Introduced};
use std::time::Duration;
use tonic::{Request, Response, Status};

/// A first boot formats the state volume; callers that come earlier wait for it this long.
const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves maintenance.
pub(crate) struct MaintenanceService {
    model: Model,
}

impl MaintenanceService {
    pub(crate) fn new(model: Model) -> Self {
        MaintenanceService { model }
    }

    /// Refuses when the machine belongs to a cluster.
    async fn in_maintenance(&self) -> Result<(), Status> {
        let mut introduced = self.model.introduced.clone();
        let known = introduced.wait_for(|set| set.contains_key(Introduced::ID));
        let Ok(set) = tokio::time::timeout(STATE_TIMEOUT, known).await else {
            return Err(Status::unavailable(
                "the machine has not read its state volume yet; its kernel log says why, try again in a moment",
            ));
        };
        match set.get(Introduced::ID) {
            Some(Introduced::As(introduction)) => Err(Status::failed_precondition(format!(
                "the machine was introduced to cluster {} already; log in with `cairnctl login`, or install it again",
                introduction.cluster
            ))),
            Some(Introduced::Not) | None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn identify(&self, _request: Request<IdentifyRequest>) -> Result<Response<IdentifyReply>, Status> {
        self.in_maintenance().await?;
        Ok(Response::new(IdentifyReply {
            identity: self.model.identity(),
            version: VERSION.to_owned(),
            addresses: self.model.addresses(),
        }))
    }

    async fn introduce(&self, request: Request<IntroduceRequest>) -> Result<Response<IntroduceReply>, Status> {
        self.in_maintenance().await?;
        let remote = request.extensions().get::<Connection>().and_then(|connection| connection.address);
        let record = AuditRecord::new(Timestamp::now(), AuditApi::Machine, "Introduce");
        let record = record.from(remote.map(|address| address.to_string()).unwrap_or_default());
        let IntroduceRequest { introduction, repositories } = request.into_inner();
        let request = introduction::IntroduceRequest { json: introduction, repositories };
        let answer = self.model.introduce.ask(request).await.map_err(|error| Status::unavailable(error.to_string()))?;
        self.model.audit.add(match &answer {
            Ok(_) => record,
            Err(error) => record.ended(AuditOutcome::Failed, error.to_string()),
        });
        match answer {
            Ok(cluster) => Ok(Response::new(IntroduceReply { cluster: cluster.to_string() })),
            Err(error @ IntroduceError::NotReady) => Err(Status::unavailable(error.to_string())),
            Err(error @ IntroduceError::Conflict { .. }) => Err(Status::failed_precondition(error.to_string())),
            Err(error @ IntroduceError::Form(_)) => Err(Status::invalid_argument(error.to_string())),
            Err(error @ IntroduceError::Write(_)) => Err(Status::internal(error.to_string())),
        }
    }
}
