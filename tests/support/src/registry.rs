//! A small OCI registry on loopback: serves images of OCI archives for pulling, as
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md> says; no pushing, no authentication.

use crate::http::Server;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Images by repository and tag, and the blobs behind them.
#[derive(Debug, Default)]
pub struct Registry {
    blobs: BTreeMap<String, Bytes>,
    tags: BTreeMap<(String, String), Manifest>,
}

#[derive(Debug, Clone)]
struct Manifest {
    digest: String,
    media_type: String,
}

impl Registry {
    /// Adds the first image of an OCI archive (a tar of an image layout) as `repository:tag`.
    ///
    /// # Errors
    /// When the archive cannot be read or has no image.
    pub fn add_archive(&mut self, archive: &Path, repository: &str, tag: &str) -> Result<()> {
        let file = std::fs::File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
        let mut index = None;
        for entry in tar::Archive::new(file).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            if name == "index.json" {
                index = Some(serde_json::from_slice::<Value>(&bytes)?);
            } else if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                self.blobs.insert(format!("sha256:{hex}"), bytes.into());
            }
        }
        let index = index.context("the archive has no index.json")?;
        let text = |field: &str| index["manifests"][0][field].as_str().map(str::to_owned);
        let digest = text("digest").context("index.json names no manifest")?;
        let media_type = text("mediaType").unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
        self.tags.insert((repository.to_owned(), tag.to_owned()), Manifest { digest, media_type });
        Ok(())
    }

    /// Serves what was added.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(self, listen: SocketAddr) -> Result<Server> {
        let registry = Arc::new(self);
        Server::start(listen, move |request| {
            let response = registry.answer(&request);
            async move { response }
        })
        .await
    }

    fn answer(&self, request: &Request<Bytes>) -> Result<Response<Bytes>> {
        let path = request.uri().path().strip_prefix("/v2/");
        let found = match path {
            Some("") => Some((Bytes::from_static(b"{}"), "application/json".to_owned(), None)),
            Some(path) => self.find(path),
            None => None,
        };
        let Some((body, media_type, digest)) = found else {
            let error = Bytes::from_static(b"{\"errors\":[{\"code\":\"NOT_FOUND\",\"message\":\"not here\"}]}");
            return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(error)?);
        };
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, media_type)
            .header(header::CONTENT_LENGTH, body.len())
            .header("docker-distribution-api-version", "registry/2.0");
        if let Some(digest) = digest {
            response = response.header("docker-content-digest", digest);
        }
        let body = if request.method() == http::Method::HEAD { Bytes::new() } else { body };
        Ok(response.body(body)?)
    }

    fn find(&self, path: &str) -> Option<(Bytes, String, Option<String>)> {
        if let Some((repository, reference)) = path.rsplit_once("/manifests/") {
            let mut tags = self.tags.iter();
            let named = |((name, tag), manifest): &(&(String, String), &Manifest)| {
                name == repository && (tag == reference || manifest.digest == reference)
            };
            let (_, manifest) = tags.find(named)?;
            let body = self.blobs.get(&manifest.digest)?.clone();
            return Some((body, manifest.media_type.clone(), Some(manifest.digest.clone())));
        }
        let (_, digest) = path.rsplit_once("/blobs/")?;
        let body = self.blobs.get(digest)?.clone();
        Some((body, "application/octet-stream".to_owned(), Some(digest.to_owned())))
    }
}
