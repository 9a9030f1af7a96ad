//! Turns JSON schemas into [`Schema`] trees; types with a name are built once and shared.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;

use super::merge::rule;
use super::{Field, Schema, Shape, definitions};

const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.";

/// Returns the tree of a definition; a name that nobody defined is [`Shape::Any`].
pub fn schema(name: &str) -> Arc<Schema> {
    static BUILT: OnceLock<Mutex<HashMap<String, Arc<Schema>>>> = OnceLock::new();
    let cache = BUILT.get_or_init(Mutex::default);
    let mut built = cache.lock().unwrap_or_else(PoisonError::into_inner);
    named(name, &mut built)
}

fn named(name: &str, built: &mut HashMap<String, Arc<Schema>>) -> Arc<Schema> {
    if let Some(known) = built.get(name) {
        return known.clone();
    }
    // A type that refers to itself finds this entry and is not looked into any deeper.
    built.insert(name.to_string(), Arc::new(Schema { name: name.to_string(), shape: Shape::Any, atomic: false }));
    let shape = match name.strip_prefix(META) {
        Some("api.resource.Quantity") => Shape::Quantity,
        Some("util.intstr.IntOrString") => Shape::IntOrString,
        Some("apis.meta.v1.Time") => Shape::Time(false),
        Some("apis.meta.v1.MicroTime") => Shape::Time(true),
        Some("apis.meta.v1.FieldsV1" | "runtime.RawExtension") => Shape::Any,
        Some(_) | None => definitions().get(name).map_or(Shape::Any, |json| shape(name, json, built)),
    };
    let made = Arc::new(Schema { name: name.to_string(), shape, atomic: rule(name, "-").atomic });
    built.insert(name.to_string(), made.clone());
    made
}

fn nameless(json: &Value, built: &mut HashMap<String, Arc<Schema>>) -> Arc<Schema> {
    if let Some(target) = json["$ref"].as_str() {
        return named(target.strip_prefix(PREFIX).unwrap_or(target), built);
    }
    Arc::new(Schema { name: String::new(), shape: shape("", json, built), atomic: false })
}

fn shape(name: &str, json: &Value, built: &mut HashMap<String, Arc<Schema>>) -> Shape {
    if json["x-kubernetes-int-or-string"] == true {
        return Shape::IntOrString;
    }
    match (json["type"].as_str(), json["format"].as_str()) {
        (Some("object"), _) => match (json["properties"].as_object(), json.get("additionalProperties")) {
            (Some(properties), _) => Shape::Object(fields(name, properties, built)),
            (None, Some(values)) if values.is_object() => Shape::Map(nameless(values, built)),
            (None, _) => Shape::Any,
        },
        (Some("array"), _) => Shape::List(nameless(&json["items"], built)),
        (Some("string"), Some("byte")) => Shape::Bytes,
        (Some("string"), Some("date-time")) => Shape::Time(false),
        (Some("string"), _) => Shape::Text,
        (Some("integer"), Some("int32")) => Shape::Int32,
        (Some("integer"), _) => Shape::Int64,
        (Some("number"), _) => Shape::Number,
        (Some("boolean"), _) => Shape::Boolean,
        (Some(_) | None, _) => Shape::Any,
    }
}

fn fields(
    name: &str,
    properties: &serde_json::Map<String, Value>,
    built: &mut HashMap<String, Arc<Schema>>,
) -> BTreeMap<String, Field> {
    let mut fields = BTreeMap::new();
    for (key, json) in properties {
        let schema = nameless(json, built);
        fields.insert(key.clone(), Field { schema, rule: rule(name, key) });
    }
    fields
}
