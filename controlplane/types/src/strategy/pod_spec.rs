//! Defaults of pod specs, in pods and in the templates of workloads.

use serde_json::{Map, Value, json};

use crate::object::{self, map_mut, set_default, text};

/// 0644: what files of ConfigMaps, Secrets and so on get.
const FILE_MODE: i64 = 0o644;
/// Seconds that a projected token is good for.
const TOKEN_SECONDS: i64 = 3600;
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Fills in a pod.
pub(super) fn default_pod(pod: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in entries(map_mut(pod, &["spec"]), list) {
            requests_from_limits(container);
        }
    }
    set_default(pod, &["spec"], "enableServiceLinks", true);
    let host_network = pod["spec"]["hostNetwork"] == true;
    default_spec(map_mut(pod, &["spec"]));
    if host_network {
        for list in ["initContainers", "containers"] {
            for container in entries(map_mut(pod, &["spec"]), list) {
                host_ports(container);
            }
        }
    }
}

/// Fills in the template of a workload.
pub(super) fn default_template(workload: &mut Value) {
    if object::at(workload, &["spec", "template"]).is_some() {
        default_spec(map_mut(workload, &["spec", "template", "spec"]));
    }
}

fn default_spec(spec: &mut Map<String, Value>) {
    let defaults = [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
    ];
    for (key, value) in defaults {
        let here = spec.entry(key).or_insert(Value::Null);
        if here.is_null() || here == "" {
            *here = value;
        }
    }
    account_aliases(spec);
    for list in CONTAINER_LISTS {
        for container in entries(spec, list) {
            default_container(container);
        }
    }
    for volume in entries(spec, "volumes") {
        default_volume(volume);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are shown.
fn account_aliases(spec: &mut Map<String, Value>) {
    let read = |key: &str| spec.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_string);
    if let Some(name) = read("serviceAccountName").or_else(|| read("serviceAccount")) {
        spec.insert("serviceAccountName".into(), json!(name));
        spec.insert("serviceAccount".into(), json!(name));
    }
}

/// Walks the objects of a list in a map.
fn entries<'a>(map: &'a mut Map<String, Value>, list: &str) -> impl Iterator<Item = &'a mut Value> {
    map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter(|item| item.is_object())
}

fn default_container(container: &mut Value) {
    set_default(container, &[], "terminationMessagePath", "/dev/termination-log");
    set_default(container, &[], "terminationMessagePolicy", "File");
    let policy = pull_policy(text(container, &["image"]));
    set_default(container, &[], "imagePullPolicy", policy);
    set_default(container, &[], "resources", json!({}));
    let map = map_mut(container, &[]);
    for port in entries(map, "ports") {
        set_default(port, &[], "protocol", "TCP");
    }
    for variable in entries(map, "env") {
        default_field_ref(variable, &["valueFrom"]);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = map.get_mut(probe).filter(|probe| probe.is_object()) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        let action = map.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook));
        if let Some(action) = action {
            default_http_get(action);
        }
    }
}

/// Returns the policy for an image: newest where the tag may move, that is without a tag or with `latest`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if digest.is_none() => "Always",
        Some(_) | None => "IfNotPresent",
    }
}

fn default_field_ref(owner: &mut Value, path: &[&str]) {
    let parent = path.iter().try_fold(owner, |value, key| value.get_mut(*key));
    if let Some(reference) = parent.and_then(|parent| parent.get_mut("fieldRef")).filter(|one| one.is_object()) {
        set_default(reference, &[], "apiVersion", "v1");
    }
}

fn default_probe(probe: &mut Value) {
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        // Zero means "not set" for these.
        if object::number(probe, &[key]).unwrap_or(0) == 0 {
            object::set(probe, &[], key, value);
        }
    }
    default_http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        set_default(grpc, &[], "service", "");
    }
}

fn default_http_get(action: &mut Value) {
    if let Some(get) = action.get_mut("httpGet").filter(|get| get.is_object()) {
        if text(get, &["path"]).is_empty() {
            object::set(get, &[], "path", "/");
        }
        if text(get, &["scheme"]).is_empty() {
            object::set(get, &[], "scheme", "HTTP");
        }
    }
}

fn default_volume(volume: &mut Value) {
    let map = map_mut(volume, &[]);
    if map.keys().all(|key| key == "name") {
        map.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = map.get_mut(source).filter(|source| source.is_object()) {
            set_default(source, &[], "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = map.get_mut("hostPath").filter(|path| path.is_object()) {
        set_default(path, &[], "type", "");
    }
    if let Some(downward) = map.get_mut("downwardAPI").and_then(Value::as_object_mut) {
        default_items(downward);
    }
    let projected = map.get_mut("projected").and_then(Value::as_object_mut);
    for source in projected.into_iter().flat_map(|projected| entries(projected, "sources")) {
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
            set_default(token, &[], "expirationSeconds", TOKEN_SECONDS);
        }
        if let Some(downward) = source.get_mut("downwardAPI").and_then(Value::as_object_mut) {
            default_items(downward);
        }
    }
}

fn default_items(downward: &mut Map<String, Value>) {
    for item in entries(downward, "items") {
        default_field_ref(item, &[]);
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = object::map(container, &["resources", "limits"]).cloned() else { return };
    let requests = map_mut(container, &["resources", "requests"]);
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// On the host's network the port in the container is the port of the host.
fn host_ports(container: &mut Value) {
    for port in entries(map_mut(container, &[]), "ports") {
        if object::number(port, &["hostPort"]).unwrap_or(0) == 0 {
            let number = port["containerPort"].clone();
            object::set(port, &[], "hostPort", number);
        }
    }
}
