//! Shares of other machines' disk keys: kept for and released to the machine that proves to be the one, and in the audit log each time.

use crate::gate::{Called, Gate};
use machined_api::disk_keys_server::DiskKeys;
use machined_api::{KeepReply, KeepRequest, ReleaseReply, ReleaseRequest};
use machined_controllers::block::{ShareInbox, ShareRefusal, ShareRequest};
use machined_luks::{Secret, ShareId};
use machined_reconcile::story;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

/// Shares that a machine may say it holds: of two volumes, before and after a change, found at several addresses.
const HELD_MAX: usize = 64;

/// Serves machines of the accepted step.
pub(crate) struct DiskKeysService {
    gate: Gate,
    shares: ShareInbox,
}

impl DiskKeysService {
    pub(crate) fn new(gate: Gate, shares: ShareInbox) -> Self {
        DiskKeysService { gate, shares }
    }

    /// Asks the book, and ends the call's record with what it said.
    async fn ask(&self, called: Called, request: ShareRequest) -> Result<Option<Secret>, Status> {
        let answer = match self.shares.ask(request).await {
            Ok(answer) => answer.map_err(|refused| status_of(&refused)),
            Err(unanswered) => Err(Status::unavailable(unanswered.to_string())),
        };
        called.ended(answer.as_ref().err().map(Status::message));
        answer
    }
}

fn status_of(refused: &ShareRefusal) -> Status {
    let said = story(refused);
    match refused {
        ShareRefusal::NotReady => Status::unavailable(said),
        ShareRefusal::Stranger(_) => Status::permission_denied(said),
        ShareRefusal::NoPeer => Status::failed_precondition(said),
        ShareRefusal::Unknown(_) => Status::not_found(said),
        ShareRefusal::Full | ShareRefusal::TooOften => Status::resource_exhausted(said),
        ShareRefusal::Write(_) => Status::internal(said),
    }
}

fn share_id(bytes: &[u8]) -> Result<ShareId, Status> {
    ShareId::from_bytes(bytes).ok_or_else(|| Status::invalid_argument("a share's id has 16 bytes"))
}

#[tonic::async_trait]
impl DiskKeys for DiskKeysService {
    async fn keep(&self, request: Request<KeepRequest>) -> Result<Response<KeepReply>, Status> {
        let called = self.gate.machined("DiskKeyKeep", &request)?;
        let KeepRequest { id, share, held } = request.into_inner();
        let share = Zeroizing::new(share);
        let share = share.as_slice().try_into().map(Zeroizing::new);
        let share = share.map_err(|_| Status::invalid_argument("a share has 32 bytes"))?;
        if held.len() > HELD_MAX {
            return Err(Status::invalid_argument(format!("a machine holds at most {HELD_MAX} shares")));
        }
        let held = held.iter().map(|id| share_id(id)).collect::<Result<_, _>>()?;
        let request = ShareRequest::Keep { machine: called.machine.clone(), id: share_id(&id)?, share, held };
        self.ask(called, request).await?;
        Ok(Response::new(KeepReply {}))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseReply>, Status> {
        let called = self.gate.machined("DiskKeyRelease", &request)?;
        let id = share_id(&request.into_inner().id)?;
        let machine = called.machine.clone();
        let share = self.ask(called, ShareRequest::Release { machine: machine.clone(), id }).await?;
        let share = share.ok_or_else(|| Status::internal("machined answered something else"))?;
        tracing::info!(%machine, "released a share of a disk key");
        Ok(Response::new(ReleaseReply { share: share.to_vec() }))
    }
}
