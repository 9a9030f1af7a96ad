//! The raft log and vote on redb, in `log.redb`. One synced commit holds whatever waits while the one before is being synced.
//!
//! ```text
//! append, vote, truncate, purge -> bounded queue -> writer task: take all that waits -> one synced commit -> tell each
//!                \-> tail in memory: entries can be read at once, before and long after they are on disk
//! ```
//! The writer task lives from [`LogStore::open`] to [`LogStore::close`]; it commits where the runtime lets work block.

use crate::files::Files;
use crate::types::{Command, Entry, LogId, Types, Vote, decode, encode};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftLogReader};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};

const ENTRIES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("entries");
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
const VOTE: &str = "vote";
const PURGED: &str = "purged";

/// Bytes of pages that redb keeps in memory for the log; it is written once and mostly read from the tail in memory.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Entries kept in memory once they are on disk: what followers close behind and the state machine still want.
const TAIL_LIMIT: usize = 256;

/// Bytes of entries that one message to a follower carries, but for a single entry that is larger.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// Requests that wait for the writer; more wait in their senders.
const QUEUE_LIMIT: usize = 256;

/// Requests that share a synced commit; bounds how long the first of them waits.
const GROUP_LIMIT: usize = 256;

/// The log's handle. Clones share it.
pub(crate) struct LogStore<R: AsyncRuntime> {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Job<R>>,
    writer: Arc<Mutex<Option<R::JoinHandle<()>>>>,
}

