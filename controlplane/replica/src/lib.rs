//! openraft wiring and the redb disk under the store.
