//! A disk in memory: for tests, and for simulation. It forgets everything when it is dropped.

use crate::disk::{Batch, Disk, DiskError, Table, View, Visit};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

type Place = (Table, Vec<u8>);
type Pages = BTreeMap<Place, Bytes>;

/// The tables in one ordered map behind a lock.
#[derive(Debug, Default)]
pub struct MemDisk {
    pages: RwLock<Pages>,
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Disk for MemDisk {
    fn view(&self) -> Result<Box<dyn View + '_>, DiskError> {
        Ok(Box::new(MemView(self.pages.read().unwrap_or_else(PoisonError::into_inner))))
    }

    fn update(&self, change: &mut dyn FnMut(&mut dyn Batch) -> Result<(), DiskError>) -> Result<(), DiskError> {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        let mut batch = MemBatch { pages: &mut pages, undo: Vec::new() };
        let outcome = change(&mut batch);
        if outcome.is_err() {
            batch.roll_back();
        }
        outcome
    }
}

struct MemView<'a>(RwLockReadGuard<'a, Pages>);

impl View for MemView<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        Ok(get(&self.0, table, key))
    }

    fn scan(&self, table: Table, range: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), DiskError> {
        scan(&self.0, table, range, visit);
        Ok(())
    }
}

struct MemBatch<'a> {
    pages: &'a mut Pages,
    /// What stood there before each write, oldest first.
    undo: Vec<(Place, Option<Bytes>)>,
}

impl MemBatch<'_> {
    fn set(&mut self, table: Table, key: &[u8], value: Option<Bytes>) {
        let place = (table, key.to_vec());
        let before = match value {
            Some(value) => self.pages.insert(place.clone(), value),
            None => self.pages.remove(&place),
        };
        self.undo.push((place, before));
    }

    fn roll_back(&mut self) {
        for (place, before) in self.undo.drain(..).rev() {
            match before {
                Some(value) => self.pages.insert(place, value),
                None => self.pages.remove(&place),
            };
        }
    }
}

impl View for MemBatch<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        Ok(get(self.pages, table, key))
    }

    fn scan(&self, table: Table, range: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), DiskError> {
        scan(self.pages, table, range, visit);
        Ok(())
    }
}

impl Batch for MemBatch<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), DiskError> {
        self.set(table, key, Some(Bytes::copy_from_slice(value)));
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), DiskError> {
        self.set(table, key, None);
        Ok(())
    }
}

fn get(pages: &Pages, table: Table, key: &[u8]) -> Option<Bytes> {
    pages.get(&(table, key.to_vec())).cloned()
}

fn scan(pages: &Pages, table: Table, range: Range<&[u8]>, visit: &mut Visit<'_>) {
    if range.start >= range.end {
        return;
    }
    for ((_, key), value) in pages.range((table, range.start.to_vec())..(table, range.end.to_vec())) {
        if visit(key, value).is_break() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_batch_leaves_nothing() {
        let disk = MemDisk::new();
        disk.update(&mut |batch| batch.put(Table::Live, b"a", b"1")).expect("because memory does not fail");
        let refused = disk.update(&mut |batch| {
            batch.put(Table::Live, b"a", b"2")?;
            batch.put(Table::Live, b"a", b"3")?;
            batch.put(Table::Live, b"b", b"1")?;
            Err(DiskError { doing: "test", source: "no".into() })
        });
        assert!(refused.is_err());
        let view = disk.view().expect("because memory does not fail");
        assert_eq!(view.get(Table::Live, b"a").expect("because memory does not fail").as_deref(), Some(&b"1"[..]));
        assert_eq!(view.get(Table::Live, b"b").expect("because memory does not fail"), None);
    }
}
