//! ConfigMaps, Secrets, ServiceAccounts, PriorityClasses and ControllerRevisions: kinds that mostly hold data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::PLAIN;
use super::rules::{IMMUTABLE, all, immutable, not_negative, one_of};
use crate::field_error::FieldError;
use crate::kind::{Generation, NameRule, Strategy};
use crate::object::{self, Object, list, set_default, text};
use crate::table::{AGE, Column, NAME, Printer, age, column};
use crate::validate::names;

/// Bytes of data in a Secret or ConfigMap.
const DATA_LIMIT: usize = 1024 * 1024;

/// ConfigMaps.
pub static CONFIG_MAP: Strategy = Strategy {
    validate: |map| {
        let mut errors = keys(map, "data");
        errors.extend(keys(map, "binaryData"));
        let binary = object::map(map, &["binaryData"]);
        for key in object::map(map, &["data"]).into_iter().flatten().map(|(key, _)| key) {
            if binary.is_some_and(|binary| binary.contains_key(key)) {
                let why = "duplicate of key present in data";
                errors.push(FieldError::invalid(format!("binaryData[{key}]"), &json!(key), why));
            }
        }
        let size = |key: &str| object::map(map, &[key]).map_or(0, size_of);
        if size("data") + size("binaryData") * 3 / 4 > DATA_LIMIT {
            errors.push(FieldError::too_long("", DATA_LIMIT));
        }
        errors
    },
    validate_update: |new, old| frozen(new, old, &["data", "binaryData"]),
    printer: Printer {
        columns: CONFIG_COLUMNS,
        row: |map, now| {
            let count = |key: &str| object::map(map, &[key]).map_or(0, Map::len);
            vec![json!(map.name()), json!(count("data") + count("binaryData")), age(map, now)]
        },
    },
    ..PLAIN
};

const CONFIG_COLUMNS: &[Column] = &[NAME, column("Data", "Number of entries.").number(), AGE];

/// Secrets.
pub static SECRET: Strategy = Strategy {
    default: |secret| {
        if text(secret, &["type"]).is_empty() {
            object::set(secret, &[], "type", "Opaque");
        }
        // stringData is only for writing; it overrides data.
        if let Some(Value::Object(plain)) = object::remove(secret, &[], "stringData") {
            for (key, value) in plain {
                let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
                object::set(secret, &["data"], &key, encoded);
            }
        }
    },
    validate: secret_rules,
    validate_update: |new, old| {
        let mut errors = immutable(new, old, &["type"]);
        errors.extend(frozen(new, old, &["data"]));
        errors
    },
    selectable: |secret| vec![("type", text(secret, &["type"]).to_string())],
    printer: Printer {
        columns: SECRET_COLUMNS,
        row: |secret, now| {
            let count = object::map(secret, &["data"]).map_or(0, Map::len);
            vec![json!(secret.name()), json!(text(secret, &["type"])), json!(count), age(secret, now)]
        },
    },
    ..PLAIN
};

const SECRET_COLUMNS: &[Column] = &[
    NAME,
    column("Type", "Facilitates programmatic handling of secret data."),
    column("Data", "Number of entries.").number(),
    AGE,
];

