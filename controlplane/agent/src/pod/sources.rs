//! The ConfigMaps, Secrets, tokens and services that a pod draws on: which ones, and what they hold. Pure; the pod's
//! worker fetches them.

use super::env::EnvError;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};
use std::collections::{BTreeMap, BTreeSet};

/// What was fetched for one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// ConfigMaps of the pod's namespace by name; those that do not exist are left out.
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets of the pod's namespace by name.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Service account tokens.
    pub(crate) tokens: BTreeMap<TokenKey, String>,
    /// Services of all namespaces.
    pub(crate) services: Vec<Service>,
}

/// Which token: for whom, and for how many seconds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenKey {
    /// Who will check it; empty for the API server.
    pub(crate) audience: String,
    /// Its life in seconds.
    pub(crate) seconds: i64,
}

/// Names of what a pod draws on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    /// ConfigMaps.
    pub(crate) config_maps: BTreeSet<String>,
    /// Secrets.
    pub(crate) secrets: BTreeSet<String>,
    /// Tokens of the pod's service account.
    pub(crate) tokens: BTreeSet<TokenKey>,
}

/// Life of a token when the pod does not say, in seconds; the API's default.
const TOKEN_SECONDS: i64 = 3600;

/// What the pod draws on, in its containers and volumes.
#[must_use]
pub(crate) fn references(pod: &Pod) -> References {
    let mut found = References::default();
    let Some(spec) = &pod.spec else { return found };
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        of_container(container, &mut found);
    }
    found.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    for volume in spec.volumes.iter().flatten() {
        found.config_maps.extend(volume.config_map.iter().map(|map| map.name.clone()));
        found.secrets.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projected {
            found.config_maps.extend(source.config_map.iter().map(|map| map.name.clone()));
            found.secrets.extend(source.secret.iter().map(|secret| secret.name.clone()));
            found.tokens.extend(source.service_account_token.iter().map(|token| TokenKey {
                audience: token.audience.clone().unwrap_or_default(),
                seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS),
            }));
        }
    }
    found
}

fn of_container(container: &Container, found: &mut References) {
    for from in container.env_from.iter().flatten() {
        found.config_maps.extend(from.config_map_ref.iter().map(|map| map.name.clone()));
        found.secrets.extend(from.secret_ref.iter().map(|secret| secret.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        found.config_maps.extend(from.config_map_key_ref.iter().map(|map| map.name.clone()));
        found.secrets.extend(from.secret_key_ref.iter().map(|secret| secret.name.clone()));
    }
}

/// The contents of a ConfigMap or Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents(pub(crate) BTreeMap<String, Vec<u8>>);

impl Contents {
    /// The values as text; bytes that are no text are replaced, as environment variables cannot hold them.
    #[must_use]
    pub(crate) fn text(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned())).collect()
    }
}

impl Sources {
    /// The contents of a ConfigMap; none when it is missing and optional.
    ///
    /// # Errors
    /// When it is missing and not optional.
    pub(crate) fn config_map(&self, name: &str, optional: Option<bool>) -> Result<Option<Contents>, EnvError> {
        let found = self.config_maps.get(name).map(|map| {
            let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
            let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
            Contents(text.chain(binary).collect())
        });
        present("configmap", name, found, optional)
    }

    /// The contents of a Secret; none when it is missing and optional.
    ///
    /// # Errors
    /// When it is missing and not optional.
    pub(crate) fn secret(&self, name: &str, optional: Option<bool>) -> Result<Option<Contents>, EnvError> {
        let found = self.secrets.get(name).map(|secret| {
            Contents(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
        });
        present("secret", name, found, optional)
    }
}

fn present(
    kind: &'static str,
    name: &str,
    found: Option<Contents>,
    optional: Option<bool>,
) -> Result<Option<Contents>, EnvError> {
    match (found, optional) {
        (Some(found), _) => Ok(Some(found)),
        (None, Some(true)) => Ok(None),
        (None, Some(false) | None) => Err(EnvError::Missing { kind, name: name.to_owned() }),
    }
}
