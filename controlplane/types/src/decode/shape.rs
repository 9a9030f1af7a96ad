//! Makes a value conform to a schema: types checked, unknown fields and nulls removed.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::schema::{Schema, Shape};

/// Unknown fields that are reported by name.
const UNKNOWN_LIMIT: usize = 20;

/// Checks types, removes unknown fields (their paths go to `unknown`) and fields that are null.
///
/// # Errors
/// A text in the manner of Go's JSON decoder, when a value has the wrong type.
pub(super) fn conform(schema: &Schema, value: &mut Value, unknown: &mut Vec<String>) -> Result<(), String> {
    Walk { unknown, path: Vec::new() }.value(schema, value)
}

pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

struct Walk<'a> {
    unknown: &'a mut Vec<String>,
    path: Vec<String>,
}

impl Walk<'_> {
    fn value(&mut self, schema: &Schema, value: &mut Value) -> Result<(), String> {
        match (&schema.shape, &mut *value) {
            (Shape::Any, _) => Ok(()),
            (Shape::Object(_), Value::Object(map)) => self.object(schema, map),
            (Shape::Map(values), Value::Object(map)) => {
                for (key, value) in map.iter_mut() {
                    self.path.push(format!(".{key}"));
                    if value.is_null() {
                        *value = zero(values);
                    }
                    self.value(values, value)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Shape::List(items), Value::Array(list)) => {
                for (index, value) in list.iter_mut().enumerate() {
                    self.path.push(format!("[{index}]"));
                    if value.is_null() {
                        *value = zero(items);
                    }
                    self.value(items, value)?;
                    self.path.pop();
                }
                Ok(())
            }
            (_, scalar) => self.scalar(&schema.shape, scalar),
        }
    }

    fn object(&mut self, schema: &Schema, map: &mut serde_json::Map<String, Value>) -> Result<(), String> {
        let strange: Vec<String> = map.keys().filter(|key| schema.field(key).is_none()).cloned().collect();
        for key in strange {
            map.remove(&key);
            if self.unknown.len() < UNKNOWN_LIMIT {
                self.path.push(format!(".{key}"));
                self.unknown.push(self.shown());
                self.path.pop();
            }
        }
        map.retain(|_, value| !value.is_null());
        for (key, value) in map.iter_mut() {
            let Some(field) = schema.field(key) else { continue };
            self.path.push(format!(".{key}"));
            self.value(&field.schema, value)?;
            self.path.pop();
        }
        Ok(())
    }

    fn scalar(&self, shape: &Shape, value: &mut Value) -> Result<(), String> {
        match (shape, &*value) {
            (Shape::Text, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) | (Shape::Number, Value::Number(_)) => {
                Ok(())
            }
            (Shape::Int32, Value::Number(number)) => match whole(number) {
                Some(whole) if i32::try_from(whole).is_ok() => {
                    *value = whole.into();
                    Ok(())
                }
                Some(_) | None => Err(self.cannot(&format!("number {number}"), "int32")),
            },
            (Shape::Int64, Value::Number(number)) => match whole(number) {
                Some(whole) => {
                    *value = whole.into();
                    Ok(())
                }
                None => Err(self.cannot(&format!("number {number}"), "int64")),
            },
            (Shape::IntOrString, Value::String(_)) => Ok(()),
            (Shape::IntOrString, Value::Number(number)) if whole(number).is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(())
            }
            (Shape::Quantity, Value::String(_) | Value::Number(_)) => self.quantity(value),
            (Shape::Bytes, Value::String(text)) => self.bytes(text),
            (Shape::Time(_), Value::String(text)) => self.time(text),
            (shape, value) => Err(self.cannot(type_name(value), go_type(shape))),
        }
    }

    fn quantity(&self, value: &mut Value) -> Result<(), String> {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        let parsed: Quantity = text.parse().map_err(|error| format!("{error} (at {})", self.shown()))?;
        *value = parsed.to_string().into();
        Ok(())
    }

    fn bytes(&self, text: &str) -> Result<(), String> {
        use base64::Engine as _;
        let decoded = base64::engine::general_purpose::STANDARD.decode(text.replace(['\n', '\r'], ""));
        decoded.map(drop).map_err(|error| format!("illegal base64 data at {}: {error}", self.shown()))
    }

    fn time(&self, text: &str) -> Result<(), String> {
        let parsed: Result<jiff::Timestamp, _> = text.parse();
        parsed.map(drop).map_err(|_| {
            format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse it (at {})", self.shown())
        })
    }

    fn cannot(&self, what: &str, into: &str) -> String {
        format!("json: cannot unmarshal {what} into Go struct field {} of type {into}", self.shown())
    }

    fn shown(&self) -> String {
        self.path.concat().trim_start_matches('.').to_string()
    }
}

fn whole(number: &serde_json::Number) -> Option<i64> {
    // Go reads 1.0 as no integer, but YAML converters and JavaScript clients write it for 1.
    let exact = |float: f64| (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64);
    number.as_i64().or_else(|| number.as_f64().and_then(exact))
}

fn zero(schema: &Schema) -> Value {
    match &schema.shape {
        Shape::Object(_) | Shape::Map(_) => Value::Object(serde_json::Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Text | Shape::Bytes => "".into(),
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::Boolean => false.into(),
        Shape::Time(_) | Shape::Any => Value::Null,
    }
}

fn go_type(shape: &Shape) -> &'static str {
    match shape {
        Shape::Object(_) => "object",
        Shape::Map(_) => "map",
        Shape::List(_) => "list",
        Shape::Text | Shape::Bytes => "string",
        Shape::Time(_) => "Time",
        Shape::Int32 => "int32",
        Shape::Int64 => "int64",
        Shape::Number => "float64",
        Shape::Boolean => "bool",
        Shape::IntOrString => "IntOrString",
        Shape::Quantity => "Quantity",
        Shape::Any => "any",
    }
}
