//! The pods that a manifest describes, whatever kind it is, and what they use of other objects.

use crate::object::{DesiredObject, ObjectKey};
use serde_json::Value;

/// Where a pod's specification stands: in a Pod, in what makes pods, and in what makes those. Kinds that are not served yet are
/// covered when they come.
const SPECS: [&str; 3] = ["/spec/template/spec", "/spec/jobTemplate/spec/template/spec", "/spec"];

/// Lists of containers in a pod.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// One pod's specification, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a> {
    pub(crate) spec: &'a Value,
    pub(crate) field: &'static str,
}

/// The pods of a manifest.
pub(crate) fn pods(object: &DesiredObject) -> impl Iterator<Item = Pod<'_>> {
    let pod = move |pointer: &&'static str| {
        let spec = object.manifest.pointer(pointer)?;
        spec.get("containers").is_some_and(Value::is_array).then_some(Pod { spec, field: pointer })
    };
    SPECS.iter().filter_map(pod)
}

impl<'a> Pod<'a> {
    /// Its containers with where they stand: `spec.initContainers[0]`.
    pub(crate) fn containers(self) -> impl Iterator<Item = (&'a Value, String)> {
        CONTAINERS.into_iter().flat_map(move |list| {
            let items = self.spec.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            items.iter().enumerate().map(move |(index, item)| (item, self.place(&format!("{list}[{index}]"))))
        })
    }

    /// A field of it, as people write it.
    pub(crate) fn place(self, field: &str) -> String {
        format!("{}.{field}", self.field.trim_start_matches('/').replace('/', "."))
    }

    /// The ServiceAccount that it acts as.
    pub(crate) fn account(self) -> &'a str {
        let name = |field: &str| self.spec.get(field).and_then(Value::as_str).filter(|name| !name.is_empty());
        name("serviceAccountName").or_else(|| name("serviceAccount")).unwrap_or("default")
    }
}

/// A core object of a namespace.
pub(crate) fn key(kind: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { group: String::new(), kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
}

/// References of a volume: where the name stands, and of which kind it is.
const VOLUME_READS: [(&str, &str); 3] = [
    ("/configMap/name", "ConfigMap"),
    ("/secret/secretName", "Secret"),
    ("/persistentVolumeClaim/claimName", "PersistentVolumeClaim"),
];

/// References of one source of a projected volume.
const PROJECTED_READS: [(&str, &str); 2] = [("/configMap/name", "ConfigMap"), ("/secret/name", "Secret")];

/// References of one entry of a container's `env` and `envFrom`.
const ENVIRONMENT_READS: [(&str, &str); 4] = [
    ("/valueFrom/configMapKeyRef/name", "ConfigMap"),
    ("/valueFrom/secretKeyRef/name", "Secret"),
    ("/configMapRef/name", "ConfigMap"),
    ("/secretRef/name", "Secret"),
];

/// A reference to a Secret for pulling images, or to one that a ServiceAccount hands on.
const NAME_OF_SECRET: [(&str, &str); 1] = [("/name", "Secret")];

fn items<'a>(value: &'a Value, list: &str) -> &'a [Value] {
    value.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What a manifest reads: the objects that its pods use, and the Secrets of a ServiceAccount, each with where it says so.
pub(crate) fn reads(object: &DesiredObject) -> Vec<(ObjectKey, String)> {
    let namespace = object.key.namespace.as_str();
    let mut found = Vec::new();
    let mut take = |values: &[Value], table: &[(&str, &str)], place: String| {
        for (index, value) in values.iter().enumerate() {
            for (pointer, kind) in table {
                if let Some(name) = value.pointer(pointer).and_then(Value::as_str) {
                    found.push((key(kind, namespace, name), format!("{place}[{index}]{}", pointer.replace('/', "."))));
                }
            }
        }
    };
    for pod in pods(object) {
        take(items(pod.spec, "/volumes"), &VOLUME_READS, pod.place("volumes"));
        for (index, volume) in items(pod.spec, "/volumes").iter().enumerate() {
            let place = pod.place(&format!("volumes[{index}].projected.sources"));
            take(items(volume, "/projected/sources"), &PROJECTED_READS, place);
        }
        take(items(pod.spec, "/imagePullSecrets"), &NAME_OF_SECRET, pod.place("imagePullSecrets"));
        for (container, place) in pod.containers() {
            take(items(container, "/env"), &ENVIRONMENT_READS, format!("{place}.env"));
            take(items(container, "/envFrom"), &ENVIRONMENT_READS, format!("{place}.envFrom"));
        }
    }
    if object.key.kind == "ServiceAccount" {
        take(items(&object.manifest, "/secrets"), &NAME_OF_SECRET, "secrets".to_owned());
        take(items(&object.manifest, "/imagePullSecrets"), &NAME_OF_SECRET, "imagePullSecrets".to_owned());
    }
    found
}
