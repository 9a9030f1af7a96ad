//! Images beside the first one: built, broken on purpose, served by HTTP, and named in a machine's document.

use crate::artefacts;
use crate::cluster::{Cluster, HOST_IN_GUEST};
use crate::places::{Places, text};
use anyhow::{Context, Result};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A built image.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) version: String,
    pub(crate) number: u64,
    pub(crate) digest: String,
    pub(crate) file: PathBuf,
    folder: String,
}

/// Where images are built, and served for as long as this value lives.
pub(crate) struct Images {
    places: Places,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Images {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Images {
    /// Begins to serve them.
    pub(crate) async fn serve(places: &Places) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(serve_files(listener, places.home("images")));
        Ok(Images { places: places.clone(), address, serving })
    }

    /// Builds an image of this version; `broken` names a program that is replaced by one that ends at once.
    pub(crate) async fn build(&self, version: &str, broken: Option<&str>) -> Result<Image> {
        let folder = self.places.home("images").join(version);
        let programs = match broken {
            Some(program) => Some(self.programs_without(program)?),
            None => None,
        };
        let mut more = vec!["--image-version", version];
        if let Some(programs) = &programs {
            more.extend(["--binaries", programs]);
        }
        artefacts::image_of(&self.places, &folder, &more, programs.is_some()).await?;
        let manifest = std::fs::read_to_string(folder.join("manifest.json")).context("reading the image's manifest")?;
        let manifest: Value = serde_json::from_str(&manifest)?;
        let word =
            |key: &str| manifest[key].as_str().map(str::to_owned).with_context(|| format!("{key} in a manifest"));
        Ok(Image {
            version: version.to_owned(),
            number: manifest["number"].as_u64().context("number in a manifest")?,
            digest: word("image_digest")?,
            file: folder.join(word("artefact")?),
            folder: version.to_owned(),
        })
    }

    /// The programs of the image, with one that ends at once in place of `program`.
    fn programs_without(&self, program: &str) -> Result<String> {
        let folder = self.places.home("broken-programs");
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(self.places.programs())? {
            let entry = entry?;
            if entry.file_type()?.is_file() && !entry.file_name().to_string_lossy().contains('.') {
                std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
            }
        }
        // Without arguments it prints its help and ends with an error.
        std::fs::copy(self.places.programs().join("cairnctl"), folder.join(program))?;
        text(&folder)
    }

    /// A machine's document in the checkout, with this image named in it: path and text.
    pub(crate) fn document(
        &self,
        cluster: &Cluster,
        machine: &str,
        image: &Image,
        attempt: u32,
    ) -> Result<(String, String)> {
        let path = format!("machines/{machine}.kdl");
        let document = std::fs::read_to_string(cluster.checkout().join(&path)).context("reading the document")?;
        let kept: Vec<&str> = document.lines().filter(|line| !line.trim_start().starts_with("image ")).collect();
        let kept = kept.join("\n");
        let (before, _) = kept.rsplit_once('}').context("a document ends with a brace")?;
        let file = image.file.file_name().and_then(|name| name.to_str()).context("an artefact has a name")?;
        let url = format!("http://{HOST_IN_GUEST}:{}/{}/{file}", self.address.port(), image.folder);
        let line = format!("    image digest=\"{}\" url=\"{url}\" attempt={attempt}", image.digest);
        Ok((path, format!("{}\n{line}\n}}\n", before.trim_end())))
    }
}

/// Serves the files of a folder by HTTP until it is aborted: as much of it as machined's client asks for.
pub(crate) async fn serve_files(listener: TcpListener, folder: PathBuf) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let folder = folder.clone();
        tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or_default();
            let head = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let plain = Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            let answer = match plain.then(|| std::fs::read(folder.join(path))) {
                Some(Ok(bytes)) => (format!("HTTP/1.1 200 OK\r\nContent-Length: {}", bytes.len()), bytes),
                Some(Err(_)) | None => ("HTTP/1.1 404 Not Found\r\nContent-Length: 0".to_owned(), Vec::new()),
            };
            // A machine that loses power in the middle takes no more.
            let _gone = stream.write_all(format!("{}\r\nConnection: close\r\n\r\n", answer.0).as_bytes()).await;
            let _gone = stream.write_all(&answer.1).await;
        });
    }
}
