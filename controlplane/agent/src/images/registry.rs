//! Pulls images from registries with oci-client: mirrors first, in order, then the registry that the name says.

use super::manifest::{self, ManifestError, PreparedImage};
use super::{Blob, BlobFuture, BlobReader, BlobSource, ImagesConfig};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use std::path::PathBuf;
use std::time::Duration;

/// How long a registry may stay silent in the middle of an answer.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Documents that are understood, best first.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Another place for the images of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryMirror {
    /// The registry as image names say it: "docker.io".
    pub registry: String,
    /// Address of the mirror: "http://10.0.2.2:5000".
    pub url: String,
}

/// User and password for a registry, from an image pull secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The registry, as the secret names it.
    pub(crate) registry: String,
    /// The user.
    pub(crate) user: String,
    /// The password or token.
    pub(crate) password: String,
}

/// No registry gave the image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// The last of the places that were asked refused.
    #[error("cannot pull {image} from {place}")]
    Pull {
        /// The image.
        image: String,
        /// Mirror or registry that was asked last.
        place: String,
        /// What it said.
        #[source]
        source: OciDistributionError,
    },
    /// A document is broken.
    #[error("{place} gave a broken {image}")]
    Broken {
        /// The image.
        image: String,
        /// Who gave it.
        place: String,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The folder for blobs on their way is unusable.
    #[error("cannot write to {path}")]
    Spool {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// An image whose documents are here and whose layers are fetched when they are opened.
pub(super) struct Pull {
    pub(super) image: PreparedImage,
    client: Client,
    reference: Reference,
    documents: Vec<(String, Vec<u8>)>,
    spool: PathBuf,
}

impl Pull {
    /// Asks each place for the documents; the first that has them gives the layers too.
    pub(super) async fn begin(
        reference: &Reference,
        config: &ImagesConfig,
        credentials: &[Credentials],
    ) -> Result<Self, RegistryError> {
        let mut last = None;
        for place in places(reference, config) {
            match Self::from_place(reference, &place, config, credentials).await {
                Ok(pull) => return Ok(pull),
                Err(error) => {
                    tracing::debug!(image = reference.whole(), place = place.host, error = %error, "place cannot give the image");
                    last = Some(error);
                }
            }
        }
        Err(last.expect("because the registry itself is always a place"))
    }

    async fn from_place(
        reference: &Reference,
        place: &Place,
        config: &ImagesConfig,
        credentials: &[Credentials],
    ) -> Result<Self, RegistryError> {
        let image = reference.whole();
        let failed = |source| RegistryError::Pull { image: image.clone(), place: place.host.clone(), source };
        let broken = |source| RegistryError::Broken { image: image.clone(), place: place.host.clone(), source };
        let mut here = reference.clone();
        if place.host != reference.registry() {
            here.set_mirror_registry(place.host.clone());
        }
        let client = client(place);
        let auth = auth(&place.host, credentials);
        let (mut document, mut digest) = client.pull_manifest_raw(&here, &auth, &ACCEPTED).await.map_err(failed)?;
        if let Some(chosen) = manifest::choose(&document).map_err(broken)? {
            let variant = here.clone_with_digest(chosen);
            (document, digest) = client.pull_manifest_raw(&variant, &auth, &ACCEPTED).await.map_err(failed)?;
        }
        let config_digest = manifest::config_digest(&document).map_err(broken)?;
        let mut configuration = Vec::new();
        let wanted = OciDescriptor { digest: config_digest.clone(), ..OciDescriptor::default() };
        client.pull_blob(&here, &wanted, &mut configuration).await.map_err(failed)?;
        let prepared = PreparedImage::read(&document, &configuration).map_err(broken)?;
        let documents = vec![(digest, document.to_vec()), (config_digest, configuration)];
        Ok(Self { image: prepared, client, reference: here, documents, spool: config.spool.clone() })
    }
}

impl BlobSource for Pull {
    fn open<'a>(&'a self, blob: &'a Blob) -> BlobFuture<'a> {
        Box::pin(async move {
            if let Some((_, bytes)) = self.documents.iter().find(|(digest, _)| *digest == blob.digest) {
                return Ok(Box::new(std::io::Cursor::new(bytes.clone())) as BlobReader);
            }
            let failed = |source| RegistryError::Spool { path: self.spool.clone(), source };
            tokio::fs::create_dir_all(&self.spool).await.map_err(failed)?;
            let path = self.spool.join(blob.digest.replace(':', "-"));
            let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
            let wanted = OciDescriptor {
                digest: blob.digest.clone(),
                media_type: blob.media_type.clone(),
                size: blob.size,
                ..OciDescriptor::default()
            };
            self.client.pull_blob(&self.reference, &wanted, &mut file).await?;
            file.sync_data().await.map_err(failed)?;
            let file = tokio::fs::File::open(&path).await.map_err(failed)?;
            // The open file keeps the bytes until they are in containerd; nothing is left when the agent dies.
            tokio::fs::remove_file(&path).await.map_err(failed)?;
            Ok(Box::new(file) as BlobReader)
        })
    }
}

/// One address to ask.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    host: String,
    plain: bool,
}

/// Mirrors of the image's registry in order, then the registry itself.
fn places(reference: &Reference, config: &ImagesConfig) -> Vec<Place> {
    let mirrors = config.mirrors.iter().filter(|mirror| mirror.registry == reference.registry());
    let mirrors = mirrors.map(|mirror| {
        let plain = mirror.url.starts_with("http://");
        let host = mirror.url.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
        Place { host: host.to_owned(), plain }
    });
    let own = reference.resolve_registry().to_owned();
    let plain = own.starts_with("127.0.0.1:") || own.starts_with("localhost:");
    mirrors.chain([Place { host: own, plain }]).collect()
}

fn client(place: &Place) -> Client {
    Client::new(ClientConfig {
        protocol: if place.plain { ClientProtocol::Http } else { ClientProtocol::Https },
        read_timeout: Some(READ_LIMIT),
        connect_timeout: Some(CONNECT_LIMIT),
        ..ClientConfig::default()
    })
}

fn auth(host: &str, credentials: &[Credentials]) -> RegistryAuth {
    let matches = |credentials: &&Credentials| {
        let named = credentials.registry.trim_start_matches("https://").split('/').next();
        named == Some(host) || (host == "index.docker.io" && named == Some("docker.io"))
    };
    match credentials.iter().find(matches) {
        Some(found) => RegistryAuth::Basic(found.user.clone(), found.password.clone()),
        None => RegistryAuth::Anonymous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_asked_before_the_registry_itself() {
        let mirror = |registry: &str, url: &str| RegistryMirror { registry: registry.into(), url: url.into() };
        let mirrors = vec![mirror("docker.io", "http://10.0.2.2:5000/"), mirror("quay.io", "https://elsewhere")];
        let config = ImagesConfig { mirrors, ..ImagesConfig::default() };
        let reference = "nginx:1".parse().expect("because it is an image name");
        let places = places(&reference, &config);
        assert_eq!(places[0], Place { host: "10.0.2.2:5000".into(), plain: true });
        assert_eq!((places.len(), places[1].plain), (2, false));
    }

    #[test]
    fn credentials_are_given_to_their_registry_only() {
        let known = [Credentials { registry: "https://quay.io/v1/".into(), user: "u".into(), password: "p".into() }];
        assert_eq!(auth("quay.io", &known), RegistryAuth::Basic("u".into(), "p".into()));
        assert_eq!(auth("docker.io", &known), RegistryAuth::Anonymous);
    }
}
