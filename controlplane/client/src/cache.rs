//! What an informer knows: the newest version of each object, with indexes and with handlers that are told of changes.

use crate::object::{Object, ObjectKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// A change of one object, as handlers see it.
#[derive(Debug)]
pub enum Change<'a, K> {
    /// It was not known before.
    Added(&'a Arc<K>),
    /// It was known in another version.
    Updated {
        /// The version known before; others may have come between.
        old: &'a Arc<K>,
        /// The version now.
        new: &'a Arc<K>,
    },
    /// It is gone; as it was known last.
    Deleted(&'a Arc<K>),
}

impl<'a, K> Change<'a, K> {
    /// The newest version known.
    #[must_use]
    pub fn newest(&self) -> &'a Arc<K> {
        match self {
            Change::Added(object) | Change::Updated { new: object, .. } | Change::Deleted(object) => object,
        }
    }

    /// All versions that the change is about: one, or the old and the new.
    pub fn versions(&self) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        let (first, second) = match self {
            Change::Added(object) | Change::Deleted(object) => (*object, None),
            Change::Updated { old, new } => (*old, Some(*new)),
        };
        std::iter::once(first).chain(second)
    }
}

/// Gets the values under which an object is found in an index.
pub type IndexBy<K> = fn(&K) -> Vec<String>;

type Handler<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;

/// A shared, ordered, indexed map of objects. Clones are handles to the same one.
pub struct Cache<K>(Arc<Shared<K>>);

struct Shared<K> {
    state: RwLock<State<K>>,
    /// Held while a change is made and told, so that handlers see changes in order and late ones miss none.
    handlers: Mutex<Vec<Handler<K>>>,
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: BTreeMap<&'static str, Index<K>>,
}

struct Index<K> {
    by: IndexBy<K>,
    keys: BTreeMap<String, BTreeSet<ObjectKey>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache(Arc::clone(&self.0))
    }
}

impl<K: Object> Default for Cache<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Object> Cache<K> {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        let state = State { objects: BTreeMap::new(), indexes: BTreeMap::new() };
        Cache(Arc::new(Shared { state: RwLock::new(state), handlers: Mutex::new(Vec::new()) }))
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object, if it is known.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects, by namespace and name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// The objects of a namespace, by name.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = ObjectKey::in_namespace(namespace, "");
        let state = self.read();
        let from_there = state.objects.range(first..);
        from_there
            .take_while(|(key, _)| key.namespace.as_deref() == Some(namespace))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// The objects that have `value` in the index `name`.
    ///
    /// # Panics
    /// When no such index was added: a mistake in the program.
    #[must_use]
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let index = state.indexes.get(name).expect("because an index is added before it is used");
        let keys = index.keys.get(value).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Adds an index; one of the same name stands as it is.
    pub fn add_index(&self, name: &'static str, by: IndexBy<K>) {
        let mut guard = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.indexes.entry(name).or_insert_with(|| {
            let mut index = Index { by, keys: BTreeMap::new() };
            for (key, object) in &state.objects {
                index.insert(key, object);
            }
            index
        });
    }

    /// Adds a handler. It is told of every known object first, then of every change, in order and from one task at a time.
    /// It must be quick: usually it puts a key into a queue. It must not add handlers.
    pub fn on_change(&self, handler: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        for object in &self.list() {
            handler(Change::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// Puts the newest version of an object.
    pub fn put(&self, object: K) {
        let handlers = self.0.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let object = Arc::new(object);
        let old = self.0.state.write().unwrap_or_else(PoisonError::into_inner).put(&object);
        for handler in &*handlers {
            handler(match &old {
                None => Change::Added(&object),
                Some(old) => Change::Updated { old, new: &object },
            });
        }
    }

    /// Removes an object.
    pub fn remove(&self, key: &ObjectKey) {
        let handlers = self.0.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.0.state.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        for handler in &*handlers {
            if let Some(old) = &old {
                handler(Change::Deleted(old));
            }
        }
    }

    /// Makes the cache hold exactly `objects`; what did not change is told to nobody.
    pub fn replace(&self, objects: Vec<K>) {
        let listed: BTreeSet<ObjectKey> = objects.iter().map(Object::key).collect();
        let gone: Vec<ObjectKey> = self.read().objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        for object in objects {
            let known = self.get(&object.key());
            let same = |known: &Arc<K>| {
                known.uid() == object.uid() && known.meta().resource_version == object.meta().resource_version
            };
            if !known.as_ref().is_some_and(same) {
                self.put(object);
            }
        }
    }
}

impl<K: Object> State<K> {
    fn put(&mut self, object: &Arc<K>) -> Option<Arc<K>> {
        let key = object.key();
        let old = self.remove(&key);
        for index in self.indexes.values_mut() {
            index.insert(&key, object);
        }
        self.objects.insert(key, Arc::clone(object));
        old
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.by)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.by)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Pod, PodSpec};

    fn pod(name: &str, node: &str, version: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("a".to_owned());
        pod.metadata.resource_version = Some(version.to_owned());
        pod.spec = Some(PodSpec { node_name: Some(node.to_owned()), ..PodSpec::default() });
        pod
    }

    fn node(pod: &Pod) -> Vec<String> {
        pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).into_iter().collect()
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name()).collect()
    }

    #[test]
    fn an_index_follows_its_objects() {
        let cache = Cache::new();
        cache.put(pod("x", "n1", "1"));
        cache.add_index("node", node);
        cache.put(pod("y", "n1", "2"));
        assert_eq!(names(&cache.by_index("node", "n1")), ["x", "y"]);
        cache.put(pod("x", "n2", "3"));
        assert_eq!(names(&cache.by_index("node", "n1")), ["y"]);
        cache.remove(&ObjectKey::in_namespace("a", "x"));
        assert!(cache.by_index("node", "n2").is_empty());
    }

    #[test]
    fn a_replacement_tells_differences_only() {
        let cache = Cache::new();
        for name in ["gone", "kept", "changed"] {
            cache.put(pod(name, "n1", "1"));
        }
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&told);
        cache.on_change(move |change: Change<'_, Pod>| {
            let kind = match change {
                Change::Added(_) => "added",
                Change::Updated { .. } => "updated",
                Change::Deleted(_) => "deleted",
            };
            log.lock().expect("because no test thread panics").push(format!("{kind} {}", change.newest().name()));
        });
        told.lock().expect("because no test thread panics").clear();
        cache.replace(vec![pod("kept", "n1", "1"), pod("changed", "n1", "2"), pod("new", "n1", "3")]);
        let told = told.lock().expect("because no test thread panics");
        assert_eq!(*told, ["deleted gone", "updated changed", "added new"]);
    }
}
