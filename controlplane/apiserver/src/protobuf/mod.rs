//! Reads Kubernetes' protobuf bodies: what kubectl's and client-go's typed clients send. Answers are JSON, which they all accept.
//!
//! One generic reader over a table of fields ([`TABLE`]); no generated types. Go's encoder writes the zero of every field that is
//! not a pointer; JSON leaves those out, and so does this reader, so that "not said" stays "not said".

mod wire;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use controlplane_types::ApiError;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;
use wire::{Reader, Scalar};

/// What stands before every message (k8s.io/apimachinery, runtime/serializer/protobuf).
const MAGIC: &[u8] = b"k8s\0";

/// Messages inside messages; the deepest type there is has fewer than twenty.
const DEPTH_MAX: usize = 64;

/// The fields of all messages.
const TABLE: &str = include_str!("fields.txt");

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("it does not begin with k8s\\0")]
    Magic,
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("a field has the wrong wire type")]
    Wire,
    #[error("a text is not UTF-8")]
    Text,
    #[error("it is nested too deeply")]
    Depth,
    #[error("kind {0} is not read in protobuf here")]
    Kind(String),
    #[error("a raw object is no JSON")]
    Raw,
}

/// A field of a message.
struct Field {
    /// Empty where JSON has the message's fields in place of it.
    name: &'static str,
    leaf: &'static str,
    pointer: bool,
    shape: Shape,
}

enum Shape {
    One,
    List,
    Map,
}

type Messages = HashMap<&'static str, HashMap<u32, Field>>;

fn messages() -> &'static Messages {
    static ALL: OnceLock<Messages> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Messages::new();
        let mut current = "";
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            match line.strip_prefix("= ") {
                Some(name) => current = name,
                None => {
                    let (number, field) = field(line).expect("because the table is part of the program and tested");
                    all.entry(current).or_default().insert(number, field);
                }
            }
        }
        all
    })
}

fn field(line: &'static str) -> Option<(u32, Field)> {
    let mut words = line.split(' ');
    let (number, name, typed) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let leaf = typed.trim_end_matches(['*', '[', ']', '{', '}']);
    let marks = &typed[leaf.len()..];
    let shape = match (marks.contains("[]"), marks.contains("{}")) {
        (true, _) => Shape::List,
        (_, true) => Shape::Map,
        (false, false) => Shape::One,
    };
    let name = if name == "-" { "" } else { name };
    Some((number, Field { name, leaf, pointer: marks.contains('*'), shape }))
}

/// Reads a body: the envelope with kind and version, and the object in it.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    envelope(body).map_err(|wrong| match wrong {
        Wrong::Kind(_) => ApiError::unsupported_media_type(&["application/json", "application/yaml"]),
        wrong => ApiError::bad_request(format!("the protobuf body cannot be read: {wrong}")),
    })
}

fn envelope(body: &[u8]) -> Result<Value, Wrong> {
    let mut reader = Reader::new(body.strip_prefix(MAGIC).ok_or(Wrong::Magic)?);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, scalar)) = reader.next()? {
        match number {
            1 => {
                let mut meta = Reader::new(scalar.bytes()?);
                while let Some((number, scalar)) = meta.next()? {
                    match number {
                        1 => api_version = scalar.text()?.to_owned(),
                        2 => kind = scalar.text()?.to_owned(),
                        _ => {}
                    }
                }
            }
            2 => raw = scalar.bytes()?,
            _ => {}
        }
    }
    let mut object = message(&message_name(&api_version, &kind), raw, 0)?;
    object.insert("apiVersion".into(), json!(api_version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object))
}

/// The table's name of a kind: the first label of its group, or `core`. Delete options come under the name of any group.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.v1.DeleteOptions".into();
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("core", api_version));
    format!("{}.{version}.{kind}", group.split('.').next().unwrap_or(group))
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, Wrong> {
    if depth > DEPTH_MAX {
        return Err(Wrong::Depth);
    }
    let fields = messages().get(name).ok_or_else(|| Wrong::Kind(name.to_owned()))?;
    let mut object = Map::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, scalar)) = reader.next()? {
        // What this release does not know yet is dropped, as an unknown field of JSON is.
        let Some(field) = fields.get(&number) else { continue };
        match field.shape {
            Shape::Map => entry(field, scalar.bytes()?, &mut object, depth)?,
            Shape::List => {
                let value = leaf(field.leaf, &scalar, depth)?;
                let list = object.entry(field.name).or_insert_with(|| json!([]));
                list.as_array_mut().expect("because it was made a list").push(value);
            }
            Shape::One if field.name.is_empty() => object.extend(message(field.leaf, scalar.bytes()?, depth + 1)?),
            Shape::One => {
                let value = leaf(field.leaf, &scalar, depth)?;
                if field.pointer || !is_zero(&value) {
                    object.insert(field.name.into(), value);
                }
            }
        }
    }
    Ok(object)
}

