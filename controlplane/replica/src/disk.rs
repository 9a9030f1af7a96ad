//! The state machine's tables on redb, in `state.redb`, with how far the log is applied.
//!
//! Commits are not synced one by one: what a crash takes is applied again from the log, which is. A synced commit comes every
//! [`UNSYNCED_LIMIT`] entries and before each snapshot, because the log before a snapshot may go.

use crate::files::Files;
use crate::types::{LogId, Membership, decode, encode};
use bytes::Bytes;
use controlplane_store::{Batch, Disk, DiskError, Table, View, Visit};
use redb::{Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering};

type Bytewise = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// How far the log is applied.
const RAFT: Bytewise = TableDefinition::new("raft");
const APPLIED: &[u8] = b"applied";

/// Bytes of pages that redb keeps in memory for the state; a few thousand Kubernetes objects.
const CACHE_BYTES: usize = 24 * 1024 * 1024;

/// Entries that may be applied without a synced commit. They are applied again after a crash, in well under a second; until then
/// redb cannot reuse the pages that they freed.
const UNSYNCED_LIMIT: usize = 1000;

const fn definition(table: Table) -> Bytewise {
    TableDefinition::new(table.name())
}

/// How far the log is applied, and who the members were there.
pub(crate) type Applied = (Option<LogId>, Membership);

/// The state file. One writer at a time; readers see consistent views and wait for nobody.
pub(crate) struct StateDisk {
    database: Database,
    unsynced: AtomicUsize,
}

impl StateDisk {
    /// Opens or makes the file.
    pub(crate) fn open(files: &dyn Files) -> Result<Self, DiskError> {
        Self::open_as(files, "state.redb")
    }

    /// Opens or makes a file of this kind under another name.
    pub(crate) fn open_as(files: &dyn Files, name: &str) -> Result<Self, DiskError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = files.open(name, &builder).map_err(|error| failed("open", error))?;
        let disk = StateDisk { database, unsynced: AtomicUsize::new(0) };
        // Makes all tables, so that views find them, and checks the format.
        disk.commit(Durability::Immediate, |batch| controlplane_store::machine::prepare(batch))?;
        Ok(disk)
    }

    /// Runs `change` and commits it.
    pub(crate) fn commit<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut StateBatch<'_>) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let mut transaction = self.database.begin_write().map_err(|error| failed("begin a write to", error))?;
        transaction.set_durability(durability).map_err(|error| failed("begin a write to", error))?;
        let open = |definition| transaction.open_table(definition).map_err(|error| failed("open a table of", error));
        let mut batch = StateBatch {
            meta: open(definition(Table::Meta))?,
            live: open(definition(Table::Live))?,
            change: open(definition(Table::Change))?,
            past: open(definition(Table::Past))?,
            lease: open(definition(Table::Lease))?,
            leased: open(definition(Table::Leased))?,
            raft: open(RAFT)?,
        };
        let value = change(&mut batch)?;
        drop(batch);
        transaction.commit().map_err(|error| failed("commit to", error))?;
        if matches!(durability, Durability::Immediate) {
            self.unsynced.store(0, Ordering::Relaxed);
        }
        Ok(value)
    }

    /// Commits `entries` applied log entries, synced when it is time to.
    pub(crate) fn commit_applied<T>(
        &self,
        entries: usize,
        change: impl FnOnce(&mut StateBatch<'_>) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let unsynced = self.unsynced.fetch_add(entries, Ordering::Relaxed) + entries;
        let durability = if unsynced >= UNSYNCED_LIMIT { Durability::Immediate } else { Durability::None };
        self.commit(durability, change)
    }

    /// Makes everything that was committed survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        self.commit(Durability::Immediate, |_| Ok(()))
    }

    /// A consistent view that lives as long as it is needed; pages that it sees are not reused meanwhile.
    pub(crate) fn snapshot(&self) -> Result<StateView, DiskError> {
        let transaction = self.database.begin_read().map_err(|error| failed("read", error))?;
        StateView::new(&transaction)
    }
}

impl Disk for StateDisk {
    fn view(&self) -> Result<Box<dyn View + '_>, DiskError> {
        Ok(Box::new(self.snapshot()?))
    }

    fn update(&self, change: &mut dyn FnMut(&mut dyn Batch) -> Result<(), DiskError>) -> Result<(), DiskError> {
        self.commit(Durability::None, |batch| change(batch))
    }
}

/// Gets the key and the value of a row.
type Row<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), DiskError> + 'a;

type ReadTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// One consistent state of the file.
pub(crate) struct StateView {
    meta: ReadTable,
    live: ReadTable,
    change: ReadTable,
    past: ReadTable,
    lease: ReadTable,
    leased: ReadTable,
    raft: ReadTable,
}

