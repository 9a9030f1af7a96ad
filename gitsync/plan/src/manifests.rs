//! `apps/**` -> objects, judged by the schemas and rules of the kinds that this release serves.

use crate::foreign;
use crate::object::{DesiredObject, ObjectKey, Origin};
use crate::yaml::{self, Document, Place};
use controlplane_types::decode::{self, FieldValidation, Parsed};
use controlplane_types::{KindInfo, Registry, Scope, validate};
use gitsync_verify::{Files, Mistake};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Items of one List; a file has at most as many documents.
const MAX_LIST_ITEMS: usize = 1_000;

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads every manifest below `apps/`; other files there are notes for people.
pub(crate) fn read(files: &Files, mistakes: &mut Vec<Mistake>) -> Vec<DesiredObject> {
    let registry = Registry::builtin();
    let mut objects = Vec::new();
    for (path, bytes) in files.under("apps/") {
        if let Some(expected) = foreign::by_name(path) {
            let documents = std::str::from_utf8(bytes).ok().and_then(|text| yaml::read(path, text).ok());
            mistakes.extend(foreign::mistakes(path, &documents.unwrap_or_default(), expected));
            continue;
        }
        if ![".yaml", ".yml", ".json"].iter().any(|end| path.ends_with(end)) {
            continue;
        }
        let mut file = File { path, registry: &registry, mistakes, objects: &mut objects };
        match std::str::from_utf8(bytes) {
            Ok(text) => match yaml::read(path, text) {
                Ok(documents) => documents.iter().for_each(|document| file.document(document)),
                Err(mistake) => file.mistakes.push(mistake),
            },
            Err(_) => file.mistake(Place { line: 1, column: 1 }, "not UTF-8 text", "YAML"),
        }
    }
    refuse_repeats(&objects, mistakes);
    objects
}

/// One object has one file; otherwise the order of files would decide.
fn refuse_repeats(objects: &[DesiredObject], mistakes: &mut Vec<Mistake>) {
    let mut first: BTreeMap<&ObjectKey, &Origin> = BTreeMap::new();
    for DesiredObject { key, origin, .. } in objects {
        if let Some(before) = first.get(key) {
            mistakes.push(Mistake {
                path: origin.path.clone(),
                line: origin.line,
                column: 1,
                message: format!("{key} is already defined at {}:{}", before.path, before.line),
                expected: "one definition".to_owned(),
            });
        } else {
            first.insert(key, origin);
        }
    }
}

struct File<'a> {
    path: &'a str,
    registry: &'a Registry,
    mistakes: &'a mut Vec<Mistake>,
    objects: &'a mut Vec<DesiredObject>,
}