fn secret_rules(secret: &Value) -> Vec<FieldError> {
    let mut errors = keys(secret, "data");
    let data = object::map(secret, &["data"]);
    if data.map_or(0, size_of) * 3 / 4 > DATA_LIMIT {
        errors.push(FieldError::too_long("data", DATA_LIMIT));
    }
    let required: &[&str] = match text(secret, &["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required.iter().filter(|key| data.is_none_or(|data| !data.contains_key(**key))) {
        errors.push(FieldError::required(format!("data[{key}]"), ""));
    }
    let has = |key: &str| data.is_some_and(|data| data.contains_key(key));
    if text(secret, &["type"]) == "kubernetes.io/basic-auth" && !has("username") && !has("password") {
        errors.push(FieldError::required("data[username]", ""));
        errors.push(FieldError::required("data[password]", ""));
    }
    errors
}

fn size_of(map: &Map<String, Value>) -> usize {
    map.values().filter_map(Value::as_str).map(str::len).sum()
}

fn keys(object: &Value, field: &str) -> Vec<FieldError> {
    let map = object::map(object, &[field]).into_iter().flatten();
    map.flat_map(|(key, _)| all(&format!("{field}[{key}]"), &json!(key), names::config_key(key))).collect()
}

/// What `immutable: true` means: it stays, and so does the data.
fn frozen(new: &Value, old: &Value, data: &[&str]) -> Vec<FieldError> {
    if old["immutable"] != true {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for key in data.iter().filter(|key| object::at(new, &[key]) != object::at(old, &[key])) {
        errors.push(FieldError::forbidden(*key, "field is immutable when `immutable` is set"));
    }
    errors
}

/// Service accounts.
pub static SERVICE_ACCOUNT: Strategy = Strategy {
    printer: Printer {
        columns: &[NAME, column("Secrets", "Number of secrets that pods of the account may use.").number(), AGE],
        row: |account, now| vec![json!(account.name()), json!(list(account, &["secrets"]).len()), age(account, now)],
    },
    ..PLAIN
};

/// Priority classes.
pub static PRIORITY_CLASS: Strategy = Strategy {
    default: |class| {
        set_default(class, &[], "preemptionPolicy", "PreemptLowerPriority");
        set_default(class, &[], "value", 0);
    },
    validate: |class| {
        let mut errors = one_of(class, &["preemptionPolicy"], "preemptionPolicy", &["Never", "PreemptLowerPriority"]);
        let value = object::number(class, &["value"]).unwrap_or(0);
        if value > 1_000_000_000 && !class.name().starts_with("system-") {
            let why = "maximum allowed value of a user defined priority is 1000000000";
            errors.push(FieldError::forbidden("value", why));
        }
        errors
    },
    validate_update: |new, old| {
        let mut errors = Vec::new();
        for key in ["value", "preemptionPolicy"] {
            if object::at(new, &[key]) != object::at(old, &[key]) {
                errors.push(FieldError::invalid(key, &new[key], IMMUTABLE));
            }
        }
        errors
    },
    generation: Generation::Spec,
    printer: Printer { columns: PRIORITY_COLUMNS, row: priority_row },
    ..PLAIN
};

const PRIORITY_COLUMNS: &[Column] = &[
    NAME,
    column("Value", "Value of the priority.").number(),
    column("Global-Default", "Whether pods without a class get this one.").number(),
    AGE,
    column("PreemptionPolicy", "Whether pods may take the place of others."),
];

fn priority_row(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(class.name()),
        json!(object::number(class, &["value"]).unwrap_or(0)),
        json!(class["globalDefault"] == true),
        age(class, now),
        json!(text(class, &["preemptionPolicy"])),
    ]
}

/// Controller revisions: data that never changes.
pub static CONTROLLER_REVISION: Strategy = Strategy {
    validate: |revision| not_negative(revision, &["revision"], "revision"),
    validate_update: |new, old| immutable(new, old, &["data"]),
    names: NameRule::Subdomain,
    printer: Printer {
        columns: &[
            NAME,
            column("Controller", "Controller of the object"),
            column("Revision", "Revision of the state represented by Data.").number(),
            AGE,
        ],
        row: |revision, now| {
            let owner = revision.controller().map_or_else(|| "<none>".to_string(), shown_owner);
            let number = object::number(revision, &["revision"]).unwrap_or(0);
            vec![json!(revision.name()), json!(owner), json!(number), age(revision, now)]
        },
    },
    ..PLAIN
};

/// Returns an owner as `kind.group/name`.
fn shown_owner(owner: &Value) -> String {
    let version = text(owner, &["apiVersion"]);
    let kind = text(owner, &["kind"]).to_lowercase();
    let name = text(owner, &["name"]);
    match version.split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}
