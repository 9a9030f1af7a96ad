//! Tables (`meta.k8s.io/v1 Table`): what `kubectl get` prints, made on the server.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::duration;
use crate::kind::KindInfo;
use crate::object::{self, Object};

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Title.
    pub name: &'static str,
    /// `string`, `integer` ...
    pub kind: &'static str,
    /// `name` for the column that names the object, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: u8,
    /// What the column says, for `kubectl explain`-like readers.
    pub description: &'static str,
}

/// How a kind is printed.
#[derive(Clone, Copy)]
pub struct Printer {
    /// The columns.
    pub columns: &'static [Column],
    /// The cells of an object, one for each column.
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
}

/// Whether rows carry the object they are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// Prints name and age.
pub const PLAIN: Printer =
    Printer { columns: &[NAME, AGE], row: |object, now| vec![json!(object.name()), age(object, now)] };

/// The first column of all tables.
pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: "Name must be unique within a namespace.",
};

/// Time since creation.
pub const AGE: Column = column("Age", "Time since the object was created.");

/// Makes an ordinary text column.
pub const fn column(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0, description }
}

impl Column {
    /// Makes the column hold numbers.
    #[must_use]
    pub const fn number(mut self) -> Column {
        self.kind = "integer";
        self
    }

    /// Shows the column only with `-o wide`.
    #[must_use]
    pub const fn wide(mut self) -> Column {
        self.priority = 1;
        self
    }
}

/// Returns the cell with the time since creation.
pub fn age(object: &Value, now: Timestamp) -> Value {
    age_at(object, &["metadata", "creationTimestamp"], now)
}

/// Returns the cell with the time since what the path says, `<unknown>` without it.
pub fn age_at(object: &Value, path: &[&str], now: Timestamp) -> Value {
    json!(object::time_at(object, path).map_or_else(|| "<unknown>".to_string(), |then| duration::since(then, now)))
}

/// Makes the table of a single object.
pub fn of_object(kind: &KindInfo, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let metadata = json!({"resourceVersion": object.resource_version()});
    table(kind, std::slice::from_ref(object), metadata, include, now)
}

/// Makes the table of a list object.
pub fn of_list(kind: &KindInfo, list: &Value, include: IncludeObject, now: Timestamp) -> Value {
    table(kind, object::list(list, &["items"]), list["metadata"].clone(), include, now)
}

/// Makes the table of a watch event after the first: rows without column definitions.
pub fn without_columns(mut table: Value) -> Value {
    table["columnDefinitions"] = Value::Null;
    table
}

fn table(kind: &KindInfo, items: &[Value], metadata: Value, include: IncludeObject, now: Timestamp) -> Value {
    let printer = kind.strategy.printer;
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let mut row = json!({"cells": (printer.row)(item, now)});
            row["object"] = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => object::partial_metadata(item),
                IncludeObject::Object => item.clone(),
            };
            row
        })
        .collect();
    let columns: Vec<Value> = printer
        .columns
        .iter()
        .map(|one| {
            json!({
                "name": one.name, "type": one.kind, "format": one.format, "description": one.description,
                "priority": one.priority,
            })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows,
    })
}
