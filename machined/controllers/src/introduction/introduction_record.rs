//! Keeps the introduction: reads it from the state volume, takes the seed's or a person's when there is none.

use super::{Introduced, Introduction, IntroductionForm, Seed, StoredIntroduction};
use crate::block::{STATE, Volume};
use crate::files::{FileError, FilesHost, Lasting};
use machined_ids::ClusterId;
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Inbox, Ports, Reader, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest stored introduction in bytes: the file, the addresses, and what JSON adds to them.
const STORED_BYTES_MAX: usize = 128 * 1024;

/// Somebody introduces the machine to a cluster.
#[derive(Debug, Clone)]
pub struct IntroduceRequest {
    /// The introduction file.
    pub json: Vec<u8>,
    /// Addresses of the repository, tried in order.
    pub repositories: Vec<String>,
}

/// Why an introduction was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntroduceError {
    /// The state volume is not there yet.
    #[error("the machine's state volume is not ready yet; try again in a moment")]
    NotReady,
    /// There is one already.
    #[error("the machine was introduced to cluster {cluster} already; to move it, install it again")]
    Conflict {
        /// The cluster it belongs to.
        cluster: ClusterId,
    },
    /// It is none.
    #[error("the introduction is refused: {0}")]
    Form(#[from] IntroductionForm),
    /// It could not be kept.
    #[error("the introduction could not be written; it does not count")]
    Write(#[source] FileError),
}

/// Why the recorded introduction cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file failed.
    #[error("the recorded introduction cannot be read")]
    File(#[source] FileError),
    /// The file is damaged.
    #[error("the recorded introduction {path} is damaged; restore the volume or install the machine again")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its content is no introduction.
    #[error("the recorded introduction is refused")]
    Form(#[source] IntroductionForm),
    /// The seed's introduction was not taken.
    #[error("the seed's introduction is not taken")]
    Seed(#[source] IntroduceError),
}

/// Writes [`Introduced`].
pub struct IntroductionController<H> {
    host: Arc<H>,
    volumes: Reader<Volume>,
    seeds: Reader<Seed>,
    introduced: Writer<Introduced>,
    inbox: Inbox<IntroduceRequest, Result<ClusterId, IntroduceError>>,
}

/// Where people's introductions go in.
pub type IntroduceInbox = Inbox<IntroduceRequest, Result<ClusterId, IntroduceError>>;

impl<H: FilesHost> IntroductionController<H> {
    /// Declares inputs and output at `ports`; gives the inbox for introductions too.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> (Self, IntroduceInbox) {
        let inbox = Inbox::new(ports.trigger());
        let controller = IntroductionController {
            host,
            volumes: ports.input(),
            seeds: ports.input(),
            introduced: ports.output(),
            inbox: inbox.clone(),
        };
        (controller, inbox)
    }

    fn path() -> PathBuf {
        Path::new(STATE).join("machined/introduction.json")
    }

    async fn load(&self) -> Result<Introduced, RecordError> {
        let path = Self::path();
        let Some(bytes) = self.host.read(&path, STORED_BYTES_MAX).await.map_err(RecordError::File)? else {
            return Ok(Introduced::Not);
        };
        let stored: StoredIntroduction =
            serde_json::from_slice(&bytes).map_err(|source| RecordError::Json { path, source })?;
        let introduction = Introduction::parse(stored.introduction.as_bytes(), stored.repositories);
        introduction.map(Introduced::As).map_err(RecordError::Form)
    }

    async fn take(&self, request: IntroduceRequest) -> Result<ClusterId, IntroduceError> {
        match self.introduced.current().get(Introduced::ID) {
            None => return Err(IntroduceError::NotReady),
            Some(Introduced::As(known)) => return Err(IntroduceError::Conflict { cluster: known.cluster }),
            Some(Introduced::Not) => {}
        }
        let introduction = Introduction::parse(&request.json, request.repositories)?;
        let stored = StoredIntroduction {
            introduction: introduction.json.clone(),
            repositories: introduction.repositories.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&stored).expect("because strings always serialise");
        // Written before it counts: after a power cut the machine is introduced or not, and never half.
        self.host.replace(&Self::path(), &bytes, Lasting::Durable).await.map_err(IntroduceError::Write)?;
        let cluster = introduction.cluster;
        tracing::info!(%cluster, repositories = ?introduction.repositories, "the machine is introduced");
        self.introduced.put(Introduced::ID, Introduced::As(introduction));
        Ok(cluster)
    }

    async fn begin(&self) -> Result<(), RecordError> {
        let (Some(_), Some(seed)) = (self.volumes.all().get(STATE), self.seeds.get(Seed::ID)) else { return Ok(()) };
        let loaded = self.load().await?;
        self.introduced.put(Introduced::ID, loaded.clone());
        if let (Introduced::Not, Some(json)) = (loaded, seed.introduction) {
            let request = IntroduceRequest { json: json.into_bytes(), repositories: seed.repositories };
            self.take(request).await.map_err(RecordError::Seed)?;
        }
        Ok(())
    }
}

impl<H: FilesHost> Controller for IntroductionController<H> {
    type Error = RecordError;

    async fn reconcile(&mut self) -> Result<Outcome, RecordError> {
        let begun = if self.introduced.current().is_empty() { self.begin().await } else { Ok(()) };
        while let Some((request, answer)) = self.inbox.take() {
            // A caller that went away has its introduction recorded all the same.
            let _caller_gone = answer.send(self.take(request).await);
        }
        begun.map(|()| Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::files::fake::FakeFiles;
    use machined_runtime::Store;

    struct Machine {
        controller: IntroductionController<FakeFiles>,
        inbox: IntroduceInbox,
        store: Store,
        volumes: Writer<Volume>,
    }

    fn machine(files: &Arc<FakeFiles>, seed: Seed) -> Machine {
        let store = Store::new();
        let mut ports = Ports::new(&store, "introduction");
        let (controller, inbox) = IntroductionController::new(&mut ports, Arc::clone(files));
        store.writer::<Seed>().expect("because nobody else writes it").put(Seed::ID, seed);
        let volumes = store.writer::<Volume>().expect("because nobody else writes it");
        Machine { controller, inbox, store, volumes }
    }

    impl Machine {
        fn mount(&self) {
            self.volumes.put(STATE, Volume { device: PathBuf::new(), formatted: true });
        }
        async fn introduce(&mut self) -> Result<ClusterId, IntroduceError> {
            let repositories = vec!["http://git.example/a.git".to_owned()];
            let request = IntroduceRequest { json: example().into_bytes(), repositories };
            let inbox = self.inbox.clone();
            let (answer, outcome) = tokio::join!(biased; inbox.ask(request), self.controller.reconcile());
            outcome.expect("because nothing is damaged");
            answer.expect("because the controller answers")
        }
        fn introduced(&self) -> Option<Introduced> {
            self.store.reader().get(Introduced::ID)
        }
    }

    #[tokio::test]
    async fn one_introduction_is_taken_and_a_second_refused() {
        let files = Arc::new(FakeFiles::default());
        let mut machine = machine(&files, Seed::default());
        assert!(matches!(machine.introduce().await, Err(IntroduceError::NotReady)));
        machine.mount();
        assert!(machine.introduce().await.is_ok());
        assert!(matches!(machine.introduce().await, Err(IntroduceError::Conflict { .. })));
        assert_eq!(files.lasting("/state/machined/introduction.json"), Some(Lasting::Durable));
    }

    #[tokio::test]
    async fn the_introduction_is_there_after_a_reboot_and_the_seed_does_not_change_it() {
        let files = Arc::new(FakeFiles::default());
        let mut first = machine(&files, Seed::default());
        first.mount();
        first.introduce().await.expect("because it is the first");
        let other = example().replace("0011", "ffff");
        let seed = Seed { introduction: Some(other), repositories: vec!["http://evil".to_owned()], ..Seed::default() };
        let mut second = machine(&files, seed);
        second.mount();
        second.controller.reconcile().await.expect("because nothing is damaged");
        assert_eq!(second.introduced(), first.introduced());
        assert!(second.introduced().is_some());
    }

    #[tokio::test]
    async fn a_seed_introduces_a_new_machine() {
        let files = Arc::new(FakeFiles::default());
        let repositories = vec!["http://git.example/a.git".to_owned()];
        let seed = Seed { introduction: Some(example()), repositories, ..Seed::default() };
        let mut machine = machine(&files, seed);
        machine.mount();
        machine.controller.reconcile().await.expect("because the seed is good");
        assert!(matches!(machine.introduced(), Some(Introduced::As(_))));
    }

    #[tokio::test]
    async fn a_damaged_record_does_not_open_maintenance() {
        let files = Arc::new(FakeFiles::default());
        files.put("/state/machined/introduction.json", "{\"introduction\":");
        let mut machine = machine(&files, Seed::default());
        machine.mount();
        assert!(matches!(machine.controller.reconcile().await, Err(RecordError::Json { .. })));
        assert_eq!(machine.introduced(), None);
    }
}
