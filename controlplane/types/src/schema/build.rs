//! Turns JSON schemas into [`Schema`] trees; types with a name are built once and shared.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::merge::rule;
use super::{Definitions, Field, Schema, Shape, definitions};

const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.";

/// All trees, made once.
struct Built {
    types: HashMap<String, Arc<Schema>>,
    digest: String,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let definitions = definitions();
        let mut types = HashMap::new();
        let mut hash = Sha256::new();
        for (name, json) in &definitions {
            hash.update(name.as_bytes());
            hash.update(json.to_string().as_bytes());
            named(name, &definitions, &mut types);
        }
        Built { types, digest: format!("{:X}", hash.finalize()) }
    })
}

/// Returns the tree of a definition; a name that nobody defined is [`Shape::Any`].
pub fn schema(name: &str) -> Arc<Schema> {
    let unknown = || Arc::new(Schema { name: name.to_string(), shape: Shape::Any, atomic: false });
    built().types.get(name).cloned().unwrap_or_else(unknown)
}

/// Returns the SHA-256 of all definitions in hex; it changes whenever a schema does.
pub fn digest() -> &'static str {
    &built().digest
}

type Types = HashMap<String, Arc<Schema>>;

fn named(name: &str, definitions: &Definitions, types: &mut Types) -> Arc<Schema> {
    if let Some(known) = types.get(name) {
        return known.clone();
    }
    // A type that refers to itself finds this entry and is not looked into any deeper.
    types.insert(name.to_string(), Arc::new(Schema { name: name.to_string(), shape: Shape::Any, atomic: false }));
    let shape = match name.strip_prefix(META) {
        Some("api.resource.Quantity") => Shape::Quantity,
        Some("util.intstr.IntOrString") => Shape::IntOrString,
        Some("apis.meta.v1.Time") => Shape::Time(false),
        Some("apis.meta.v1.MicroTime") => Shape::Time(true),
        Some("apis.meta.v1.FieldsV1" | "runtime.RawExtension") => Shape::Any,
        Some(_) | None => definitions.get(name).map_or(Shape::Any, |json| shape(name, json, definitions, types)),
    };
    // Content that the API server does not look into belongs together.
    let raw = name.strip_prefix(META) == Some("runtime.RawExtension");
    let made = Arc::new(Schema { name: name.to_string(), shape, atomic: raw || rule(name, "-").atomic });
    types.insert(name.to_string(), made.clone());
    made
}

fn nameless(json: &Value, definitions: &Definitions, types: &mut Types) -> Arc<Schema> {
    if let Some(target) = json["$ref"].as_str() {
        return named(target.strip_prefix(PREFIX).unwrap_or(target), definitions, types);
    }
    Arc::new(Schema { name: String::new(), shape: shape("", json, definitions, types), atomic: false })
}

fn shape(name: &str, json: &Value, definitions: &Definitions, types: &mut Types) -> Shape {
    if json["x-kubernetes-int-or-string"] == true {
        return Shape::IntOrString;
    }
    match (json["type"].as_str(), json["format"].as_str()) {
        (Some("object"), _) => match (json["properties"].as_object(), json.get("additionalProperties")) {
            (Some(properties), _) => Shape::Object(fields(name, properties, definitions, types)),
            (None, Some(values)) if values.is_object() => Shape::Map(nameless(values, definitions, types)),
            (None, _) => Shape::Any,
        },
        (Some("array"), _) => Shape::List(nameless(&json["items"], definitions, types)),
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
    definitions: &Definitions,
    types: &mut Types,
) -> BTreeMap<String, Field> {
    let mut fields = BTreeMap::new();
    for (key, json) in properties {
        let schema = nameless(json, definitions, types);
        fields.insert(key.clone(), Field { schema, rule: rule(name, key) });
    }
    fields
}
