//! Asks the control plane on this machine whether the machine may go, and keeps a wish to go until it may.
//!
//! ```text
//! Reboot, Shutdown, Reset --> Leaving (one wish) --every few seconds--> Permits --granted--> Power
//! ```
//!
//! A reset is written down on META when it is permitted, and happens at the start that follows. While an upgrade asks for its own
//! restart, or an image is tried, a wish waits: two wishes of one machine would take each other's turn for ever.
//!
//! Task: `leaving`. Whoever asked may go away: the wish is kept until it is granted, replaced, or machined ends.

use crate::event_book::EventBook;
use crate::power::{End, Power};
use hyper_util::rt::TokioIo;
use machined_api::permits_client::PermitsClient;
use machined_api::{AskReply, AskRequest, PERMITS_SOCKET};
use machined_controllers::reset::ResetOrder;
use machined_controllers::upgrade::{AloneOr, Disruption, PermitRefused, Permits, UpgradeStatus};
use machined_reconcile::Stop;
use machined_runtime::Reader;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::Endpoint;

/// How long an answer may take; the control plane reads and writes one object for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a wish is asked for again.
const ASK_PERIOD: Duration = Duration::from_secs(5);

/// The control plane's socket.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    socket: PathBuf,
}

impl Default for ControlPlane {
    fn default() -> Self {
        ControlPlane { socket: PathBuf::from(PERMITS_SOCKET) }
    }
}

impl ControlPlane {
    /// Another socket, for tests.
    #[cfg(test)]
    pub(crate) fn at(socket: &std::path::Path) -> Self {
        ControlPlane { socket: socket.to_owned() }
    }

    async fn ask(&self, what: Disruption) -> Result<AskReply, String> {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The authority is not looked at on a Unix socket, but HTTP/2 wants one.
        let channel = Endpoint::from_static("http://permits.local").connect_with_connector(connector).await;
        let channel = channel.map_err(|error| machined_reconcile::story(&error))?;
        let image = what.image().map(|image| image.to_string()).unwrap_or_default();
        let request = AskRequest { reason: what.as_str().to_owned(), image };
        let asked = PermitsClient::new(channel).ask(request).await;
        asked.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }
}

impl Permits for ControlPlane {
    async fn permit(&self, what: Disruption) -> Result<(), PermitRefused> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.ask(what)).await {
            Ok(Ok(AskReply { granted: true, .. })) => Ok(()),
            Ok(Ok(AskReply { message, .. })) => Err(PermitRefused::Waiting(message)),
            Ok(Err(why)) => Err(PermitRefused::NoAnswer(why)),
            Err(_elapsed) => Err(PermitRefused::NoAnswer(format!("in {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }
}

/// How the machine goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Going {
    /// It ends.
    End(End),
    /// It restarts, and forgets everything.
    Reset(ResetOrder),
}

/// Writes down durably that the machine is to forget everything; the error is for people.
pub(crate) type Resets =
    Arc<dyn Fn(ResetOrder) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// A wish to leave, kept until it is permitted. Clones keep the same.
#[derive(Clone)]
pub(crate) struct Leaving {
    permits: AloneOr<ControlPlane>,
    power: Power,
    events: EventBook,
    resets: Resets,
    upgrade: Reader<UpgradeStatus>,
    wish: Arc<watch::Sender<Option<Going>>>,
}

fn disruption(going: &Going) -> Disruption {
    match going {
        Going::End(End::Shutdown) => Disruption::Shutdown,
        Going::End(End::Reboot | End::Again) => Disruption::Reboot,
        Going::Reset(_) => Disruption::Reset,
    }
}

impl Leaving {
    /// Nobody wants to leave yet.
    pub(crate) fn new(
        permits: AloneOr<ControlPlane>,
        power: Power,
        events: EventBook,
        resets: Resets,
        upgrade: Reader<UpgradeStatus>,
    ) -> Self {
        Leaving { permits, power, events, resets, upgrade, wish: Arc::new(watch::Sender::new(None)) }
    }

    /// Asks whether the machine may go; the error says what it waits for.
    async fn permit(&self, going: &Going) -> Result<(), String> {
        if let Some(upgrade) = self.upgrade.get(UpgradeStatus::ID).filter(UpgradeStatus::goes_first) {
            return Err(format!("an upgrade goes first (it is {}: {})", upgrade.phase, upgrade.message));
        }
        self.permits.permit(disruption(going)).await.map_err(|refused| refused.to_string())
    }

    /// Goes, at once when it may, else as soon as it may. Returns what it waits for; empty when it goes now.
    ///
    /// # Errors
    /// When it may and a reset cannot be written down; for people.
    pub(crate) async fn ask(&self, going: Going) -> Result<String, String> {
        match self.permit(&going).await {
            Ok(()) => self.go(going).await.map(|()| String::new()),
            Err(refused) => {
                self.events.add("WaitingForPermit", "machine", refused.clone());
                self.wish.send_replace(Some(going));
                Ok(refused)
            }
        }
    }

    /// Goes without asking anybody.
    ///
    /// # Errors
    /// When a reset cannot be written down; for people.
    pub(crate) async fn go(&self, going: Going) -> Result<(), String> {
        match going {
            Going::End(end) => self.power.ask(end),
            Going::Reset(order) => {
                (self.resets)(order).await?;
                self.power.ask(End::Reboot);
            }
        }
        Ok(())
    }

    /// Asks for as long as there is a wish.
    pub(crate) async fn keep_asking(self, mut stop: Stop) -> Result<(), Infallible> {
        let mut wish = self.wish.subscribe();
        let mut said = String::new();
        loop {
            let wanted = tokio::select! {
                found = wish.wait_for(Option::is_some) => found.ok().and_then(|found| found.clone()),
                () = stop.requested() => return Ok(()),
            };
            let Some(going) = wanted else { return Ok(()) };
            match self.permit(&going).await {
                Ok(()) => {
                    self.events.add("PermitGranted", "machine", "drained; the machine goes now");
                    self.wish.send_replace(None);
                    if let Err(why) = self.go(going).await {
                        self.events.add("ResetFailed", "machine", why);
                    }
                }
                Err(refused) => {
                    if refused != said {
                        self.events.add("WaitingForPermit", "machine", refused.clone());
                        said = refused;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(ASK_PERIOD) => {}
                        () = stop.requested() => return Ok(()),
                    }
                }
            }
        }
    }
}
