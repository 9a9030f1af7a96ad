//! The `paths` of a document: what can be done with a kind and its subresources, with parameters.

use serde_json::{Map, Value, json};

use super::schemas::{self, DELETE_OPTIONS, PATCH, STATUS};
use crate::kind::{KindInfo, Subresource};
use crate::patch::PatchType;

/// Parameters in the query: name, type, what it does.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter = ("dryRun", "string", "\"All\" goes through every step of the request but the write.");
const MANAGER: Parameter = ("fieldManager", "string", "Name of the actor that makes the change.");
const VALIDATION: Parameter =
    ("fieldValidation", "string", "\"Ignore\", \"Warn\" or \"Strict\": what happens to unknown and duplicate fields.");
const FORCE: Parameter = ("force", "boolean", "Takes fields from other managers; for apply patches only.");
const PRETTY: Parameter = ("pretty", "string", "\"true\" indents the output.");
const LABELS: Parameter = ("labelSelector", "string", "Restricts the objects by their labels.");
const FIELDS: Parameter = ("fieldSelector", "string", "Restricts the objects by their fields.");
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Asks for events of type BOOKMARK."),
    ("continue", "string", "Token of the page before."),
    FIELDS,
    LABELS,
    ("limit", "integer", "Objects in one page."),
    PRETTY,
    ("resourceVersion", "string", "Which state of the cluster is wanted."),
    ("resourceVersionMatch", "string", "\"Exact\" or \"NotOlderThan\"."),
    ("sendInitialEvents", "boolean", "Begins a watch with the objects that are there."),
    ("timeoutSeconds", "integer", "Ends the request after so many seconds."),
    ("watch", "boolean", "Sends changes instead of a list."),
];
const WRITE: &[Parameter] = &[DRY_RUN, MANAGER, VALIDATION, PRETTY];
const APPLY: &[Parameter] = &[DRY_RUN, MANAGER, VALIDATION, FORCE, PRETTY];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds that the object has to end."),
    ("orphanDependents", "boolean", "Older form of propagationPolicy."),
    ("propagationPolicy", "string", "\"Orphan\", \"Background\" or \"Foreground\"."),
    PRETTY,
];

/// Adds all paths of a kind.
pub(super) fn add(kind: &KindInfo, paths: &mut Map<String, Value>) {
    let root = match kind.group.as_str() {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let all = format!("{root}/{}", kind.plural);
    let collection = match kind.namespaced() {
        true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
        false => all.clone(),
    };
    let one = format!("{collection}/{{name}}");
    if kind.namespaced() {
        let list = operation(kind, "list", LIST, None, &schemas::list_name(kind));
        paths.insert(all, json!({"get": list}));
    }
    let own = kind.schema.name.as_str();
    let mut item = scope(kind, false);
    for (method, verb, parameters, body, answer) in [
        ("get", "list", LIST, None, schemas::list_name(kind)),
        ("post", "create", WRITE, Some(own), own.to_string()),
        ("delete", "deletecollection", DELETE, Some(DELETE_OPTIONS), STATUS.to_string()),
    ] {
        if kind.serves(verb) {
            item[method] = operation(kind, verb, parameters, body, &answer);
        }
    }
    paths.insert(collection, item);
    paths.insert(one.clone(), object(kind, own, &["get", "update", "patch", "delete"]));
    for subresource in &kind.subresources {
        paths.insert(format!("{one}/{}", subresource.as_str()), below(kind, *subresource));
    }
}

fn below(kind: &KindInfo, subresource: Subresource) -> Value {
    let body = subresource.body_kind().and_then(|(group, _, kind)| schemas::of_body(group, kind));
    let mut item = object(kind, body.unwrap_or(&kind.schema.name), subresource.verbs());
    // Operations belong to the kind that is sent there.
    if let (Some((group, version, name)), Some(methods)) = (subresource.body_kind(), item.as_object_mut()) {
        for operation in methods.values_mut().filter(|operation| operation.is_object()) {
            operation["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": name});
        }
    }
    item
}

fn object(kind: &KindInfo, schema: &str, verbs: &[&str]) -> Value {
    let mut item = scope(kind, true);
    for verb in verbs {
        let (method, parameters, body, answer) = match *verb {
            "get" => ("get", &[PRETTY][..], None, schema),
            "create" => ("post", WRITE, Some(schema), schema),
            "update" => ("put", WRITE, Some(schema), schema),
            "patch" => ("patch", APPLY, Some(PATCH), schema),
            "delete" => ("delete", DELETE, Some(DELETE_OPTIONS), STATUS),
            _ => continue,
        };
        item[method] = operation(kind, verb, parameters, body, answer);
    }
    item
}

/// The parameters in the path.
fn scope(kind: &KindInfo, named: bool) -> Value {
    let parameter = |name: &str, description: &str| {
        let schema = json!({"type": "string", "uniqueItems": true});
        json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
    };
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name", &format!("name of the {}", kind.kind)));
    }
    if kind.namespaced() {
        parameters.push(parameter("namespace", "namespace of the object"));
    }
    json!({"parameters": parameters})
}

fn operation(kind: &KindInfo, verb: &str, parameters: &[Parameter], body: Option<&str>, answer: &str) -> Value {
    let query: Vec<Value> = parameters
        .iter()
        .map(|(name, kind, description)| {
            let schema = json!({"type": kind, "uniqueItems": true});
            json!({"name": name, "in": "query", "description": description, "schema": schema})
        })
        .collect();
    let action = if verb == "update" {
        "put"
    } else if verb == "create" {
        "post"
    } else {
        verb
    };
    let content = json!({"application/json": {"schema": schemas::reference(answer)}});
    let code = if verb == "create" { "201" } else { "200" };
    let mut operation = json!({
        "description": format!("{verb} {}", kind.plural),
        "tags": [if kind.group.is_empty() { format!("core_{}", kind.version) } else { format!("{}_{}", kind.group, kind.version) }],
        "parameters": query,
        "responses": {code: {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    });
    if let Some(body) = body {
        let schema = json!({"schema": schemas::reference(body)});
        let content: Map<String, Value> = match verb {
            "patch" => PatchType::MEDIA_TYPES.iter().map(|media| (media.to_string(), schema.clone())).collect(),
            _ => Map::from_iter([("application/json".to_string(), schema)]),
        };
        operation["requestBody"] =
            json!({"content": content, "required": !matches!(verb, "delete" | "deletecollection")});
    }
    operation
}
