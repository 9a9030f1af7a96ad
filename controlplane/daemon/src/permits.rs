//! Answers machined, which asks whether this machine may restart or power off.
//!
//! The wish is written on this machine's Node, and the answer read from there: the gate (`controlplane/controllers`, `permits`) runs
//! where the store's leader is. Nothing is kept here, so it does not matter which process is asked, or whether it was started again.
//!
//! Task: `permits`, a gRPC server on a socket that only root can open.

use controlplane_client::{Client, ClientError, Patch, Transport};
use controlplane_controllers::{Answer, Phase, RESET, WISH, Wish};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use machined_api::permits_server::{Permits, PermitsServer};
use machined_api::{AskReply, AskRequest};
use machined_reconcile::{Restart, Stop, Supervisor};
use serde_json::json;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// How old a wish gets before it is written again: a third of what the gate lets pass.
const REFRESH: SignedDuration = SignedDuration::from_secs(60);

/// A permit that ends within this is none: the machine needs some time to stop.
const MARGIN: SignedDuration = SignedDuration::from_mins(2);

/// Reasons that machined gives; what is written on the Node is one of them.
const REASONS: [&str; 4] = ["reboot", "shutdown", "upgrade", RESET];

/// Longest image digest: `sha256:` and 64 hex digits.
const IMAGE_BYTES_MAX: usize = 71;

/// Why machined cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PermitsError {
    #[error("cannot listen on {}", socket.display())]
    Listen {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("permits cannot be served")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves this machine's machined for as long as the process runs.
pub(crate) fn start(
    machine: &str,
    boot: String,
    transport: Arc<dyn Transport>,
    socket: &Path,
    supervisor: &Supervisor,
) {
    let service = Service { machine: machine.to_owned(), boot, client: Client::new(transport) };
    let socket = socket.to_owned();
    supervisor.spawn("permits", Restart::Always, move |stop| serve(service.clone(), socket.clone(), stop));
}

/// Which boot of the machine this is.
pub(crate) fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

async fn serve(service: Service, socket: PathBuf, mut stop: Stop) -> Result<(), PermitsError> {
    let listen = |source| PermitsError::Listen { socket: socket.clone(), source };
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&socket).map_err(listen)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(listen)?;
    let server = tonic::transport::Server::builder().add_service(PermitsServer::new(service));
    let incoming = UnixListenerStream::new(listener);
    Ok(server.serve_with_incoming_shutdown(incoming, async move { stop.requested().await }).await?)
}

#[derive(Clone)]
struct Service {
    machine: String,
    boot: String,
    client: Client,
}

#[tonic::async_trait]
impl Permits for Service {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskReply>, Status> {
        let AskRequest { reason, image } = request.into_inner();
        if !REASONS.contains(&reason.as_str()) {
            return Err(Status::invalid_argument("a machine restarts, powers off, is upgraded or forgets everything"));
        }
        if image.len() > IMAGE_BYTES_MAX || !image.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Status::invalid_argument("an image is named by its digest"));
        }
        let image = Some(image).filter(|image| !image.is_empty());
        let answer = self.answer(reason, image, Timestamp::now()).await;
        answer.map(Response::new).map_err(|error| Status::unavailable(machined_reconcile::story(&error)))
    }
}

impl Service {
    async fn answer(&self, reason: String, image: Option<String>, now: Timestamp) -> Result<AskReply, ClientError> {
        let nodes = self.client.all::<Node>();
        let node = nodes.get(&self.machine).await?;
        let same = |wish: &Wish| wish.boot == self.boot && wish.reason == reason && wish.image == image;
        let fresh = Wish::on(&node).filter(|wish| same(wish) && now.duration_since(wish.asked) < REFRESH);
        if fresh.is_none() {
            let wish = Wish { boot: self.boot.clone(), reason: reason.clone(), asked: now, image };
            let text = serde_json::to_string(&wish).expect("because it is plain data");
            nodes.patch(&self.machine, Patch::Merge(&json!({"metadata": {"annotations": {WISH: text}}}))).await?;
        }
        Ok(reply(Answer::on(&node), &self.boot, &reason, now))
    }
}

/// What machined is told. Only a permit for this boot and this reason, with time left, is one; a gate of an older release does not say
/// for what it is, and knows no reset.
fn reply(answer: Option<Answer>, boot: &str, reason: &str, now: Timestamp) -> AskReply {
    let unsaid = |answer: &Answer| answer.reason.is_empty() && reason != RESET;
    let answer = answer.filter(|answer| answer.reason == reason || unsaid(answer));
    let Some(answer) = answer.filter(|answer| answer.boot == boot) else {
        let message = "the cluster was asked and has not answered yet".to_owned();
        return AskReply { message, ..AskReply::default() };
    };
    let lasts = answer.until.is_some_and(|until| until.duration_since(now) > MARGIN);
    let granted = answer.phase == Phase::Granted && lasts;
    let expires = answer.until.filter(|_| granted).map(|until| until.to_string()).unwrap_or_default();
    AskReply { granted, message: answer.message, expires }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(phase: Phase, minutes: i64) -> Option<Answer> {
        let until = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        let reason = "reboot".to_owned();
        Some(Answer {
            boot: "b1".to_owned(),
            reason,
            phase,
            message: "m".to_owned(),
            until: Some(until),
            cordoned: true,
        })
    }

    #[test]
    fn only_a_lasting_permit_of_this_boot_lets_the_machine_go() {
        let granted = |answer, boot| reply(answer, boot, "reboot", Timestamp::UNIX_EPOCH).granted;
        assert!(granted(answer(Phase::Granted, 30), "b1"));
        assert!(!granted(answer(Phase::Granted, 30), "b2"), "a permit from before the restart");
        assert!(!granted(answer(Phase::Granted, 1), "b1"), "a permit that is as good as over");
        for phase in [Phase::Waiting, Phase::Draining, Phase::Expired] {
            assert!(!granted(answer(phase, 30), "b1"), "{phase:?}");
        }
        assert!(!granted(None, "b1"), "no answer is a refusal");
        let reset = |answer| reply(answer, "b1", RESET, Timestamp::UNIX_EPOCH).granted;
        assert!(!reset(answer(Phase::Granted, 30)), "a restart was permitted, and no reset");
        let unsaid = answer(Phase::Granted, 30).map(|answer| Answer { reason: String::new(), ..answer });
        assert!(granted(unsaid.clone(), "b1") && !reset(unsaid), "an older gate knows no reset");
    }
}
