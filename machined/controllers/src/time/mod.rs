//! The clock: asks time servers, steps once at start, adjusts gently afterwards.
//!
//! The machine's document names the servers; without any the clock is left to the hardware.

use machined_reconcile::{Backoff, Outcome};
use machined_runtime::{Controller, Ports, Resource, Writer};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Between questions while the clock is in step; NTP's own default poll grows from 64 s to 1024 s.
const POLL: Duration = Duration::from_secs(512);
/// While no server answers.
const NO_ANSWER: Backoff = Backoff { base: Duration::from_secs(1), limit: Duration::from_secs(64) };
/// An offset beyond this is stepped; NTP's step threshold is 128 ms.
const STEP_OVER: Duration = Duration::from_millis(128);

/// Signed difference between a server's clock and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offset {
    /// Our clock is slow by this much.
    Behind(Duration),
    /// Our clock is fast by this much.
    Ahead(Duration),
}

impl Offset {
    /// How large it is, either way.
    #[must_use]
    pub const fn size(self) -> Duration {
        match self {
            Offset::Behind(size) | Offset::Ahead(size) => size,
        }
    }
}

/// Why the clock could not be read from a server or set.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct TimeError {
    /// What was being done: "ask 10.0.0.1 for the time".
    pub doing: String,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// Time servers and the machine's clock.
pub trait TimeHost: Send + Sync + 'static {
    /// Asks one server. Returns within a few seconds.
    fn ask(&self, server: &str) -> impl Future<Output = Result<Offset, TimeError>> + Send;
    /// Sets the clock at once.
    fn step(&self, offset: Offset) -> Result<(), TimeError>;
    /// Lets the clock drift towards the right time.
    fn slew(&self, offset: Offset) -> Result<(), TimeError>;
}

/// What is known of the clock; the id is [`TimeStatus::ID`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimeStatus {
    /// The server that answered last.
    pub server: Option<String>,
    /// Whether the clock follows a server.
    pub synchronised: bool,
}

impl TimeStatus {
    /// The id of the one status.
    pub const ID: &'static str = "time";
}

impl Resource for TimeStatus {
    const KIND: &'static str = "time status";
}

/// Gives the servers as they are now; the inputs behind it were declared at the same [`Ports`].
pub type Servers = Box<dyn Fn() -> Vec<String> + Send>;

/// Writes [`TimeStatus`].
pub struct TimeController<H> {
    host: Arc<H>,
    servers: Servers,
    status: Writer<TimeStatus>,
    failures: u32,
    stepped: bool,
}

impl<H: TimeHost> TimeController<H> {
    /// Declares its output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>, servers: Servers) -> Self {
        TimeController { host, servers, status: ports.output(), failures: 0, stepped: false }
    }

    fn correct(&mut self, offset: Offset) -> Result<(), TimeError> {
        if offset.size() > STEP_OVER && !self.stepped {
            tracing::info!(?offset, "the clock is stepped");
            self.host.step(offset)?;
        } else {
            self.host.slew(offset)?;
        }
        // From now on programs rely on a clock that does not jump.
        self.stepped = true;
        Ok(())
    }
}

impl<H: TimeHost> Controller for TimeController<H> {
    type Error = TimeError;

    const PERIOD: Duration = POLL;

    async fn reconcile(&mut self) -> Result<Outcome, TimeError> {
        let servers = (self.servers)();
        for server in &servers {
            match self.host.ask(server).await {
                Ok(offset) => {
                    self.correct(offset)?;
                    self.failures = 0;
                    self.status.put(TimeStatus::ID, TimeStatus { server: Some(server.clone()), synchronised: true });
                    return Ok(Outcome::Done);
                }
                Err(error) => {
                    tracing::debug!(server, error = %error, cause = %error.source, "the time server did not answer");
                }
            }
        }
        self.status.put(TimeStatus::ID, TimeStatus::default());
        if servers.is_empty() {
            return Ok(Outcome::Done);
        }
        self.failures += 1;
        tracing::warn!(attempt = self.failures, "no time server answers");
        Ok(Outcome::Again(NO_ANSWER.delay(self.failures)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_runtime::Store;
    use std::sync::Mutex;

    /// One good server called "good"; what was done to the clock.
    #[derive(Default)]
    struct FakeClock(Mutex<Vec<String>>);
    impl FakeClock {
        fn note(&self, what: &str) -> Result<(), TimeError> {
            self.0.lock().expect("because no test panics with it").push(what.to_owned());
            Ok(())
        }
    }
    impl TimeHost for FakeClock {
        async fn ask(&self, server: &str) -> Result<Offset, TimeError> {
            match server {
                "good" => Ok(Offset::Behind(Duration::from_secs(5))),
                _ => Err(TimeError { doing: "ask".to_owned(), source: std::io::ErrorKind::TimedOut.into() }),
            }
        }
        fn step(&self, _: Offset) -> Result<(), TimeError> {
            self.note("step")
        }
        fn slew(&self, _: Offset) -> Result<(), TimeError> {
            self.note("slew")
        }
    }

    #[tokio::test]
    async fn the_clock_is_stepped_once_and_slewed_afterwards() {
        let (store, host) = (Store::new(), Arc::new(FakeClock::default()));
        let servers = || vec!["dead".to_owned(), "good".to_owned()];
        let mut controller = TimeController::new(&mut Ports::new(&store, "time"), Arc::clone(&host), Box::new(servers));
        for _ in 0..2 {
            assert_eq!(controller.reconcile().await.expect("because a server answers"), Outcome::Done);
        }
        assert_eq!(*host.0.lock().expect("because no test panics with it"), ["step", "slew"]);
        let status = store.reader::<TimeStatus>().get(TimeStatus::ID).expect("because a server answered");
        assert_eq!(status, TimeStatus { server: Some("good".to_owned()), synchronised: true });
    }

    #[tokio::test]
    async fn silent_servers_are_asked_again_soon() {
        let (store, host) = (Store::new(), Arc::new(FakeClock::default()));
        let servers = || vec!["dead".to_owned()];
        let mut controller = TimeController::new(&mut Ports::new(&store, "time"), host, Box::new(servers));
        let outcome = controller.reconcile().await.expect("because silence is not a failure of ours");
        assert_eq!(outcome, Outcome::Again(Duration::from_secs(1)));
    }
}
