//! The end of the machine: services stop first, then PID 1 is asked.

use init_boot::ToInit;
use machined_controllers::services::{STOP_GRACE, ServiceState, ServiceStatus, Stopping};
use machined_host::InitSocket;
use machined_runtime::{Reader, Writer};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longer than a service may take, so that the limit of one service decides.
const SERVICES_TIMEOUT: Duration = STOP_GRACE.saturating_add(Duration::from_secs(5));
/// So that the answer of the call reaches the person before the network goes.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// How the machine should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Start again.
    Reboot,
    /// Switch off.
    Shutdown,
    /// Only machined ends; PID 1 starts it again, and all services run on.
    Again,
}

/// Asks for the end of the machine. Clones ask the same task.
#[derive(Clone)]
pub(crate) struct Power(Arc<watch::Sender<Option<End>>>);

impl Power {
    /// A handle that nobody used yet.
    pub(crate) fn new() -> Self {
        Power(Arc::new(watch::Sender::new(None)))
    }

    /// Asks. The first wish counts: a reboot that began does not become a shutdown half way.
    pub(crate) fn ask(&self, end: End) {
        self.0.send_if_modified(|wish| {
            let first = wish.is_none();
            if first {
                *wish = Some(end);
            }
            first
        });
    }

    /// The wish, if there is one.
    #[cfg(test)]
    pub(crate) fn wanted(&self) -> Option<End> {
        *self.0.borrow()
    }

    /// Waits for a wish.
    pub(crate) async fn asked(&self) -> End {
        let mut wish = self.0.subscribe();
        let found = wish.wait_for(Option::is_some).await.map(|wish| *wish);
        found.ok().flatten().expect("because this handle keeps the sender, and the wait was for a wish")
    }
}

/// Waits for a wish. Stops all services and asks PID 1, and then waits for its signal; returns when only machined is to end.
pub(crate) async fn serve(
    power: Power,
    stopping: Writer<Stopping>,
    mut services: Reader<ServiceStatus>,
    init: Option<Arc<InitSocket>>,
) {
    let end = power.asked().await;
    tracing::info!(?end, "the machine stops");
    tokio::time::sleep(ANSWER_TIME).await;
    let message = match end {
        End::Reboot => ToInit::Reboot,
        End::Shutdown => ToInit::Poweroff,
        End::Again => return,
    };
    stopping.put(Stopping::ID, Stopping);
    let all_finished = services.wait_for(|set| {
        set.values().all(|service| matches!(service.state, ServiceState::Finished | ServiceState::Waiting))
    });
    if tokio::time::timeout(SERVICES_TIMEOUT, all_finished).await.is_err() {
        tracing::warn!("services did not stop in time; PID 1 ends them");
    }
    match init.map(|init| init.send(message)) {
        Some(Ok(())) => tracing::info!("PID 1 was asked"),
        Some(Err(error)) => tracing::error!(%error, "PID 1 does not hear; the machine stays up without services"),
        None => tracing::warn!("there is no PID 1 to ask"),
    }
    std::future::pending().await
}
