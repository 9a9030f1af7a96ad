//! What an image's manifest and configuration say, checked against each other. Pure.

use crate::runtime::hex;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use sha2::{Digest, Sha256};

/// Architecture and system that this node runs.
const PLATFORM: (&str, &str) = ("linux", "amd64");

/// A blob of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    /// Media type.
    pub(crate) media_type: String,
    /// Digest, as `sha256:...`.
    pub(crate) digest: String,
    /// Size in bytes.
    pub(crate) size: i64,
}

/// An image whose documents were read and agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PreparedImage {
    /// The manifest.
    pub(crate) manifest: Blob,
    /// The configuration.
    pub(crate) config: Blob,
    /// The layers, lowest first.
    pub(crate) layers: Vec<Blob>,
    /// Digest of each unpacked layer.
    pub(crate) diff_ids: Vec<String>,
    /// Name of each layer on those below it.
    pub(crate) chains: Vec<String>,
    /// What a container needs of it.
    pub(crate) handle: ImageHandle,
}

/// What a container needs of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageHandle {
    /// Digest of the manifest: the image's identity in a pod's status.
    pub(crate) id: String,
    /// Name of the topmost layer.
    pub(crate) chain: String,
    /// How to start it.
    pub(crate) config: ImageConfig,
}

/// How the image's author wants it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageConfig {
    /// Program with its first arguments.
    pub(crate) entrypoint: Vec<String>,
    /// More arguments, replaced by a pod's.
    pub(crate) command: Vec<String>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    /// User and group, by name or number.
    pub(crate) user: String,
    /// Working folder.
    pub(crate) working_dir: String,
    /// Signal that asks it to end.
    pub(crate) stop_signal: Option<String>,
}

/// A document of an image is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    /// It cannot be read.
    #[error("cannot read its {document}")]
    Read {
        /// Which.
        document: &'static str,
        /// What is wrong.
        #[source]
        source: oci_spec::OciSpecError,
    },
    /// Layers and their unpacked digests do not match.
    #[error("it has {layers} layers and {diff_ids} digests of unpacked layers")]
    Layers {
        /// Layers of the manifest.
        layers: usize,
        /// Digests of the configuration.
        diff_ids: usize,
    },
    /// A size does not fit.
    #[error("the blob {digest} claims {size} bytes")]
    Size {
        /// The blob.
        digest: String,
        /// What it claims.
        size: u64,
    },
    /// It is made for other machines.
    #[error("it has no variant for {}/{}", PLATFORM.0, PLATFORM.1)]
    Platform,
}

impl PreparedImage {
    /// Reads manifest and configuration.
    ///
    /// # Errors
    /// When they cannot be read or contradict each other.
    pub(crate) fn read(manifest: &[u8], config: &[u8]) -> Result<Self, ManifestError> {
        let read = |document| move |source| ManifestError::Read { document, source };
        let document = ImageManifest::from_reader(manifest).map_err(read("manifest"))?;
        let configuration = ImageConfiguration::from_reader(config).map_err(read("configuration"))?;
        let diff_ids = configuration.rootfs().diff_ids().clone();
        let layers: Vec<Blob> = document.layers().iter().map(blob).collect::<Result<_, _>>()?;
        if layers.len() != diff_ids.len() || layers.is_empty() {
            return Err(ManifestError::Layers { layers: layers.len(), diff_ids: diff_ids.len() });
        }
        let chains = chains(&diff_ids);
        let manifest = Blob {
            media_type: document.media_type().as_ref().map_or(MANIFEST_TYPE.to_owned(), ToString::to_string),
            digest: sha256(manifest),
            size: i64::try_from(manifest.len()).unwrap_or(i64::MAX),
        };
        let handle = ImageHandle {
            id: manifest.digest.clone(),
            chain: chains.last().cloned().unwrap_or_default(),
            config: image_config(&configuration),
        };
        Ok(Self { manifest, config: blob(document.config())?, layers, diff_ids, chains, handle })
    }
}

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Digest of the configuration that a manifest names.
pub(super) fn config_digest(manifest: &[u8]) -> Result<String, ManifestError> {
    let document =
        ImageManifest::from_reader(manifest).map_err(|source| ManifestError::Read { document: "manifest", source })?;
    Ok(document.config().digest().to_string())
}

/// The manifest for this platform in an index of several, or `None` when the document is a manifest itself.
pub(super) fn choose(document: &[u8]) -> Result<Option<String>, ManifestError> {
    let Ok(index) = ImageIndex::from_reader(document) else { return Ok(None) };
    let fits = |descriptor: &&Descriptor| match descriptor.platform() {
        Some(platform) => {
            (platform.os().to_string(), platform.architecture().to_string()) == (PLATFORM.0.into(), PLATFORM.1.into())
        }
        None => true,
    };
    let chosen = index.manifests().iter().find(fits).ok_or(ManifestError::Platform)?;
    Ok(Some(chosen.digest().to_string()))
}

fn blob(descriptor: &Descriptor) -> Result<Blob, ManifestError> {
    let (digest, size) = (descriptor.digest().to_string(), descriptor.size());
    let size = i64::try_from(size).map_err(|_| ManifestError::Size { digest: digest.clone(), size })?;
    Ok(Blob { media_type: descriptor.media_type().to_string(), digest, size })
}

/// Chain ids: each is the digest of the one below, a space and the layer's own
/// (<https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid>).
fn chains(diff_ids: &[String]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let chain = match chains.last() {
            Some(below) => sha256(format!("{below} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        };
        chains.push(chain);
    }
    chains
}

fn image_config(configuration: &ImageConfiguration) -> ImageConfig {
    let Some(config) = configuration.config() else { return ImageConfig::default() };
    ImageConfig {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        command: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone(),
    }
}

/// Digest of bytes, as `sha256:...`.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let (a, b) = (sha256(b"a"), sha256(b"b"));
        let expected = sha256(format!("{a} {b}").as_bytes());
        assert_eq!(chains(&[a.clone(), b]), [a, expected]);
    }

    #[test]
    fn a_manifest_with_more_layers_than_the_configuration_is_refused() {
        let digest = sha256(b"");
        let layer = format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":0}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layer},{layer}]}}"#);
        let config =
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
        let refused = PreparedImage::read(manifest.as_bytes(), config.as_bytes());
        assert!(matches!(refused, Err(ManifestError::Layers { layers: 2, diff_ids: 1 })), "{refused:?}");
    }

    #[test]
    fn an_index_gives_the_manifest_for_this_platform() {
        let entry = |arch: &str, digest: &str| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":2,
                "platform":{{"os":"linux","architecture":"{arch}"}}}}"#
            )
        };
        let (arm, amd) = (sha256(b"arm"), sha256(b"amd"));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry("arm64", &arm), entry("amd64", &amd));
        assert_eq!(choose(index.as_bytes()).expect("because it has our platform"), Some(amd));
        let foreign = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry("arm64", &arm));
        assert!(matches!(choose(foreign.as_bytes()), Err(ManifestError::Platform)));
    }
}
