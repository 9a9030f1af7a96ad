//! Files of tools that this release does not run, found below `apps/`: said clearly, before their YAML is half understood.
//!
//! Rendering would read other files, or the network, or the cluster; nothing here does. Whoever uses such a tool runs it in CI and
//! commits what it makes, and reviewers then see what they approve.

use crate::yaml::Document;
use gitsync_verify::Mistake;
use serde_json::Value;

/// Names of a file that kustomize reads as the root of a folder.
const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Fields of a kustomization that name other files or places.
const REFERENCES: [&str; 12] = [
    "resources",
    "bases",
    "components",
    "crds",
    "generators",
    "transformers",
    "validators",
    "configurations",
    "patches",
    "patchesStrategicMerge",
    "patchesJson6902",
    "helmCharts",
];

/// Whether a file belongs to a tool, going by its name: what to say of it.
pub(crate) fn by_name(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name {
        _ if KUSTOMIZATIONS.contains(&name) => Some(KUSTOMIZE),
        "Chart.yaml" | "Chart.yml" => Some(HELM),
        _ => None,
    }
}

/// What to do instead of kustomize.
const KUSTOMIZE: &str = "plain manifests: run `kustomize build` in CI and commit what it writes";

/// What to do instead of helm.
const HELM: &str = "plain manifests: run `helm template` in CI and commit what it writes";

/// Whether a document is a tool's, going by what it says it is.
pub(crate) fn by_kind(document: &Document) -> Option<&'static str> {
    let version = document.value["apiVersion"].as_str().unwrap_or_default();
    let group = version.split('/').next().unwrap_or_default();
    match group {
        "kustomize.config.k8s.io" | "kustomize.toolkit.fluxcd.io" => Some(KUSTOMIZE),
        "helm.toolkit.fluxcd.io" | "helm.cattle.io" => Some(HELM),
        _ => None,
    }
}

/// The mistakes of a tool's file: that it is one, and each place outside its folder that it names.
pub(crate) fn mistakes(path: &str, documents: &[Document], expected: &str) -> Vec<Mistake> {
    let at = |document: Option<&Document>, field: &str, message: String| {
        let (line, column) = document.map_or((1, 1), |document| {
            let place = document.place(field);
            (place.line, place.column)
        });
        Mistake { path: path.to_owned(), line, column, message, expected: expected.to_owned() }
    };
    let tool = if expected == KUSTOMIZE { "kustomize" } else { "helm" };
    let mut found = vec![at(documents.first(), "", format!("this release does not run {tool}"))];
    for document in documents {
        for list in REFERENCES {
            let items = document.value[list].as_array().map(Vec::as_slice).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                let field = format!("{list}[{index}]");
                if let Some(message) = named_places(item).find_map(outside) {
                    found.push(at(Some(document), &field, message));
                }
            }
        }
    }
    found
}

/// The texts of an entry that may name a place: the entry itself, or fields of it.
fn named_places(item: &Value) -> impl Iterator<Item = &str> {
    ["path", "repo", "valuesFile"].into_iter().filter_map(|field| item[field].as_str()).chain(item.as_str())
}

/// Why a place is out of the question whatever tool is run: it is not in the commit that people approved.
fn outside(place: &str) -> Option<String> {
    let shown: String = place.chars().take(100).filter(|c| !c.is_control()).collect();
    let host = place.split('/').next().unwrap_or_default();
    let remote = place.contains("://")
        || place.contains("?ref=")
        || place.contains("::")
        || host.contains('@')
        || (place.contains('/') && is_domain(host));
    if remote {
        return Some(format!("{shown:?} is a remote base, which nobody approved with this commit"));
    }
    let leads_out = place.starts_with('/') || place.split('/').any(|part| part == "..");
    leads_out.then(|| format!("{shown:?} leads out of its folder"))
}

/// Whether a first folder is more likely a host: `github.com`, not `v1.2` or `..`.
fn is_domain(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    text.contains('.') && !text.starts_with('.') && last.len() >= 2 && last.bytes().all(|b| b.is_ascii_alphabetic())
}
