//! What a pod's volumes should hold. Pure: from the pod and what was fetched for it to folders and files.

use crate::pod::env::EnvError;
use crate::pod::fields::{self, FieldError, PodFacts};
use crate::pod::sources::{Contents, Sources, TokenKey};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};
use std::path::{Component, Path, PathBuf};

/// Mode of files when the pod does not say; the API's default.
const DEFAULT_MODE: i32 = 0o644;
/// Life of a token when the pod does not say, in seconds.
const TOKEN_SECONDS: i64 = 3600;

/// What one volume should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// An empty folder that lives as long as the pod.
    Empty {
        /// Whether it lies in memory.
        memory: bool,
        /// Its limit in bytes, in memory only.
        limit: Option<i64>,
    },
    /// A path of the host.
    Host {
        /// The path.
        path: PathBuf,
        /// What must be there.
        kind: HostPathKind,
    },
    /// Files that are swapped all at once when they change.
    Files(Vec<VolumeFile>),
}

/// What must be at a host path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostPathKind {
    /// Anything or nothing.
    Any,
    /// A folder, made when it is missing.
    FolderOrCreate,
    /// A file, made when it is missing.
    FileOrCreate,
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFile {
    /// Path inside of the volume; never leaves it.
    pub(crate) path: PathBuf,
    /// What it holds.
    pub(crate) bytes: Vec<u8>,
    /// Its permission bits.
    pub(crate) mode: u32,
}

/// A volume cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumeError {
    /// Something that it draws on is missing.
    #[error("volume {volume:?}: {source}")]
    Source {
        /// The volume.
        volume: String,
        /// What is missing.
        source: EnvError,
    },
    /// A field cannot be told.
    #[error("volume {volume:?}: {source}")]
    Field {
        /// The volume.
        volume: String,
        /// Which.
        source: FieldError,
    },
    /// A path would leave the volume.
    #[error("volume {volume:?}: the path {path:?} leaves the volume")]
    Path {
        /// The volume.
        volume: String,
        /// As the pod says it.
        path: String,
    },
    /// No token was given.
    #[error("volume {volume:?}: there is no service account token for the audience {audience:?}")]
    Token {
        /// The volume.
        volume: String,
        /// For whom.
        audience: String,
    },
    /// A kind of volume that this agent does not know.
    #[error(
        "volume {volume:?} is of a kind that this version does not support; it knows emptyDir, hostPath, configMap, secret, downwardAPI and projected"
    )]
    Unsupported {
        /// The volume.
        volume: String,
    },
}

/// What each volume of the pod should be, by name in the pod's order.
///
/// # Errors
/// At the first volume that cannot be made.
pub(crate) fn plan(pod: &Pod, sources: &Sources, facts: &PodFacts) -> Result<Vec<(String, Planned)>, VolumeError> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.map(|volume| Ok((volume.name.clone(), one(pod, volume, sources, facts)?))).collect()
}

fn one(pod: &Pod, volume: &Volume, sources: &Sources, facts: &PodFacts) -> Result<Planned, VolumeError> {
    let of = Of { pod, sources, facts, volume: &volume.name };
    if let Some(empty) = &volume.empty_dir {
        let limit = empty.size_limit.as_ref().and_then(|limit| limit.0.parse().ok());
        let limit = limit.map(|limit: controlplane_types::quantity::Quantity| limit.units());
        return Ok(Planned::Empty { memory: empty.medium.as_deref() == Some("Memory"), limit });
    }
    if let Some(host) = &volume.host_path {
        return Ok(Planned::Host { path: PathBuf::from(&host.path), kind: host_path_kind(host.type_.as_deref()) });
    }
    if let Some(map) = &volume.config_map {
        let contents = sources.config_map(&map.name, map.optional).map_err(|source| of.source(source))?;
        return Ok(Planned::Files(of.select(contents, map.items.as_deref(), map.optional, map.default_mode)?));
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or("");
        let contents = sources.secret(name, secret.optional).map_err(|source| of.source(source))?;
        return Ok(Planned::Files(of.select(
            contents,
            secret.items.as_deref(),
            secret.optional,
            secret.default_mode,
        )?));
    }
    if let Some(downward) = &volume.downward_api {
        return Ok(Planned::Files(of.downward(downward.items.iter().flatten(), downward.default_mode)?));
    }
    if let Some(projected) = &volume.projected {
        let parts = projected.sources.iter().flatten().map(|source| of.projection(source, projected.default_mode));
        let parts: Vec<Vec<VolumeFile>> = parts.collect::<Result<_, _>>()?;
        return Ok(Planned::Files(parts.concat()));
    }
    // A volume without any source is an emptyDir, as the API's defaulting has it.
    let text = serde_json::to_value(volume).unwrap_or_default();
    if text.as_object().is_some_and(|fields| fields.len() == 1) {
        return Ok(Planned::Empty { memory: false, limit: None });
    }
    Err(VolumeError::Unsupported { volume: volume.name.clone() })
}

