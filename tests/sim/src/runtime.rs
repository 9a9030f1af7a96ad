//! The simulated computer room: openraft's deterministic runtime, and processes in it that are killed or paused at any await.
//!
//! Everything runs on one thread in an order that the seed decides. A task belongs to the process that spawned it; every poll asks
//! first whether that process still lives. The harness itself belongs to no process and cannot be killed.

use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::{Elapsed, SimInstant, SimJoinHandle, SimRuntime, SimSleep, SimTimeout, SimWatch};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Microseconds that work on a healthy disk takes: an NVMe disk's sync.
const DISK_MICROS: Range<u64> = 20..400;

thread_local! {
    /// The process whose task is being polled.
    static HERE: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// The runtime on which simulated members run.
#[derive(Debug)]
pub(crate) struct Sim(SimRuntime);

impl Sim {
    /// A room in which everything that is left to chance comes from `seed`.
    #[must_use]
    pub(crate) fn with_seed(seed: u64) -> Self {
        Sim(SimRuntime::with_seed(seed))
    }
}

/// Something that runs, and can be killed or paused.
#[derive(Clone)]
pub(crate) struct Process(Arc<Mutex<Body>>);

struct Body {
    life: Life,
    /// How long a piece of blocking work takes, in microseconds.
    disk_micros: Range<u64>,
    tasks: BTreeMap<u64, Waker>,
    next_task: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Paused,
    Killed,
}

impl Process {
    /// A process without tasks.
    #[must_use]
    pub(crate) fn start() -> Self {
        let body = Body { life: Life::Running, disk_micros: DISK_MICROS, tasks: BTreeMap::new(), next_task: 0 };
        Process(Arc::new(Mutex::new(body)))
    }

    fn body(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it as SIGKILL does: no task of it runs again.
    pub(crate) fn kill(&self) {
        self.turn(Life::Killed);
    }

    /// Stops it as SIGSTOP does, until [`Process::resume`]. Time goes on without it.
    pub(crate) fn pause(&self) {
        if self.alive() {
            self.turn(Life::Paused);
        }
    }

    /// Goes on after [`Process::pause`].
    pub(crate) fn resume(&self) {
        if self.alive() {
            self.turn(Life::Running);
        }
    }

    fn turn(&self, life: Life) {
        let wake: Vec<Waker> = {
            let mut body = self.body();
            body.life = life;
            body.tasks.values().cloned().collect()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// Whether it was not killed.
    #[must_use]
    pub(crate) fn alive(&self) -> bool {
        self.body().life != Life::Killed
    }

    /// Sets how long each piece of work on the disk takes from now on, in microseconds; `None` is a healthy disk.
    pub(crate) fn set_disk_micros(&self, micros: Option<Range<u64>>) {
        self.body().disk_micros = micros.unwrap_or(DISK_MICROS);
    }

    /// Runs a task in this process; its handle gives [`Gone`] when the process is killed first.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T> + Send + 'static) -> Handle<T>
    where
        T: Send + 'static,
    {
        Handle(SimRuntime::spawn(Gate::new(Some(self.clone()), future)))
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({:?})", self.body().life)
    }
}

/// Lets a task run while its process does.
struct Gate<F> {
    process: Option<Process>,
    number: Option<u64>,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Gate<F> {
    fn new(process: Option<Process>, future: F) -> Self {
        Gate { process, number: None, future: Some(Box::pin(future)) }
    }

    /// Asks the process, and leaves a waker with it.
    fn life(&mut self, context: &Context<'_>) -> Life {
        let Some(process) = &self.process else { return Life::Running };
        let mut body = process.body();
        let number = *self.number.get_or_insert_with(|| {
            body.next_task += 1;
            body.next_task
        });
        body.tasks.insert(number, context.waker().clone());
        body.life
    }

    fn leave(&self) {
        if let (Some(process), Some(number)) = (&self.process, self.number) {
            process.body().tasks.remove(&number);
        }
    }
}

impl<F: Future> Future for Gate<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let life = self.life(context);
        let _here = Here::enter(self.process.clone());
        let polled = match (life, &mut self.future) {
            (Life::Paused, _) => return Poll::Pending,
            (Life::Running, Some(future)) => future.as_mut().poll(context).map(Some),
            (Life::Killed, _) | (Life::Running, None) => Poll::Ready(None),
        };
        if polled.is_ready() {
            self.leave();
            self.future = None;
        }
        polled
    }
}

/// Says which process is being polled, as long as it lives.
struct Here(Option<Process>);

impl Here {
    fn enter(process: Option<Process>) -> Self {
        Here(HERE.with(|here| here.replace(process)))
    }

    fn current() -> Option<Process> {
        HERE.with(|here| here.borrow().clone())
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let before = self.0.take();
        drop(HERE.with(|here| here.replace(before)));
    }
}

/// A task's handle.
pub(crate) struct Handle<T>(SimJoinHandle<Option<T>>);

/// The task did not end by itself.
#[derive(Debug)]
pub(crate) enum Gone {
    /// Its process was killed.
    Killed,
    /// It panicked.
    Panicked(String),
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gone::Killed => f.write_str("its process was killed"),
            Gone::Panicked(what) => write!(f, "it panicked: {what}"),
        }
    }
}

impl<T> Future for Handle<T> {
    type Output = Result<T, Gone>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|ended| match ended {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Gone::Killed),
            Err(error) => Err(Gone::Panicked(error.to_string())),
        })
    }
}

impl AsyncRuntime for Sim {
    type JoinError = Gone;
    type JoinHandle<T: Send + 'static> = Handle<T>;
    type Sleep = SimSleep;
    type Instant = SimInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = SimTimeout<T>;
    type ThreadLocalRng = SmallRng;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        Handle(SimRuntime::spawn(Gate::new(Here::current(), future)))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        SimRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        SimRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        SimRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        SimRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        matches!(error, Gone::Panicked(_))
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = SimWatch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    fn new(threads: usize) -> Self {
        Sim(SimRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }

    /// Takes as long as the process's disk does, half before the work and half after: a process can be killed in between, when
    /// the work is done and nobody was told.
    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let micros = Here::current().map_or(DISK_MICROS, |process| process.body().disk_micros.clone());
        let half = Duration::from_micros(Sim::thread_rng().random_range(micros) / 2);
        Sim::sleep(half).await;
        let value = work();
        Sim::sleep(half).await;
        Ok(value)
    }
}