impl File<'_> {
    fn mistake(&mut self, place: Place, message: impl Into<String>, expected: &str) {
        let Place { line, column } = place;
        let (path, expected) = (self.path.to_owned(), expected.to_owned());
        self.mistakes.push(Mistake { path, line, column, message: message.into(), expected });
    }

    fn document(&mut self, document: &Document) {
        let value = &document.value;
        if let Some(expected) = foreign::by_kind(document) {
            self.mistakes.extend(foreign::mistakes(self.path, std::slice::from_ref(document), expected));
            return;
        }
        if value["kind"] == "List" && value["apiVersion"] == "v1" {
            return self.list(document);
        }
        if let Some((kind, manifest)) = self.object(document) {
            self.check(&kind, document, &manifest);
            let line = document.place("").line;
            let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_owned();
            let key = ObjectKey {
                group: kind.group.clone(),
                kind: kind.kind.clone(),
                namespace: text("namespace"),
                name: text("name"),
            };
            let (version, plural) = (kind.version.clone(), kind.plural.clone());
            let origin = Origin { path: self.path.to_owned(), line };
            self.objects.push(DesiredObject { key, version, plural, origin, manifest });
        }
    }

    fn list(&mut self, document: &Document) {
        let items = document.value["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.len() > MAX_LIST_ITEMS {
            self.mistake(document.place("items"), format!("more than {MAX_LIST_ITEMS} items"), "several files");
            return;
        }
        for (index, item) in items.iter().enumerate() {
            self.document(&document.part(&format!("items[{index}]"), item.clone()));
        }
    }

    /// What every object needs: a kind that is served, a name, a namespace that fits its scope.
    fn object(&mut self, document: &Document) -> Option<(std::sync::Arc<KindInfo>, Value)> {
        let mut manifest = document.value.clone();
        if !manifest.is_object() {
            self.mistake(document.place(""), "this is not an object", "apiVersion, kind and metadata");
            return None;
        }
        let word = |field: &str| document.value[field].as_str().filter(|text| !text.is_empty());
        let (version, kind) = (word("apiVersion"), word("kind"));
        for (field, value, example) in [("apiVersion", version, "apps/v1"), ("kind", kind, "Deployment")] {
            if value.is_none() {
                self.mistake(
                    document.place(field),
                    format!("{field} is missing or not text"),
                    &format!("{field}: {example}"),
                );
            }
        }
        let metadata = document.value["metadata"].as_object();
        let name = metadata.and_then(|metadata| metadata.get("name")).and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            self.mistake(document.place("metadata.name"), "metadata.name is missing or not text", "a name");
        }
        for generated in ["generateName", "uid", "resourceVersion", "managedFields", "ownerReferences"] {
            if metadata.is_some_and(|metadata| metadata.contains_key(generated)) {
                let field = format!("metadata.{generated}");
                self.mistake(document.place(&field), format!("{field} is not for manifests"), "a manifest without it");
            }
        }
        let (version, kind) = (version?, kind?);
        let Some(info) = self.registry.kind(version, kind) else {
            let others = self.registry.kinds().iter().filter(|info| info.kind == kind).map(|info| info.api_version());
            let others: Vec<_> = others.collect();
            let expected =
                if others.is_empty() { "a kind that this release serves".to_owned() } else { others.join(" or ") };
            self.mistake(document.place("kind"), format!("there is no {kind} in {version}"), &expected);
            return None;
        };
        if name.is_empty() || !self.namespace(info, document, &mut manifest) {
            return None;
        }
        Some((std::sync::Arc::clone(info), manifest))
    }

    /// Fills in the namespace, or notes that the kind has none.
    fn namespace(&mut self, info: &KindInfo, document: &Document, manifest: &mut Value) -> bool {
        let named = &document.value["metadata"]["namespace"];
        match (info.scope, named) {
            (Scope::Namespaced, Value::Null) => manifest["metadata"]["namespace"] = json!(DEFAULT_NAMESPACE),
            (Scope::Namespaced, Value::String(name)) => {
                // It becomes a part of URLs, and is compared with what a rule reaches.
                if let Some(why) = validate::names::label(name).first() {
                    let message = format!("metadata.namespace {name:?} is no name: {why}");
                    self.mistake(document.place("metadata.namespace"), message, "a DNS label");
                    return false;
                }
            }
            (Scope::Cluster, Value::Null) => {}
            (Scope::Cluster, _) => {
                let message = format!("{} lives in no namespace", info.kind);
                self.mistake(document.place("metadata.namespace"), message, "no namespace");
                return false;
            }
            (Scope::Namespaced, _) => {
                self.mistake(document.place("metadata.namespace"), "metadata.namespace is not text", "a name");
                return false;
            }
        }
        true
    }

    /// The kind's own schema and rules, as the API server will apply them.
    fn check(&mut self, info: &KindInfo, document: &Document, manifest: &Value) {
        if info.writer.is_some() {
            self.mistake(
                document.place("kind"),
                format!("{} objects are written by Cairn itself", info.kind),
                "another kind",
            );
            return;
        }
        let parsed = Parsed { value: manifest.clone(), duplicates: Vec::new() };
        let mut object = match decode::check(info, parsed, FieldValidation::Warn) {
            Ok(decoded) => {
                for warning in &decoded.warnings {
                    self.mistake(document.place_in(warning), warning.clone(), "a field of this kind");
                }
                decoded.object
            }
            Err(error) => return self.mistake(document.place_in(&error.message), error.message.clone(), ""),
        };
        (info.strategy.default)(&mut object);
        for error in validate::metadata(info, &object).into_iter().chain((info.strategy.validate)(&object)) {
            self.mistake(document.place(&error.field), error.to_string(), "");
        }
    }
}
