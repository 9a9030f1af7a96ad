//! Fields and resources that a pod may tell its own containers (the downward API). Pure.

use crate::spec;
use controlplane_types::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;

/// What is known of a pod beside its object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// Its addresses, the first one is `status.podIP`.
    pub(crate) pod_ips: Vec<String>,
    /// Addresses of the node.
    pub(crate) host_ips: Vec<String>,
    /// CPU of the node in thousandths, the limit of containers without one.
    pub(crate) cpu_milli: i64,
    /// Memory of the node in bytes, the limit of containers without one.
    pub(crate) memory_bytes: i64,
}

/// A field or resource cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldError {
    /// No such field.
    #[error("the field {path:?} cannot be told to a container")]
    Unknown {
        /// As the pod says it.
        path: String,
    },
    /// No such container.
    #[error("there is no container {name:?} to tell the resources of")]
    Container {
        /// As the pod says it.
        name: String,
    },
}

/// The value of a field, as text.
///
/// # Errors
/// When there is no such field.
pub(crate) fn field(pod: &Pod, path: &str, facts: &PodFacts) -> Result<String, FieldError> {
    let spec = pod.spec.as_ref();
    let metadata = &pod.metadata;
    if let Some((kind, key)) = subscript(path) {
        let map = match kind {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _other => return Err(FieldError::Unknown { path: path.to_owned() }),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    match path {
        "metadata.name" => Ok(text(metadata.name.as_ref())),
        "metadata.namespace" => Ok(text(metadata.namespace.as_ref())),
        "metadata.uid" => Ok(text(metadata.uid.as_ref())),
        "metadata.labels" => Ok(lines(metadata.labels.as_ref())),
        "metadata.annotations" => Ok(lines(metadata.annotations.as_ref())),
        "spec.nodeName" => Ok(text(spec.and_then(|spec| spec.node_name.as_ref()))),
        "spec.serviceAccountName" => Ok(text(spec.and_then(|spec| spec.service_account_name.as_ref()))),
        "status.hostIP" => Ok(text(facts.host_ips.first())),
        "status.hostIPs" => Ok(facts.host_ips.join(",")),
        "status.podIP" => Ok(text(facts.pod_ips.first())),
        "status.podIPs" => Ok(facts.pod_ips.join(",")),
        _other => Err(FieldError::Unknown { path: path.to_owned() }),
    }
}

/// Reads `kind['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (kind, rest) = path.split_once("['")?;
    Some((kind, rest.strip_suffix("']")?))
}

/// `key="value"` lines, as downward API volumes have them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A request or limit of a container, in units of the divisor, rounded up; of the container itself when the selector
/// names none.
///
/// # Errors
/// When there is no such container or resource.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &PodFacts,
) -> Result<String, FieldError> {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => containers.into_iter().find(|container| container.name == name),
        None => own,
    };
    let container = container.ok_or_else(|| FieldError::Container { name: named.unwrap_or("").to_owned() })?;
    let divisor = selector.divisor.as_ref().and_then(|divisor| divisor.0.parse::<Quantity>().ok());
    // No divisor and the API's default "0" both mean one.
    let divisor = divisor.map(|divisor| divisor.milli()).filter(|divisor| *divisor > 0).unwrap_or(1000);
    let milli = match selector.resource.as_str() {
        "limits.cpu" => spec::limit(container, "cpu").map_or(facts.cpu_milli, |cpu| cpu.milli()),
        "limits.memory" => 1000 * spec::limit(container, "memory").map_or(facts.memory_bytes, |memory| memory.units()),
        "requests.cpu" => spec::request(container, "cpu").map_or(0, |cpu| cpu.milli()),
        "requests.memory" => 1000 * spec::request(container, "memory").map_or(0, |memory| memory.units()),
        other => return Err(FieldError::Unknown { path: other.to_owned() }),
    };
    Ok(((milli + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_become_lines_and_unknown_fields_errors() {
        let pod: Pod = serde_json::from_str(r#"{"metadata":{"labels":{"a":"x\"y","b":"2"}}}"#)
            .expect("because the test's pod is well formed");
        let facts = PodFacts::default();
        assert_eq!(field(&pod, "metadata.labels", &facts), Ok("a=\"x\\\"y\"\nb=\"2\"".to_owned()));
        assert_eq!(field(&pod, "metadata.labels['b']", &facts), Ok("2".to_owned()));
        assert!(field(&pod, "spec.containers", &facts).is_err());
    }

    #[test]
    fn a_container_without_limit_is_told_the_nodes() {
        let pod = Pod::default();
        let selector = |divisor: &str| ResourceFieldSelector {
            resource: "limits.memory".into(),
            divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into())),
            container_name: None,
        };
        let facts = PodFacts { memory_bytes: 3 << 20, ..PodFacts::default() };
        let container = Container::default();
        let told = |divisor| resource(&pod, Some(&container), &selector(divisor), &facts);
        assert_eq!(told("1Mi"), Ok("3".to_owned()));
        assert_eq!(told("0"), Ok((3 << 20).to_string()));
    }
}
