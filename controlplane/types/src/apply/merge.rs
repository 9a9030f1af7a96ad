//! Joins a configuration with the stored object, and takes out what nobody owns any more.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::set::FieldSet;
use super::typed::{Parts, Typed, by_step};

/// Merges `config` into `live`: what `config` sets wins, the rest stays; entries follow the order of `config`.
pub(super) fn merged(typed: Typed<'_>, live: &Value, config: &Value) -> Value {
    match (typed.parts(live), typed.parts(config)) {
        (Parts::Fields(live), Parts::Fields(config)) => {
            let mut map = live.clone();
            for (key, value) in config {
                let below = typed.field(key).0;
                let value = live.get(key).map_or_else(|| value.clone(), |live| merged(below, live, value));
                map.insert(key.clone(), value);
            }
            Value::Object(map)
        }
        (Parts::Items(live), Parts::Items(config)) => Value::Array(merged_items(typed, live, config)),
        _ => config.clone(),
    }
}

fn merged_items(typed: Typed<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let step = |item: &Value| typed.step(item).unwrap_or_default();
    let wanted = by_step(typed, config);
    let have = by_step(typed, live);
    let mut result = Vec::with_capacity(live.len() + config.len());
    let mut rest = live.iter().map(|item| (step(item), item)).peekable();
    let mut done = BTreeSet::new();
    for item in config {
        // Entries of others stay where they are, entries that were merged already are not taken twice.
        while let Some((here, other)) = rest.next_if(|(here, _)| !wanted.contains_key(here) || done.contains(here)) {
            if !wanted.contains_key(&here) {
                result.push(other.clone());
            }
        }
        let here = step(item);
        result.push(have.get(&here).map_or_else(|| item.clone(), |live| merged(typed.item(), live, item)));
        done.insert(here);
    }
    result.extend(rest.filter(|(here, _)| !wanted.contains_key(here)).map(|(_, other)| other.clone()));
    result
}

/// Removes what the manager owned (`last`) and nobody owns any more (`owned` is what all own now).
pub(super) fn prune(typed: Typed<'_>, value: &mut Value, last: &FieldSet, owned: &FieldSet) {
    if typed.whole() {
        return;
    }
    match value {
        Value::Object(map) => prune_fields(typed, map, last, owned, |_| false),
        Value::Array(list) => {
            list.retain_mut(|item| {
                let Ok(step) = typed.step(item) else { return true };
                let Some(last) = last.child(&step) else { return true };
                match owned.child(&step).filter(|owned| !owned.is_empty()) {
                    None => !last.member,
                    Some(owned) => {
                        let below = typed.item();
                        if let (Value::Object(map), false) = (&mut *item, below.whole()) {
                            prune_fields(below, map, last, owned, |field| typed.is_key(field));
                        }
                        true
                    }
                }
            });
        }
        _ => {}
    }
}

fn prune_fields(
    typed: Typed<'_>,
    map: &mut Map<String, Value>,
    last: &FieldSet,
    owned: &FieldSet,
    is_key: impl Fn(&str) -> bool,
) {
    for (step, last) in &last.children {
        let Some(name) = step.strip_prefix("f:").filter(|name| !is_key(name)) else { continue };
        let (below, named) = typed.field(name);
        match owned.child(step).filter(|owned| !owned.is_empty()) {
            None if last.member || named => drop(map.remove(name)),
            None => {}
            Some(owned) => {
                if let Some(value) = map.get_mut(name) {
                    prune(below, value, last, owned);
                }
            }
        }
    }
}