fn entry(field: &Field, bytes: &[u8], object: &mut Map<String, Value>, depth: usize) -> Result<(), Wrong> {
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, scalar)) = reader.next()? {
        match number {
            1 => key = scalar.text()?.to_owned(),
            2 => value = Some(leaf(field.leaf, &scalar, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => leaf(field.leaf, &Scalar::Bytes(&[]), depth)?,
    };
    let map = object.entry(field.name).or_insert_with(|| json!({}));
    map.as_object_mut().expect("because it was made a map").insert(key, value);
    Ok(())
}

/// The zero of a Go type that is no pointer: JSON leaves it out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn leaf(kind: &str, scalar: &Scalar<'_>, depth: usize) -> Result<Value, Wrong> {
    Ok(match kind {
        "s" => json!(scalar.text()?),
        "i" => json!(scalar.integer()?),
        "b" => json!(scalar.integer()? != 0),
        "d" => json!(scalar.double()?),
        "y" => json!(STANDARD.encode(scalar.bytes()?)),
        "T" => time(scalar.bytes()?, false)?,
        "M" => time(scalar.bytes()?, true)?,
        "Q" => json!(only_text(scalar.bytes()?)?),
        "I" => integer_or_text(scalar.bytes()?)?,
        "R" | "F" => raw(scalar.bytes()?)?,
        "L" => texts(scalar.bytes()?)?,
        name => Value::Object(message(name, scalar.bytes()?, depth + 1)?),
    })
}

/// Seconds and nanoseconds since 1970; Go's zero time is no time.
fn time(bytes: &[u8], fractions: bool) -> Result<Value, Wrong> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, scalar)) = reader.next()? {
        match number {
            1 => seconds = Some(scalar.integer()?),
            2 => nanos = i32::try_from(scalar.integer()?).unwrap_or(0),
            _ => {}
        }
    }
    let at = seconds.and_then(|seconds| jiff::Timestamp::new(seconds, nanos).ok());
    Ok(at.map_or(Value::Null, |at| {
        use controlplane_types::object;
        json!(if fractions { object::micro_time(at) } else { object::time(at) })
    }))
}

/// The text in field 1: how quantities travel.
fn only_text(bytes: &[u8]) -> Result<String, Wrong> {
    let mut text = String::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, scalar)) = reader.next()? {
        if number == 1 {
            text = scalar.text()?.to_owned();
        }
    }
    Ok(text)
}

/// Field 1 says which: 0 the number in 2, 1 the text in 3.
fn integer_or_text(bytes: &[u8]) -> Result<Value, Wrong> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((at, scalar)) = reader.next()? {
        match at {
            1 => is_text = scalar.integer()? != 0,
            2 => number = scalar.integer()?,
            3 => text = scalar.text()?,
            _ => {}
        }
    }
    Ok(if is_text { json!(text) } else { json!(number) })
}

/// JSON text in field 1.
fn raw(bytes: &[u8]) -> Result<Value, Wrong> {
    let mut reader = Reader::new(bytes);
    while let Some((number, scalar)) = reader.next()? {
        if number == 1 && !scalar.bytes()?.is_empty() {
            return serde_json::from_slice(scalar.bytes()?).map_err(|_| Wrong::Raw);
        }
    }
    Ok(Value::Null)
}

/// Texts in field 1.
fn texts(bytes: &[u8]) -> Result<Value, Wrong> {
    let mut list = vec![];
    let mut reader = Reader::new(bytes);
    while let Some((number, scalar)) = reader.next()? {
        if number == 1 {
            list.push(json!(scalar.text()?));
        }
    }
    Ok(Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_can_be_read_and_every_message_it_names_exists() {
        for line in TABLE.lines().filter(|line| !line.starts_with(['#', '='])) {
            let (_, field) = field(line).unwrap_or_else(|| panic!("not a field: {line}"));
            let known = field.leaf.len() == 1 || messages().contains_key(field.leaf) || !field.leaf.contains('.');
            assert!(known, "{line}");
        }
    }

    /// Sent by kubectl 1.32 for `kubectl create deployment x --image=y`.
    #[test]
    fn a_deployment_as_kubectl_sends_it_has_only_what_was_said() {
        let body = b"k8s\0\n\x15\n\x07apps/v1\x12\nDeployment\x12\x9b\x01\n\x1b\n\x01x\x12\0\x1a\0\"\0*\x002\08\0B\0Z\x08\n\x03app\x12\x01x\
            \x12n\x08\x01\x12\n\n\x08\n\x03app\x12\x01x\x1aV\n\x1a\n\0\x12\0\x1a\0\"\0*\x002\08\0B\0Z\x08\n\x03app\x12\x01x\
            \x128\x12\x1a\n\x01y\x12\x01y*\0B\0j\0r\0\x80\x01\0\x88\x01\0\x90\x01\0\xa2\x01\0\x1a\x002\0B\0J\0R\0X\0`\0h\0\x82\x01\0\x8a\x01\0\x9a\x01\0\xc2\x01\0\
            \"\x02\n\0(\08\0\x1a\x0c\x08\0\x10\0\x18\0 \0(\08\0\x1a\0\"\0";
        let expected = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "labels": {"app": "x"}},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "y", "image": "y"}]}},
            },
        });
        assert_eq!(decode(body), Ok(expected));
    }

    #[test]
    fn broken_bodies_are_refused_and_never_panic() {
        let good = b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x13\n\x11\n\x01x\x12\0\x1a\0\"\0*\x002\08\0B\0\x1a\0\"\0";
        assert!(decode(good).is_ok());
        for end in 0..good.len() {
            // Any outcome but a panic; most prefixes end in the middle of a field.
            let _outcome = decode(&good[..end]);
        }
        assert_eq!(decode(b"{}").map_err(|e| e.code()), Err(400));
        let unknown = b"k8s\0\n\x0b\n\x02v1\x12\x05Thing\x12\0";
        assert_eq!(decode(unknown).map_err(|e| e.code()), Err(415));
    }
}
