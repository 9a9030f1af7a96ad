//! Events, in both of their versions (core and `events.k8s.io`), which differ in the names of fields only.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::PLAIN;
use crate::duration;
use crate::field_error::FieldError;
use crate::kind::Strategy;
use crate::object::{self, Object, number, text};
use crate::table::{Column, NAME, Printer, column};

/// `events.k8s.io/v1`.
pub static EVENT: Strategy = Strategy { selectable: |event| fields(event, &NEW_NAMES), ..CORE };

/// Core events.
pub static CORE_EVENT: Strategy = CORE;

const CORE: Strategy = Strategy {
    validate,
    create_on_update: true,
    selectable: |event| fields(event, &CORE_NAMES),
    printer: Printer { columns: COLUMNS, row },
    ..PLAIN
};

/// Names of selectable fields: those of the object, then reason, reporting component, source, type.
const CORE_NAMES: [&str; 7] = [
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
];
const NEW_NAMES: [&str; 7] = [
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
];

/// Reads a field under whichever of its two names the object has it.
fn either<'a>(event: &'a Value, one: &[&str], other: &[&str]) -> &'a str {
    let first = text(event, one);
    if first.is_empty() { text(event, other) } else { first }
}

fn subject<'a>(event: &'a Value, key: &str) -> &'a str {
    either(event, &["involvedObject", key], &["regarding", key])
}

fn fields(event: &Value, names: &[&'static str; 7]) -> Vec<(&'static str, String)> {
    let keys = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];
    let mut all: Vec<(&'static str, String)> =
        names.iter().zip(keys).map(|(name, key)| (*name, subject(event, key).to_string())).collect();
    let component = either(event, &["reportingComponent"], &["reportingController"]);
    let source = either(event, &["source", "component"], &["deprecatedSource", "component"]);
    let source = if source.is_empty() { component } else { source };
    all.extend([
        ("reason", text(event, &["reason"]).to_string()),
        ("reportingComponent", component.to_string()),
        ("reportingController", component.to_string()),
        ("source", source.to_string()),
        ("type", text(event, &["type"]).to_string()),
    ]);
    all
}

fn validate(event: &Value) -> Vec<FieldError> {
    let namespace = subject(event, "namespace");
    let own = event.namespace();
    // Events about cluster-scoped objects live in the default namespace.
    let fits = namespace == own || (namespace.is_empty() && matches!(own, "default" | "kube-system"));
    if fits {
        return Vec::new();
    }
    vec![FieldError::invalid("involvedObject.namespace", &json!(namespace), "does not match event.namespace")]
}

const COLUMNS: &[Column] = &[
    column("Last Seen", "When it happened last."),
    column("Type", "Normal or Warning."),
    column("Reason", "Why it happened, in one word."),
    column("Object", "What it happened to."),
    column("Subobject", "Which part of it.").wide(),
    column("Source", "Who reports it.").wide(),
    column("Message", "What happened."),
    column("First Seen", "When it happened first.").wide(),
    column("Count", "How often it happened.").number().wide(),
    Column { priority: 1, ..NAME },
];

fn row(event: &Value, now: Timestamp) -> Vec<Value> {
    let time = |paths: [&[&str]; 3]| {
        let found = paths.iter().find_map(|path| object::time_at(event, path));
        found.map_or_else(|| "<unknown>".to_string(), |then| duration::since(then, now))
    };
    let first = time([&["firstTimestamp"], &["deprecatedFirstTimestamp"], &["eventTime"]]);
    let last = time([&["series", "lastObservedTime"], &["lastTimestamp"], &["deprecatedLastTimestamp"]]);
    let last = if last == "<unknown>" { first.clone() } else { last };
    let count = number(event, &["series", "count"])
        .or_else(|| number(event, &["count"]))
        .or_else(|| number(event, &["deprecatedCount"]));
    let kind = subject(event, "kind").to_lowercase();
    let object = if subject(event, "name").is_empty() { kind } else { format!("{kind}/{}", subject(event, "name")) };
    vec![
        json!(last),
        json!(text(event, &["type"])),
        json!(text(event, &["reason"])),
        json!(object),
        json!(subject(event, "fieldPath")),
        json!(source(event)),
        json!(either(event, &["message"], &["note"]).trim()),
        json!(first),
        json!(count.unwrap_or(1)),
        json!(event.name()),
    ]
}

fn source(event: &Value) -> String {
    let component = either(event, &["source", "component"], &["deprecatedSource", "component"]);
    let host = either(event, &["source", "host"], &["deprecatedSource", "host"]);
    if component.is_empty() {
        let reporter = either(event, &["reportingComponent"], &["reportingController"]);
        let instance = text(event, &["reportingInstance"]);
        return if instance.is_empty() { reporter.to_string() } else { format!("{reporter}, {instance}") };
    }
    if host.is_empty() { component.to_string() } else { format!("{component}, {host}") }
}
