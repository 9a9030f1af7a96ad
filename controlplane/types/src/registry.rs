//! The table of all served kinds, and the ways to look one up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::kind::KindInfo;
use crate::kinds;

/// All served kinds, in the order in which discovery lists them.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    kinds: Vec<Arc<KindInfo>>,
    by_plural: HashMap<(String, String, String), usize>,
    by_kind: HashMap<(String, String, String), usize>,
}

impl Registry {
    /// Makes a registry of the built-in kinds.
    pub fn builtin() -> Self {
        let mut registry = Registry::default();
        for row in kinds::ROWS {
            registry.add(row.info());
        }
        registry
    }

    /// Adds a kind, or replaces the one of the same group, version and plural.
    pub fn add(&mut self, kind: KindInfo) {
        let at = |last: &str| (kind.group.clone(), kind.version.clone(), last.to_string());
        let (plural, name) = (at(&kind.plural), at(&kind.kind));
        let index = self.by_plural.get(&plural).copied().unwrap_or(self.kinds.len());
        self.by_plural.insert(plural, index);
        self.by_kind.insert(name, index);
        if index == self.kinds.len() {
            self.kinds.push(Arc::new(kind));
        } else {
            self.kinds[index] = Arc::new(kind);
        }
    }

    /// Finds the kind that a path names; `group` is empty for core.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<KindInfo>> {
        let key = (group.to_string(), version.to_string(), plural.to_string());
        self.by_plural.get(&key).map(|index| &self.kinds[*index])
    }

    /// Finds a kind by what objects say of themselves.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<&Arc<KindInfo>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let key = (group.to_string(), version.to_string(), kind.to_string());
        self.by_kind.get(&key).map(|index| &self.kinds[*index])
    }

    /// Lists all kinds.
    pub fn kinds(&self) -> &[Arc<KindInfo>] {
        &self.kinds
    }

    /// Lists the kinds whose objects are stored under their own group: each stored object belongs to exactly one of them.
    pub fn stored_kinds(&self) -> impl Iterator<Item = &Arc<KindInfo>> {
        self.kinds.iter().filter(|kind| kind.storage_group == kind.group && kind.storage_version == kind.version)
    }

    /// Lists groups other than core with their versions, in table order (the first version is preferred).
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut order: Vec<(String, Vec<String>)> = Vec::new();
        let mut position: BTreeMap<&str, usize> = BTreeMap::new();
        for kind in self.kinds.iter().filter(|kind| !kind.group.is_empty()) {
            let index = *position.entry(&kind.group).or_insert_with(|| {
                order.push((kind.group.clone(), Vec::new()));
                order.len() - 1
            });
            let versions = &mut order[index].1;
            if !versions.contains(&kind.version) {
                versions.push(kind.version.clone());
            }
        }
        order
    }

    /// Lists the kinds of one group and version.
    pub fn in_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<KindInfo>> {
        self.kinds.iter().filter(move |kind| kind.group == group && kind.version == version)
    }
}
