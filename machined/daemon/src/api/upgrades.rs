//! Upgrades over the machine API: takes what is sent, hands the wish to the controller, and says how it stands.
//!
//! Nothing is judged here: the controller does, once the artefact is whole. The caller may go away as soon as the answer came.

use crate::model::Model;
use machined_access::Principal;
use machined_api::{
    Image, RollbackRequest, UpgradeEnd, UpgradeReply, UpgradeStatusReply, UpgradeWish, upgrade_request,
};
use machined_controllers::upgrade::{
    ImageNote, UpgradeInbox, UpgradeRefused, UpgradeRequest as Wish, UpgradeStatus as Stand,
};
use machined_host::StagingError;
use machined_reconcile::story;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

fn refused(error: &UpgradeRefused) -> Status {
    let text = error.to_string();
    match error {
        UpgradeRefused::NotReady(_) => Status::unavailable(text),
        UpgradeRefused::Deadline => Status::invalid_argument(text),
        UpgradeRefused::Busy { .. }
        | UpgradeRefused::NothingThere
        | UpgradeRefused::Floor(_)
        | UpgradeRefused::NothingHeldBack => Status::failed_precondition(text),
    }
}

fn not_taken(error: &StagingError) -> Status {
    let text = story(error);
    match error {
        StagingError::Busy => Status::unavailable(text),
        StagingError::Long | StagingError::Length { .. } | StagingError::Header(_) | StagingError::Part { .. } => {
            Status::invalid_argument(text)
        }
        StagingError::Http(_) | StagingError::File { .. } => Status::internal(text),
    }
}

async fn ask(inbox: &UpgradeInbox, wish: Wish) -> Result<UpgradeReply, Status> {
    let answer = inbox.ask(wish).await.map_err(|error| Status::unavailable(error.to_string()))?;
    answer.map(|()| UpgradeReply {}).map_err(|error| refused(&error))
}

/// Says at once that one runs: the controller may be busy with it for minutes.
pub(super) fn idle(model: &Model) -> Result<(), Status> {
    match model.upgrade.get(Stand::ID) {
        Some(stand) if stand.phase == Stand::IDLE => Ok(()),
        Some(stand) => {
            let (phase, message) = (stand.phase, stand.message);
            let text = format!(
                "an upgrade is {phase} ({message}); `cairnctl upgrade status` follows it, ask again when it is over"
            );
            Err(Status::failed_precondition(text))
        }
        None => {
            Err(Status::unavailable("this machine does not run from a slot, or is starting; try again in a moment"))
        }
    }
}

/// Takes a wish, and the artefact behind it when no URL is named.
pub(super) async fn upgrade(
    model: &Model,
    who: &Principal,
    wish: UpgradeWish,
    mut parts: impl Stream<Item = Result<machined_api::UpgradeRequest, Status>> + Unpin,
) -> Result<UpgradeReply, Status> {
    idle(model)?;
    if wish.retry {
        return ask(&model.upgrades, Wish::Retry).await;
    }
    let url = Some(wish.url).filter(|url| !url.is_empty());
    if url.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        return Err(Status::invalid_argument("the URL of an image begins with http:// or https://"));
    }
    if url.is_none() {
        let mut incoming = model.staging.begin().map_err(|error| not_taken(&error))?;
        while let Some(part) = parts.next().await {
            match part?.part {
                Some(upgrade_request::Part::Chunk(chunk)) => {
                    incoming.take(&chunk).map_err(|error| not_taken(&error))?
                }
                Some(upgrade_request::Part::Wish(_)) | None => {
                    return Err(Status::invalid_argument("behind the wish come the bytes of the artefact"));
                }
            }
        }
        let finished = tokio::task::spawn_blocking(move || incoming.finish()).await;
        finished.map_err(|panic| Status::internal(panic.to_string()))?.map_err(|error| not_taken(&error))?;
    }
    let (by, _) = who.named();
    let (without_permit, deadline_seconds) = (wish.without_permit, wish.deadline_seconds);
    ask(&model.upgrades, Wish::Start { by: by.to_owned(), url, without_permit, deadline_seconds }).await
}

/// Goes back to the other slot.
pub(super) async fn rollback(model: &Model, who: &Principal, request: RollbackRequest) -> Result<UpgradeReply, Status> {
    idle(model)?;
    let RollbackRequest { deadline_seconds, without_permit } = request;
    let (by, _) = who.named();
    ask(&model.upgrades, Wish::Rollback { by: by.to_owned(), without_permit, deadline_seconds }).await
}

fn image(note: &ImageNote) -> Image {
    Image {
        digest: note.digest.clone().unwrap_or_default(),
        version: note.version.clone(),
        number: note.number,
        root: note.root.clone(),
    }
}

/// How it stands.
pub(super) fn status(model: &Model) -> UpgradeStatusReply {
    let Some(stand) = model.upgrade.get(Stand::ID) else {
        return UpgradeStatusReply { phase: "starting".to_owned(), ..UpgradeStatusReply::default() };
    };
    UpgradeStatusReply {
        phase: stand.phase.to_owned(),
        message: stand.message,
        target: stand.target.as_ref().map(image),
        running: Some(image(&stand.running)),
        slot: stand.slot.map(|slot| slot.letter().to_owned()).unwrap_or_default(),
        other: stand.other.as_ref().map(image),
        last: stand.last.map(|last| UpgradeEnd {
            outcome: last.outcome.as_str().to_owned(),
            image: last.image.as_ref().map(image),
            by: last.origin.by().to_owned(),
            reason: last.reason,
        }),
    }
}