struct Shared {
    database: Database,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The newest entries, all that are not on disk yet among them; no gap to those on disk.
    tail: BTreeMap<u64, Entry>,
    /// The last entry that is on disk.
    synced: Option<u64>,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

enum Change {
    Append(Vec<(u64, Vec<u8>)>),
    Vote(Vec<u8>),
    /// Removes this entry and all later ones.
    Truncate(u64),
    /// Removes entries up to this one, and remembers its id.
    Purge(u64, Vec<u8>),
    /// Nothing on disk; the writer ends.
    Stop,
}

struct Job<R: AsyncRuntime> {
    change: Change,
    done: Done<R>,
}

enum Done<R: AsyncRuntime> {
    Flushed(IOFlushed<Types<R>>),
    Told(oneshot::Sender<io::Result<()>>),
}

impl<R: AsyncRuntime> Clone for LogStore<R> {
    fn clone(&self) -> Self {
        LogStore { shared: Arc::clone(&self.shared), queue: self.queue.clone(), writer: Arc::clone(&self.writer) }
    }
}

impl<R: AsyncRuntime> LogStore<R> {
    /// Opens or makes the file, and starts the writer.
    pub(crate) fn open(files: &dyn Files) -> io::Result<Self> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = files.open("log.redb", &builder).map_err(io::Error::other)?;
        let state = load(&database)?;
        let shared = Arc::new(Shared { database, state: Mutex::new(state) });
        let (queue, jobs) = mpsc::channel(QUEUE_LIMIT);
        let writer = R::spawn(write::<R>(Arc::clone(&shared), jobs));
        Ok(LogStore { shared, queue, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    async fn change(&self, change: Change) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        self.send(Job { change, done: Done::Told(tell) }).await?;
        told.await.map_err(|_| stopped())?
    }

    async fn send(&self, job: Job<R>) -> io::Result<()> {
        self.queue.send(job).await.map_err(|_| stopped())
    }

    /// Ends the writer after everything that was queued before, and waits for it. Later writes fail.
    pub(crate) async fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // When the queue is closed already there is nothing left to stop.
        let _stopping_or_stopped = self.change(Change::Stop).await;
        if let Some(writer) = writer {
            // A panic there was a failed assertion; every write since then was answered with an error.
            let _ended_or_panicked = writer.await;
        }
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log's writer has stopped")
}

fn load(database: &Database) -> io::Result<State> {
    let transaction = database.begin_write().map_err(io::Error::other)?;
    let mut state = State::default();
    {
        let meta = transaction.open_table(META).map_err(io::Error::other)?;
        if let Some(bytes) = meta.get(VOTE).map_err(io::Error::other)? {
            state.vote = Some(decode(bytes.value())?);
        }
        if let Some(bytes) = meta.get(PURGED).map_err(io::Error::other)? {
            state.purged = Some(decode(bytes.value())?);
        }
        let entries = transaction.open_table(ENTRIES).map_err(io::Error::other)?;
        if let Some((index, bytes)) = entries.last().map_err(io::Error::other)? {
            let entry: Entry = decode(bytes.value())?;
            state.synced = Some(index.value());
            state.last = Some(entry.log_id());
        }
    }
    transaction.commit().map_err(io::Error::other)?;
    Ok(state)
}

/// Commits what is queued, group by group. Ends when it is told to, or when nobody has a handle any more.
async fn write<R: AsyncRuntime>(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job<R>>) {
    let mut group = Vec::new();
    while jobs.recv_many(&mut group, GROUP_LIMIT).await > 0 {
        let (changes, waiting): (Vec<Change>, Vec<Done<R>>) = group.drain(..).map(|job| (job.change, job.done)).unzip();
        let stop = changes.iter().any(|change| matches!(change, Change::Stop));
        let file = Arc::clone(&shared);
        let committing = R::spawn_blocking(move || {
            file.commit(&changes).map_err(|error| format!("cannot write the log: {error}"))?;
            file.settle(&changes);
            Ok::<(), String>(())
        });
        let outcome = committing.await.unwrap_or_else(|error| Err(format!("the log's writer was stopped: {error}")));
        for done in waiting {
            done.tell(&outcome);
        }
        if stop {
            return;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, group: &[Change]) -> Result<(), redb::Error> {
        // redb's default durability: the commit returns when the data is on the disk.
        let transaction = self.database.begin_write()?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut meta = transaction.open_table(META)?;
            for change in group {
                match change {
                    Change::Append(new) => {
                        for (index, bytes) in new {
                            entries.insert(index, &bytes[..])?;
                        }
                    }
                    Change::Vote(bytes) => drop(meta.insert(VOTE, &bytes[..])?),
                    Change::Truncate(from) => entries.retain_in(*from.., |_, _| false)?,
                    Change::Purge(upto, bytes) => {
                        entries.retain_in(..=*upto, |_, _| false)?;
                        meta.insert(PURGED, &bytes[..])?;
                    }
                    Change::Stop => {}
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Lets go of entries in memory that are on disk now and not among the newest.
    fn settle(&self, group: &[Change]) {
        let mut state = self.state();
        for change in group {
            match change {
                Change::Append(new) => state.synced = new.last().map(|(index, _)| *index).or(state.synced),
                Change::Truncate(from) => {
                    state.synced = state.synced.and_then(|synced| synced.min(*from).checked_sub(1));
                }
                Change::Vote(_) | Change::Purge(..) | Change::Stop => {}
            }
        }
        while state.tail.len() > TAIL_LIMIT {
            match state.tail.first_key_value() {
                Some((index, _)) if state.synced >= Some(*index) => drop(state.tail.pop_first()),
                _ => break,
            }
        }
    }

    /// Entries of `start..end`, as far as there are any; no more than make up `bytes` when they are written down, but at least one.
    fn entries(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let from_tail: Vec<Entry> = {
            let state = self.state();
            if start >= end {
                Vec::new()
            } else {
                state.tail.range(start..end).map(|(_, entry)| entry.clone()).collect()
            }
        };
        let end_on_disk = from_tail.first().map_or(end, RaftEntry::index);
        let (mut found, mut left) = (Vec::new(), bytes);
        let mut fits = |size: usize| {
            let first = left == bytes;
            left = left.saturating_sub(size.max(1));
            first || left > 0
        };
        if start < end_on_disk {
            let transaction = self.database.begin_read().map_err(io::Error::other)?;
            let entries = transaction.open_table(ENTRIES).map_err(io::Error::other)?;
            for row in entries.range(start..end_on_disk).map_err(io::Error::other)? {
                let (_, bytes) = row.map_err(io::Error::other)?;
                if !fits(bytes.value().len()) {
                    return Ok(found);
                }
                found.push(decode(bytes.value())?);
            }
        }
        found.extend(from_tail.into_iter().take_while(|entry| fits(size(entry))));
        Ok(found)
    }
}

/// About what an entry takes when it is written down; keys and values are nearly all of it.
fn size(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(Command::Txn(txn)) => txn.bytes(),
        EntryPayload::Normal(
            Command::Compact(_) | Command::Grant { .. } | Command::Renew(_) | Command::Revoke { .. },
        )
        | EntryPayload::Blank
        | EntryPayload::Membership(_) => 0,
    }
}

impl<R: AsyncRuntime> Done<R> {
    fn tell(self, outcome: &Result<(), String>) {
        let outcome = outcome.clone().map_err(io::Error::other);
        match self {
            Done::Flushed(callback) => callback.io_completed(outcome),
            Done::Told(sender) => {
                // Nobody waits any more when the caller was dropped; the write stands.
                let _nobody_waits = sender.send(outcome);
            }
        }
    }
}

impl<R: AsyncRuntime> RaftLogReader<Types<R>> for LogStore<R> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.shared.entries(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.shared.entries(start, end, MESSAGE_LIMIT)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state().vote)
    }
}

impl<R: AsyncRuntime> RaftLogStorage<Types<R>> for LogStore<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R>>, io::Error> {
        let state = self.shared.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last.or(state.purged) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.change(Change::Vote(encode(vote)?)).await?;
        self.shared.state().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        {
            let mut state = self.shared.state();
            for entry in entries {
                encoded.push((entry.index(), encode(&entry)?));
                state.last = Some(entry.log_id());
                state.tail.insert(entry.index(), entry);
            }
        }
        self.send(Job { change: Change::Append(encoded), done: Done::Flushed(callback) }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        {
            let mut state = self.shared.state();
            state.tail.retain(|index, _| *index < from);
            state.last = state.last.min(last_log_id);
        }
        self.change(Change::Truncate(from)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut state = self.shared.state();
            state.tail.retain(|index, _| *index > log_id.index);
            state.purged = Some(log_id);
            state.last = state.last.max(Some(log_id));
        }
        self.change(Change::Purge(log_id.index, encode(&log_id)?)).await
    }
}
