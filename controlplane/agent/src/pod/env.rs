//! The environment of a container, as the pod says it: literal values, fields, resources, ConfigMaps, Secrets and
//! services; and the expansion of `$(NAME)`. Pure.

use super::fields::{self, FieldError, PodFacts};
use super::sources::Sources;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Service};
use std::collections::BTreeMap;

/// A container's environment or command cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    /// A ConfigMap or Secret is missing that is not optional.
    #[error("{kind} {name:?} not found")]
    Missing {
        /// "configmap" or "secret".
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It is there and lacks the key.
    #[error("couldn't find key {key} in {kind} {name}")]
    Key {
        /// "configmap" or "secret".
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field or resource cannot be told.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// The environment in order: services, whole ConfigMaps and Secrets, single variables; later ones win.
///
/// # Errors
/// When something that is not optional is missing.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    facts: &PodFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Environment::default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    for (name, value) in services(&sources.services, pod.metadata.namespace.as_deref().unwrap_or(""), links) {
        env.set(&name, value);
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        let all = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => sources.config_map(&map.name, map.optional)?.map(|map| map.text()),
            (None, Some(secret)) => sources.secret(&secret.name, secret.optional)?.map(|secret| secret.text()),
            (None, None) => None,
        };
        for (key, value) in all.into_iter().flatten() {
            env.set(&format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(pod, container, variable, sources, facts, &env)? {
            env.set(&variable.name, value);
        }
    }
    Ok(env.all)
}

/// Replaces `$(NAME)` by its value in each part; `$$(NAME)` is written as `$(NAME)`, an unknown name stays as it is.
#[must_use]
pub(crate) fn expand_all(parts: &[String], env: &[(String, String)]) -> Vec<String> {
    parts.iter().map(|part| expand(part, env)).collect()
}

#[derive(Default)]
struct Environment {
    all: Vec<(String, String)>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.all.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.all.push((name.to_owned(), value)),
        }
    }
}

fn value(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    sources: &Sources,
    facts: &PodFacts,
    env: &Environment,
) -> Result<Option<String>, EnvError> {
    match &variable.value_from {
        None => Ok(Some(expand(variable.value.as_deref().unwrap_or(""), &env.all))),
        Some(from) => value_from(pod, container, from, sources, facts),
    }
}

fn value_from(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    sources: &Sources,
    facts: &PodFacts,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &from.field_ref {
        return Ok(Some(fields::field(pod, &field.field_path, facts)?));
    }
    if let Some(resource) = &from.resource_field_ref {
        return Ok(Some(fields::resource(pod, Some(container), resource, facts)?));
    }
    let (kind, name, key, optional, data) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(r), _) => {
            ("configmap", &r.name, &r.key, r.optional, sources.config_map(&r.name, r.optional)?.map(|map| map.text()))
        }
        (None, Some(r)) => {
            ("secret", &r.name, &r.key, r.optional, sources.secret(&r.name, r.optional)?.map(|secret| secret.text()))
        }
        (None, None) => return Ok(None),
    };
    match data.and_then(|mut data| data.remove(key)) {
        Some(value) => Ok(Some(value)),
        None if optional == Some(true) => Ok(None),
        None => Err(EnvError::Key { kind, name: name.clone(), key: key.clone() }),
    }
}

fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.iter().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Variables that name services: those of the pod's namespace when it wants them, and `kubernetes` always.
fn services(services: &[Service], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for service in services {
        let of = service.metadata.namespace.as_deref().unwrap_or("");
        let name = service.metadata.name.as_deref().unwrap_or("");
        if (of, name) == ("default", "kubernetes") || (links && of == namespace) {
            add_service(&mut env, name, service);
        }
    }
    env
}

