//! The store: one watched set per resource type, one writer for each.
//!
//! Called by [`crate::Ports`], by the composition root and by tests. It must never block: a set is replaced as a whole
//! behind an `Arc`, so a reader keeps a consistent view for as long as it likes.

use crate::failures::Failures;
use machined_reconcile::Trigger;
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// All resources of one type, by id.
pub type Set<T> = BTreeMap<String, T>;

/// A struct that can live in the store.
pub trait Resource: Clone + PartialEq + Send + Sync + 'static {
    /// What people call it: "link", "service". Constant, unique, lower case.
    const KIND: &'static str;
}

/// Somebody asked for a second writer of one type, which is a mistake in the composition root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} already has its one writer")]
pub struct WriterTaken {
    /// The type's [`Resource::KIND`].
    pub kind: &'static str,
}

/// One type's state, shared by its writer and its readers.
struct Cell<T: Resource> {
    set: watch::Sender<Arc<Set<T>>>,
    subscribers: Mutex<Vec<Trigger>>,
}

/// A type's entry: the cell, and whether its writer is out.
struct Entry {
    cell: Arc<dyn Any + Send + Sync>,
    writer_taken: bool,
}

/// The machine's resources. Cheap to clone; all clones are the same store.
#[derive(Clone, Default)]
pub struct Store {
    entries: Arc<Mutex<HashMap<TypeId, Entry>>>,
    failures: Failures,
}

impl Store {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Store::default()
    }

    /// Hands out the only writer of `T`.
    ///
    /// # Errors
    /// [`WriterTaken`] the second time.
    pub fn writer<T: Resource>(&self) -> Result<Writer<T>, WriterTaken> {
        let cell = self.cell::<T>(true)?;
        Ok(Writer { cell })
    }

    /// A reader of `T`; the type need not have a writer yet.
    #[must_use]
    pub fn reader<T: Resource>(&self) -> Reader<T> {
        let cell = self.cell::<T>(false).expect("because only asking for a writer can be refused");
        Reader { set: cell.set.subscribe(), cell }
    }

    /// Which controllers of this store fail now.
    #[must_use]
    pub fn failures(&self) -> Failures {
        self.failures.clone()
    }

    fn cell<T: Resource>(&self, take_writer: bool) -> Result<Arc<Cell<T>>, WriterTaken> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(TypeId::of::<T>()).or_insert_with(|| Entry {
            cell: Arc::new(Cell::<T> { set: watch::Sender::new(Arc::default()), subscribers: Mutex::default() }),
            writer_taken: false,
        });
        if take_writer && std::mem::replace(&mut entry.writer_taken, true) {
            return Err(WriterTaken { kind: T::KIND });
        }
        let cell = Arc::clone(&entry.cell).downcast::<Cell<T>>();
        Ok(cell.expect("because the map's key is the type of the cell"))
    }
}

/// The right to change the resources of one type. There is one per store and type, and it cannot be cloned.
pub struct Writer<T: Resource> {
    cell: Arc<Cell<T>>,
}

impl<T: Resource> Writer<T> {
    /// Replaces the whole set. Readers are told only when something differs.
    pub fn replace(&self, set: Set<T>) {
        self.change(|current| *current = set);
    }

    /// Puts one resource.
    pub fn put(&self, id: &str, value: T) {
        self.change(|set| {
            set.insert(id.to_owned(), value);
        });
    }

    /// Removes one resource; nothing happens when it is not there.
    pub fn remove(&self, id: &str) {
        self.change(|set| {
            set.remove(id);
        });
    }

    /// The set as it is now.
    #[must_use]
    pub fn current(&self) -> Arc<Set<T>> {
        self.cell.set.borrow().clone()
    }

    fn change(&self, edit: impl FnOnce(&mut Set<T>)) {
        let modified = self.cell.set.send_if_modified(|current| {
            let mut next = Set::clone(current);
            edit(&mut next);
            let modified = next != **current;
            if modified {
                *current = Arc::new(next);
            }
            modified
        });
        if modified {
            let subscribers = self.cell.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
            subscribers.iter().for_each(Trigger::fire);
        }
    }
}

/// Reads the resources of one type, and can wait for them.
pub struct Reader<T: Resource> {
    set: watch::Receiver<Arc<Set<T>>>,
    cell: Arc<Cell<T>>,
}

impl<T: Resource> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Reader { set: self.set.clone(), cell: Arc::clone(&self.cell) }
    }
}

impl<T: Resource> Reader<T> {
    /// All resources of the type as they are now.
    #[must_use]
    pub fn all(&self) -> Arc<Set<T>> {
        self.set.borrow().clone()
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<T> {
        self.set.borrow().get(id).cloned()
    }

    /// Waits until `test` holds of the set, and returns that set.
    pub async fn wait_for(&mut self, test: impl FnMut(&Arc<Set<T>>) -> bool) -> Arc<Set<T>> {
        let found = self.set.wait_for(test).await.map(|set| Arc::clone(&set));
        found.expect("because the reader itself keeps the sender alive")
    }

    /// Waits for the next change after the last look by this method, and returns the new set.
    pub async fn changed(&mut self) -> Arc<Set<T>> {
        self.set.changed().await.expect("because the reader itself keeps the sender alive");
        self.set.borrow_and_update().clone()
    }

    /// Has `trigger` fired at each change from now on. Subscribers live as long as the store.
    pub(crate) fn subscribe(&self, trigger: Trigger) {
        self.cell.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(trigger);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[derive(Debug, Clone, PartialEq)]
    struct Link(u32);
    impl Resource for Link {
        const KIND: &'static str = "link";
    }

    #[test]
    fn a_type_has_one_writer() {
        let store = Store::new();
        let writer = store.writer::<Link>();
        assert!(writer.is_ok());
        assert_eq!(store.writer::<Link>().err(), Some(WriterTaken { kind: "link" }));
    }

    #[test]
    fn a_reader_that_came_first_sees_what_the_writer_puts() {
        let store = Store::new();
        let reader = store.reader::<Link>();
        let writer = store.writer::<Link>().expect("because it is the first");
        writer.put("eth0", Link(1));
        writer.put("eth1", Link(2));
        writer.remove("eth1");
        assert_eq!(reader.get("eth0"), Some(Link(1)));
        assert_eq!(reader.all().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_changes_nothing_wakes_nobody() {
        let store = Store::new();
        let writer = store.writer::<Link>().expect("because it is the first");
        writer.put("eth0", Link(1));
        let mut reader = store.reader::<Link>();
        reader.wait_for(|set| set.len() == 1).await;
        let trigger = Trigger::new();
        reader.subscribe(trigger.clone());
        let mut wakeups = trigger.wakeups(Duration::from_secs(60));
        wakeups.next().await;
        let start = tokio::time::Instant::now();
        writer.put("eth0", Link(1));
        wakeups.next().await;
        assert!(start.elapsed() >= Duration::from_secs(60), "the same value again woke the reader");
        let start = tokio::time::Instant::now();
        writer.put("eth0", Link(3));
        wakeups.next().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(reader.changed().await.get("eth0"), Some(&Link(3)));
    }
}