fn host_path_kind(text: Option<&str>) -> HostPathKind {
    match text.unwrap_or("") {
        "DirectoryOrCreate" => HostPathKind::FolderOrCreate,
        "FileOrCreate" => HostPathKind::FileOrCreate,
        "Directory" => HostPathKind::Folder,
        "File" => HostPathKind::File,
        "Socket" => HostPathKind::Socket,
        "CharDevice" => HostPathKind::CharDevice,
        "BlockDevice" => HostPathKind::BlockDevice,
        _anything => HostPathKind::Any,
    }
}

/// One volume of one pod, for errors and look-ups.
struct Of<'a> {
    pod: &'a Pod,
    sources: &'a Sources,
    facts: &'a PodFacts,
    volume: &'a str,
}

impl Of<'_> {
    fn source(&self, source: EnvError) -> VolumeError {
        VolumeError::Source { volume: self.volume.to_owned(), source }
    }

    fn file(
        &self,
        path: &str,
        bytes: Vec<u8>,
        mode: Option<i32>,
        default: Option<i32>,
    ) -> Result<VolumeFile, VolumeError> {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.is_empty() || path.starts_with("..") {
            return Err(VolumeError::Path { volume: self.volume.to_owned(), path: path.to_owned() });
        }
        let mode = mode.or(default).unwrap_or(DEFAULT_MODE).cast_unsigned() & 0o777;
        Ok(VolumeFile { path: PathBuf::from(path), bytes, mode })
    }

    /// All keys, or the chosen ones under other paths.
    fn select(
        &self,
        contents: Option<Contents>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: Option<i32>,
    ) -> Result<Vec<VolumeFile>, VolumeError> {
        let Some(Contents(mut contents)) = contents else { return Ok(Vec::new()) };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return contents.into_iter().map(|(key, bytes)| self.file(&key, bytes, None, mode)).collect();
        };
        let mut files = Vec::new();
        for item in items {
            match contents.remove(&item.key) {
                Some(bytes) => files.push(self.file(&item.path, bytes, item.mode, mode)?),
                None if optional == Some(true) => {}
                None => {
                    let (kind, name, key) = ("volume's source", self.volume.to_owned(), item.key.clone());
                    return Err(self.source(EnvError::Key { kind, name, key }));
                }
            }
        }
        Ok(files)
    }

    fn downward<'b>(
        &self,
        items: impl Iterator<Item = &'b DownwardAPIVolumeFile>,
        mode: Option<i32>,
    ) -> Result<Vec<VolumeFile>, VolumeError> {
        let failed = |source| VolumeError::Field { volume: self.volume.to_owned(), source };
        let mut files = Vec::new();
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => fields::field(self.pod, &field.field_path, self.facts).map_err(failed)?,
                (None, Some(resource)) => fields::resource(self.pod, None, resource, self.facts).map_err(failed)?,
                (None, None) => String::new(),
            };
            files.push(self.file(&item.path, text.into_bytes(), item.mode, mode)?);
        }
        Ok(files)
    }

    fn projection(&self, source: &VolumeProjection, mode: Option<i32>) -> Result<Vec<VolumeFile>, VolumeError> {
        if let Some(map) = &source.config_map {
            let contents = self.sources.config_map(&map.name, map.optional).map_err(|source| self.source(source))?;
            return self.select(contents, map.items.as_deref(), map.optional, mode);
        }
        if let Some(secret) = &source.secret {
            let contents = self.sources.secret(&secret.name, secret.optional).map_err(|source| self.source(source))?;
            return self.select(contents, secret.items.as_deref(), secret.optional, mode);
        }
        if let Some(downward) = &source.downward_api {
            return self.downward(downward.items.iter().flatten(), mode);
        }
        if let Some(token) = &source.service_account_token {
            let audience = token.audience.clone().unwrap_or_default();
            let key = TokenKey { audience, seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS) };
            let missing = || VolumeError::Token { volume: self.volume.to_owned(), audience: key.audience.clone() };
            let text = self.sources.tokens.get(&key).ok_or_else(missing)?;
            // Tokens are for their owner alone unless the pod says otherwise.
            return Ok(vec![self.file(&token.path, text.clone().into_bytes(), None, mode.or(Some(0o600)))?]);
        }
        Err(VolumeError::Unsupported { volume: self.volume.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(volume: &str) -> Result<Vec<(String, String, u32)>, VolumeError> {
        let well_formed = "because the test's objects are well formed";
        let pod =
            format!(r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[],"volumes":[{{"name":"v",{volume}}}]}}}}"#);
        let pod: Pod = serde_json::from_str(&pod).expect(well_formed);
        let mut sources = Sources::default();
        let map = serde_json::from_str(r#"{"data":{"a":"1","b":"2"}}"#).expect(well_formed);
        sources.config_maps.insert("m".into(), map);
        sources.tokens.insert(TokenKey { audience: String::new(), seconds: 3600 }, "jwt".into());
        match plan(&pod, &sources, &PodFacts::default())?.remove(0).1 {
            Planned::Files(files) => Ok(files
                .into_iter()
                .map(|file| (file.path.display().to_string(), String::from_utf8_lossy(&file.bytes).into(), file.mode))
                .collect()),
            Planned::Empty { .. } | Planned::Host { .. } => Ok(Vec::new()),
        }
    }

    #[test]
    fn a_config_map_gives_all_keys_or_the_chosen_ones() {
        let all = files(r#""configMap":{"name":"m"}"#).expect("because m exists");
        assert_eq!(all, [("a".into(), "1".into(), 0o644), ("b".into(), "2".into(), 0o644)]);
        let chosen = files(r#""configMap":{"name":"m","defaultMode":256,"items":[{"key":"b","path":"x/y"}]}"#);
        assert_eq!(chosen, Ok(vec![("x/y".into(), "2".into(), 0o400)]));
    }

    #[test]
    fn a_projected_volume_joins_its_sources() {
        let joined = files(
            r#""projected":{"sources":[{"serviceAccountToken":{"path":"token"}},{"configMap":{"name":"m","items":[{"key":"a","path":"ca"}]}},
            {"downwardAPI":{"items":[{"path":"name","fieldRef":{"fieldPath":"metadata.name"}}]}}]}"#,
        );
        let expected = vec![
            ("token".into(), "jwt".into(), 0o600),
            ("ca".into(), "1".into(), 0o644),
            ("name".into(), "p".into(), 0o644),
        ];
        assert_eq!(joined, Ok(expected));
    }

    #[test]
    fn a_path_cannot_leave_its_volume() {
        for path in ["../x", "/etc/passwd", "a/../../b", ""] {
            let volume = format!(r#""configMap":{{"name":"m","items":[{{"key":"a","path":"{path}"}}]}}"#);
            assert!(matches!(files(&volume), Err(VolumeError::Path { .. })), "{path}");
        }
    }

    #[test]
    fn an_unknown_kind_of_volume_is_named() {
        let refused = files(r#""nfs":{"server":"s","path":"/"}"#);
        assert_eq!(refused, Err(VolumeError::Unsupported { volume: "v".into() }));
    }
}
