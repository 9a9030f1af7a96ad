//! Properties that hold for any object of any kind, made from the kinds' own schemas out of random bytes.

use controlplane_types::decode::{self, FieldValidation, Parsed};
use controlplane_types::object::{self, Object};
use controlplane_types::patch::{PatchType, patched};
use controlplane_types::schema::{Schema, Shape};
use controlplane_types::table::{self, IncludeObject};
use controlplane_types::write::{self, Fresh, Managed, WriteContext};
use controlplane_types::{Endpoint, KindInfo, Registry, apply};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Levels of nesting that an object gets at most.
const DEPTH: usize = 9;

/// Random bytes that decide what an object looks like; zero when they are used up.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte)) % limit.max(1)
    }

    fn object(&mut self, kind: &KindInfo) -> Value {
        let mut made = self.value(&kind.schema, 0);
        let map = object::map_mut(&mut made, &[]);
        map.insert("apiVersion".into(), kind.api_version().into());
        map.insert("kind".into(), kind.kind.clone().into());
        let metadata = object::map_mut(&mut made, &["metadata"]);
        metadata.retain(|key, _| matches!(key.as_str(), "labels" | "annotations" | "finalizers"));
        metadata.insert("name".into(), json!("a"));
        // Two fields of Services mean the same; when they contradict each other, the answer depends on what was there.
        object::remove(&mut made, &["spec"], "clusterIPs");
        made
    }

    fn value(&mut self, schema: &Schema, depth: usize) -> Value {
        match &schema.shape {
            Shape::Object(fields) => {
                let mut map = Map::new();
                for (name, field) in fields {
                    // The upper levels are filled well, the lower ones thinly, or objects would never end.
                    if self.below(8) > depth && depth < DEPTH {
                        map.insert(name.clone(), self.value(&field.schema, depth + 1));
                    }
                }
                Value::Object(map)
            }
            Shape::Map(values) => {
                let count = self.below(3);
                (0..count).map(|at| (format!("k{at}"), self.value(values, depth + 1))).collect()
            }
            Shape::List(items) => {
                let count = self.below(3);
                (0..count).map(|_| self.value(items, depth + 1)).collect()
            }
            Shape::Text => json!(["a", "b", "", "TCP", "Always", "Exists", "web:1", "ClusterIP"][self.below(8)]),
            Shape::Time(_) => json!("2026-01-02T03:04:05Z"),
            Shape::Bytes => json!("YQ=="),
            Shape::Int32 | Shape::Int64 => json!([0, 1, -1, 80, 70_000][self.below(5)]),
            Shape::Number => json!(0.5),
            Shape::Boolean => json!(self.below(2) == 1),
            Shape::IntOrString => [json!(80), json!("25%"), json!("http")][self.below(3)].clone(),
            Shape::Quantity => json!(["1", "500m", "1Gi", "-1"][self.below(4)]),
            Shape::Any => [json!({}), json!({"x": [1, {"y": null}]}), json!(null)][self.below(3)].clone(),
        }
    }
}

fn context(kind: &KindInfo) -> WriteContext<'_> {
    let namespace = if kind.namespaced() { "default" } else { "" };
    let now = Timestamp::UNIX_EPOCH;
    WriteContext { kind, namespace, name: "a", endpoint: Endpoint::Main, manager: "tester", now }
}

/// Makes an object of the kind as a client would send it: decoded.
fn object(kind: &KindInfo, bytes: &[u8]) -> Value {
    let value = Choices(bytes.iter()).object(kind);
    let parsed = Parsed { value, duplicates: Vec::new() };
    let decoded = decode::check(kind, parsed, FieldValidation::Strict);
    decoded.expect("because the object was made from the schema").object
}

fn created(kind: &KindInfo, object: Value, managed: Managed) -> Value {
    let fresh = Fresh { uid: "u", suffix: "xxxxx" };
    let made = write::begin_create(&context(kind), object, fresh, managed);
    let mut made = made.expect("because type, name and namespace fit");
    made.set_resource_version(1);
    made
}

fn kinds() -> impl Strategy<Value = (usize, Vec<u8>, Vec<u8>)> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..400);
    (0..Registry::builtin().kinds().len(), bytes(), bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing on the way of an object panics, whatever it looks like, and defaulting is done once and for all.
    #[test]
    fn any_object_goes_through_creation((at, first, second) in kinds()) {
        let registry = Registry::builtin();
        let kind = &registry.kinds()[at];
        let old = created(kind, object(kind, &first), Managed::Track);
        let _ = write::finish_create(&context(kind), &old);
        let mut again = old.clone();
        (kind.strategy.default)(&mut again);
        prop_assert_eq!(&again, &old, "defaulting is idempotent");
        let table = table::of_object(kind, &old, IncludeObject::Object, Timestamp::UNIX_EPOCH);
        let cells = table["rows"][0]["cells"].as_array().map_or(0, Vec::len);
        prop_assert_eq!(cells, kind.strategy.printer.columns.len());
        let _ = (kind.strategy.selectable)(&old);
        let mut change = object(kind, &second);
        change.set_resource_version(1);

        let new = write::begin_update(&context(kind), &old, change, Managed::Track);
        let new = new.expect("because type, name and namespace fit");
        let _ = write::finish_update(&context(kind), &old, &new);
        let same = write::begin_update(&context(kind), &old, old.clone(), Managed::Track);
        let same = same.expect("because type, name and namespace fit");
        prop_assert!(write::is_unchanged(&old, &same), "{:#}\n{:#}", old, same);
    }

    /// What a merge patch made of the difference does, is done.
    #[test]
    fn patches_keep_the_shape((at, first, second) in kinds()) {
        let registry = Registry::builtin();
        let kind = &registry.kinds()[at];
        let (old, change) = (object(kind, &first), object(kind, &second));
        for patch_type in [PatchType::Merge, PatchType::Strategic] {
            if let Ok(new) = patched(kind, patch_type, &old, change.clone()) {
                let parsed = Parsed { value: new.clone(), duplicates: Vec::new() };
                let decoded = decode::check(kind, parsed, FieldValidation::Strict);
                prop_assert_eq!(decoded.expect("because the shape is kept").object, new);
            }
        }
    }

    /// Applying twice is applying once; a second manager that applies the same conflicts with nobody.
    #[test]
    fn apply_is_idempotent((at, first, second) in kinds()) {
        let registry = Registry::builtin();
        let kind = &registry.kinds()[at];
        let (config, other) = (object(kind, &first), object(kind, &second));
        let Ok(applied) = apply::apply(&context(kind), None, config.clone(), false) else { return Ok(()) };
        // Who sets nothing owns nothing and leaves no entry.
        prop_assume!(object::at(&applied, &["metadata", "managedFields"]).is_some());
        let live = created(kind, applied, Managed::Applied);
        let again = apply::apply(&context(kind), Some(&live), config.clone(), true);
        let again = again.expect("because it was applied before");
        let again = write::begin_update(&context(kind), &live, again, Managed::Applied);
        let again = again.expect("because type, name and namespace fit");
        prop_assert!(write::is_unchanged(&live, &again), "{config}\n{live}\n{again}");

        let mut second_manager = context(kind);
        second_manager.manager = "other";
        if let Ok(theirs) = apply::apply(&second_manager, Some(&live), other, true) {
            let theirs = write::begin_update(&second_manager, &live, theirs, Managed::Applied);
            let theirs = theirs.expect("because type, name and namespace fit");
            prop_assert_eq!(theirs.name(), "a");
        }
    }
}