fn add_service(env: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(address) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let prefix = variable_name(name);
    let ports = spec.ports.as_deref().unwrap_or_default();
    env.insert(format!("{prefix}_SERVICE_HOST"), address.to_owned());
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{address}:{}", protocol.to_ascii_lowercase(), port.port);
        if index == 0 {
            env.insert(format!("{prefix}_SERVICE_PORT"), port.port.to_string());
            env.insert(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
        let link = format!("{prefix}_PORT_{}_{protocol}", port.port);
        env.insert(link.clone(), url);
        env.insert(format!("{link}_PROTO"), protocol.to_ascii_lowercase());
        env.insert(format!("{link}_PORT"), port.port.to_string());
        env.insert(format!("{link}_ADDR"), address.to_owned());
    }
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(env: &str) -> Pod {
        let text = format!(
            r#"{{"metadata":{{"name":"web-1","namespace":"shop","labels":{{"app":"web"}}}},
            "spec":{{"nodeName":"n1","containers":[{{"name":"web","resources":{{"limits":{{"cpu":"1500m","memory":"64Mi"}}}},{env}}}]}}}}"#
        );
        serde_json::from_str(&text).expect("because the test's pod is well formed")
    }

    fn sources() -> Sources {
        let well_formed = "because the test's objects are well formed";
        let mut sources = Sources::default();
        let map = serde_json::from_str(r#"{"data":{"COLOR":"blue","SIZE":"9"}}"#).expect(well_formed);
        let secret = serde_json::from_str(r#"{"data":{"password":"c2VjcmV0"}}"#).expect(well_formed);
        let service = r#"{"metadata":{"name":"my-db","namespace":"shop"},"spec":{"clusterIP":"10.96.0.5",
            "ports":[{"name":"sql","port":5432,"protocol":"TCP"}]}}"#;
        sources.config_maps.insert("settings".into(), map);
        sources.secrets.insert("db".into(), secret);
        sources.services.push(serde_json::from_str(service).expect(well_formed));
        sources
    }

    fn run(env: &str) -> Result<BTreeMap<String, String>, EnvError> {
        let pod = pod(env);
        let container = &pod.spec.as_ref().expect("because the pod has a spec").containers[0];
        let facts = PodFacts { pod_ips: vec!["10.244.0.2".into()], ..PodFacts::default() };
        Ok(environment(&pod, container, &sources(), &facts)?.into_iter().collect())
    }

    #[test]
    fn values_come_from_everywhere() {
        let env = run(
            r#""envFrom":[{"prefix":"C_","configMapRef":{"name":"settings"}}],"env":[
            {"name":"NODE","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}},
            {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
            {"name":"APP","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['app']"}}},
            {"name":"CPUS","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu"}}},
            {"name":"PASS","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}},
            {"name":"URL","value":"$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT_SQL)/$(C_COLOR) $$(C_COLOR) $(NOPE) $5"}]"#,
        )
        .expect("because everything is there");
        let get = |name: &str| env.get(name).map(String::as_str);
        assert_eq!(get("NODE"), Some("n1"));
        assert_eq!(get("IP"), Some("10.244.0.2"));
        assert_eq!(get("APP"), Some("web"));
        assert_eq!(get("CPUS"), Some("2"));
        assert_eq!(get("PASS"), Some("secret"));
        assert_eq!(get("C_SIZE"), Some("9"));
        assert_eq!(get("URL"), Some("10.96.0.5:5432/blue $(C_COLOR) $(NOPE) $5"));
        assert_eq!(get("MY_DB_PORT_5432_TCP_ADDR"), Some("10.96.0.5"));
    }

    #[test]
    fn what_is_missing_is_an_error_unless_it_is_optional() {
        let missing = run(r#""env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"no","key":"k"}}}]"#);
        assert_eq!(missing, Err(EnvError::Missing { kind: "configmap", name: "no".into() }));
        let key = run(r#""env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"db","key":"k"}}}]"#);
        assert!(matches!(key, Err(EnvError::Key { .. })));
        let optional =
            r#""env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"no","key":"k","optional":true}}}]"#;
        assert_eq!(run(optional).map(|env| env.contains_key("A")), Ok(false));
    }
}
