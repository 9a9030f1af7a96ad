//! What a controller declares: the types that it reads and the types that it writes.
//!
//! A controller's constructor takes its inputs and outputs from a [`Ports`]; what was not declared there cannot be
//! reached, and each declared input wakes the controller. The composition root makes one for each controller.

use crate::failures::Failures;
use crate::store::{Reader, Resource, Store, Writer, WriterTaken};
use machined_reconcile::Trigger;

/// The doors of one controller to the store.
pub struct Ports {
    name: &'static str,
    store: Store,
    trigger: Trigger,
    reads: Vec<&'static str>,
    writes: Vec<&'static str>,
}

impl Ports {
    /// Opens the store for the controller called `name`.
    #[must_use]
    pub fn new(store: &Store, name: &'static str) -> Self {
        Ports { name, store: store.clone(), trigger: Trigger::new(), reads: Vec::new(), writes: Vec::new() }
    }

    /// Declares an input: changes of `T` wake the controller.
    pub fn input<T: Resource>(&mut self) -> Reader<T> {
        let reader = self.store.reader::<T>();
        reader.subscribe(self.trigger.clone());
        self.reads.push(T::KIND);
        reader
    }

    /// Declares an output: the controller becomes the one writer of `T`.
    ///
    /// # Panics
    /// When `T` has a writer already. Controllers are built once, at start, so this shows at the first run of the program.
    pub fn output<T: Resource>(&mut self) -> Writer<T> {
        self.writes.push(T::KIND);
        match self.store.writer::<T>() {
            Ok(writer) => writer,
            Err(WriterTaken { kind }) => panic!("controller {} wants to write {kind}, which has a writer", self.name),
        }
    }

    /// The controller's trigger, for hosts that learn of changes outside the store.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    pub(crate) fn failures(&self) -> Failures {
        self.store.failures()
    }

    /// The controller's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Kinds that the controller reads, in declaration order.
    #[must_use]
    pub fn reads(&self) -> &[&'static str] {
        &self.reads
    }

    /// Kinds that the controller writes, in declaration order.
    #[must_use]
    pub fn writes(&self) -> &[&'static str] {
        &self.writes
    }
}