impl StateView {
    fn new(transaction: &ReadTransaction) -> Result<Self, DiskError> {
        let open = |definition| transaction.open_table(definition).map_err(|error| failed("open a table of", error));
        Ok(StateView {
            meta: open(definition(Table::Meta))?,
            live: open(definition(Table::Live))?,
            change: open(definition(Table::Change))?,
            past: open(definition(Table::Past))?,
            lease: open(definition(Table::Lease))?,
            leased: open(definition(Table::Leased))?,
            raft: open(RAFT)?,
        })
    }

    fn table(&self, table: Table) -> &ReadTable {
        match table {
            Table::Meta => &self.meta,
            Table::Live => &self.live,
            Table::Change => &self.change,
            Table::Past => &self.past,
            Table::Lease => &self.lease,
            Table::Leased => &self.leased,
        }
    }

    /// How far the log is applied in this state.
    pub(crate) fn applied(&self) -> Result<Applied, DiskError> {
        match get(&self.raft, APPLIED)? {
            Some(bytes) => decode(&bytes).map_err(|error| failed("decode what is on", error)),
            None => Ok(Applied::default()),
        }
    }

    /// Visits every row of a table.
    pub(crate) fn rows(&self, table: Table, visit: &mut Row<'_>) -> Result<(), DiskError> {
        for row in self.table(table).iter().map_err(|error| failed("read", error))? {
            let (key, value) = row.map_err(|error| failed("read", error))?;
            visit(key.value(), value.value())?;
        }
        Ok(())
    }
}

impl View for StateView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        get(self.table(table), key)
    }

    fn scan(&self, table: Table, range: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), DiskError> {
        scan(self.table(table), range, visit)
    }
}

type WriteTable<'a> = redb::Table<'a, &'static [u8], &'static [u8]>;

/// Changes that take effect together.
pub(crate) struct StateBatch<'a> {
    meta: WriteTable<'a>,
    live: WriteTable<'a>,
    change: WriteTable<'a>,
    past: WriteTable<'a>,
    lease: WriteTable<'a>,
    leased: WriteTable<'a>,
    raft: WriteTable<'a>,
}

impl<'a> StateBatch<'a> {
    fn table(&self, table: Table) -> &WriteTable<'a> {
        match table {
            Table::Meta => &self.meta,
            Table::Live => &self.live,
            Table::Change => &self.change,
            Table::Past => &self.past,
            Table::Lease => &self.lease,
            Table::Leased => &self.leased,
        }
    }

    fn table_mut(&mut self, table: Table) -> &mut WriteTable<'a> {
        match table {
            Table::Meta => &mut self.meta,
            Table::Live => &mut self.live,
            Table::Change => &mut self.change,
            Table::Past => &mut self.past,
            Table::Lease => &mut self.lease,
            Table::Leased => &mut self.leased,
        }
    }

    /// Says how far the log is applied once this batch is committed.
    pub(crate) fn set_applied(&mut self, applied: &Applied) -> Result<(), DiskError> {
        let bytes = encode(applied).map_err(|error| failed("encode for", error))?;
        self.raft.insert(APPLIED, &bytes[..]).map_err(|error| failed("write to", error))?;
        Ok(())
    }

    /// Empties the tables.
    pub(crate) fn clear(&mut self) -> Result<(), DiskError> {
        for table in Table::ALL {
            self.table_mut(table).retain(|_, _| false).map_err(|error| failed("write to", error))?;
        }
        Ok(())
    }

    /// Makes the tables equal to another state's.
    pub(crate) fn replace_with(&mut self, other: &StateView) -> Result<(), DiskError> {
        self.clear()?;
        for table in Table::ALL {
            let ours = self.table_mut(table);
            other.rows(table, &mut |key, value| {
                ours.insert(key, value).map(drop).map_err(|error| failed("write to", error))
            })?;
        }
        Ok(())
    }
}

impl View for StateBatch<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        get(self.table(table), key)
    }

    fn scan(&self, table: Table, range: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), DiskError> {
        scan(self.table(table), range, visit)
    }
}

impl Batch for StateBatch<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), DiskError> {
        self.table_mut(table).insert(key, value).map(drop).map_err(|error| failed("write to", error))
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), DiskError> {
        self.table_mut(table).remove(key).map(drop).map_err(|error| failed("write to", error))
    }
}

fn get<T>(table: &T, key: &[u8]) -> Result<Option<Bytes>, DiskError>
where
    T: ReadableTable<&'static [u8], &'static [u8]>,
{
    let found = table.get(key).map_err(|error| failed("read", error))?;
    Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
}

fn scan<T>(table: &T, range: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), DiskError>
where
    T: ReadableTable<&'static [u8], &'static [u8]>,
{
    if range.start >= range.end {
        return Ok(());
    }
    for row in table.range::<&[u8]>(range).map_err(|error| failed("read", error))? {
        let (key, value) = row.map_err(|error| failed("read", error))?;
        if let ControlFlow::Break(()) = visit(key.value(), value.value()) {
            break;
        }
    }
    Ok(())
}

fn failed(doing: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DiskError {
    DiskError { doing, source: error.into() }
}
