//! Images in containerd: blobs into the content store, layers into snapshots, a name on top.
//!
//! A lease holds everything while it is half there; afterwards labels lead the garbage collector from the image's
//! name over manifest and configuration to layers and snapshots.

use super::{Containerd, unless_gone, unless_there};
use crate::images::{Blob, BlobSource, ImageHandle, PreparedImage};
use crate::runtime::RuntimeError;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AbortRequest, CreateImageRequest, CreateRequest, DeleteRequest, GetImageRequest, Image, InfoRequest,
    ReadContentRequest, UpdateImageRequest, WriteAction, WriteContentRequest,
};
use containerd_client::tonic::Request;
use containerd_client::tonic::transport::Channel;
use containerd_client::types::Descriptor;
use futures_util::StreamExt;
use std::collections::HashMap;
use tokio::io::AsyncReadExt;

/// Bytes per message of an upload; gRPC's default limit for a message is 4 MiB.
const CHUNK: usize = 1 << 20;
/// Messages of an upload in flight.
const CHUNKS_IN_FLIGHT: usize = 4;
/// Holds what an unfinished image has so far, over a death of the agent too; one is enough, pulls take turns.
const LEASE: &str = "cairn-pull";
/// Largest manifest or configuration in bytes; the OCI distribution specification asks for 4 MiB.
const DOCUMENT_LIMIT: usize = 4 << 20;

impl Containerd {
    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    /// A request whose results stay until the image is whole.
    pub(super) fn leased<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.metadata_mut().insert("containerd-lease", LEASE.parse().expect("because the name is plain ASCII"));
        request
    }

    /// Digest of the manifest that `name` stands for, when it was stored before.
    ///
    /// # Errors
    /// When containerd cannot be asked.
    pub(crate) async fn image_digest(&self, name: &str) -> Result<Option<String>, RuntimeError> {
        let request = GetImageRequest { name: name.to_owned() };
        let found = unless_gone(ImagesClient::new(self.channel.clone()).get(self.request(request)).await);
        let found = found.map_err(self.failed(format!("look for the image {name}")))?;
        Ok(found.and_then(|answer| answer.into_inner().image?.target).map(|target| target.digest))
    }

    /// Reads a manifest or configuration.
    ///
    /// # Errors
    /// When it is missing or larger than a document may be.
    pub(crate) async fn read_document(&self, digest: &str) -> Result<Vec<u8>, RuntimeError> {
        let doing = || format!("read the blob {digest}");
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let answer = self.content().read(self.request(request)).await.map_err(self.failed(doing()))?;
        let mut parts = answer.into_inner();
        let mut document = Vec::new();
        while let Some(part) = parts.next().await {
            document.extend_from_slice(&part.map_err(self.failed(doing()))?.data);
            if document.len() > DOCUMENT_LIMIT {
                let message = format!("it is larger than {DOCUMENT_LIMIT} bytes");
                return Err(RuntimeError::Refused { doing: doing(), message });
            }
        }
        Ok(document)
    }

    /// Stores an image under `name`: blobs that are missing, then layers, then the name.
    ///
    /// # Errors
    /// When a blob cannot be had or does not match its digest; a second call continues.
    pub(crate) async fn store_image(
        &self,
        name: &str,
        image: &PreparedImage,
        blobs: &dyn BlobSource,
    ) -> Result<(), RuntimeError> {
        self.lease().await?;
        let layers = image.layers.iter().map(|layer| (layer, HashMap::new()));
        let config = (&image.config, self.config_labels(&image.handle));
        for (blob, labels) in layers.chain([config, (&image.manifest, manifest_labels(image))]) {
            self.store_blob(blob, labels, blobs).await?;
        }
        let mut parent = String::new();
        for ((layer, diff_id), chain) in image.layers.iter().zip(&image.diff_ids).zip(&image.chains) {
            if !self.has_snapshot(chain).await? {
                self.unpack_layer(descriptor(layer), diff_id, &parent, chain).await?;
            }
            parent.clone_from(chain);
        }
        self.name_image(name, &image.manifest).await?;
        self.release().await
    }

    async fn lease(&self) -> Result<(), RuntimeError> {
        let request = CreateRequest { id: LEASE.to_owned(), labels: HashMap::new() };
        let made = LeasesClient::new(self.channel.clone()).create(self.request(request)).await.map(drop);
        unless_there(made).map_err(self.failed("hold on to an unfinished image"))
    }

    async fn release(&self) -> Result<(), RuntimeError> {
        let request = DeleteRequest { id: LEASE.to_owned(), sync: false };
        let gone = unless_gone(LeasesClient::new(self.channel.clone()).delete(self.request(request)).await);
        gone.map(drop).map_err(self.failed("let go of an image"))
    }

    fn config_labels(&self, handle: &ImageHandle) -> HashMap<String, String> {
        HashMap::from([(format!("containerd.io/gc.ref.snapshot.{}", self.config.snapshotter), handle.chain.clone())])
    }

    async fn store_blob(
        &self,
        blob: &Blob,
        labels: HashMap<String, String>,
        blobs: &dyn BlobSource,
    ) -> Result<(), RuntimeError> {
        let doing = || format!("store the blob {}", blob.digest);
        let request = InfoRequest { digest: blob.digest.clone() };
        if unless_gone(self.content().info(self.request(request)).await).map_err(self.failed(doing()))?.is_some() {
            return Ok(());
        }
        let upload = format!("cairn-{}", blob.digest);
        // A half-written upload of an agent that died would otherwise be locked or continue at an unknown place.
        let abort = AbortRequest { r#ref: upload.clone() };
        unless_gone(self.content().abort(self.request(abort)).await).map_err(self.failed(doing()))?;
        let reader = blobs
            .open(blob)
            .await
            .map_err(|error| RuntimeError::Refused { doing: doing(), message: error.to_string() })?;
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_IN_FLIGHT);
        let feed = feed(reader, sender, upload, blob.clone(), labels);
        let drain = async {
            let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let mut answers = self.content().write(self.leased(stream)).await?.into_inner();
            while let Some(answer) = answers.next().await {
                answer?;
            }
            Ok(())
        };
        let (fed, written) = tokio::join!(feed, drain);
        fed.map_err(|error| RuntimeError::Refused { doing: doing(), message: error.to_string() })?;
        unless_there(written).map_err(self.failed(doing()))
    }

    async fn name_image(&self, name: &str, manifest: &Blob) -> Result<(), RuntimeError> {
        let doing = format!("name the image {name}");
        let target = Some(descriptor(manifest));
        let image = Image { name: name.to_owned(), target, ..Image::default() };
        let mut client = ImagesClient::new(self.channel.clone());
        let create = CreateImageRequest { image: Some(image.clone()), source_date_epoch: None };
        match client.create(self.request(create)).await {
            Ok(_made) => Ok(()),
            Err(status) if status.code() == containerd_client::tonic::Code::AlreadyExists => {
                let update = UpdateImageRequest { image: Some(image), update_mask: None, source_date_epoch: None };
                client.update(self.request(update)).await.map(drop).map_err(self.failed(doing))
            }
            Err(status) => Err(self.failed(doing)(status)),
        }
    }
}

/// Sends a blob's bytes; containerd checks size and digest at the commit.
async fn feed(
    mut reader: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
    sender: tokio::sync::mpsc::Sender<WriteContentRequest>,
    upload: String,
    blob: Blob,
    labels: HashMap<String, String>,
) -> std::io::Result<()> {
    let mut offset = 0;
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        (&mut reader).take(CHUNK as u64).read_to_end(&mut data).await?;
        let last = data.len() < CHUNK;
        let sent = data.len() as i64;
        let message = WriteContentRequest {
            action: if last { WriteAction::Commit } else { WriteAction::Write }.into(),
            r#ref: upload.clone(),
            total: blob.size,
            expected: blob.digest.clone(),
            offset,
            data,
            labels: if last { labels.clone() } else { HashMap::new() },
        };
        // The receiver is gone when containerd has answered early; its answer says why.
        if sender.send(message).await.is_err() || last {
            return Ok(());
        }
        offset += sent;
    }
}

fn descriptor(blob: &Blob) -> Descriptor {
    Descriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest.clone(),
        size: blob.size,
        annotations: HashMap::new(),
    }
}

/// Leads the garbage collector from a manifest to what it names.
fn manifest_labels(image: &PreparedImage) -> HashMap<String, String> {
    let named = std::iter::once(&image.config).chain(&image.layers);
    named
        .enumerate()
        .map(|(index, blob)| (format!("containerd.io/gc.ref.content.{index}"), blob.digest.clone()))
        .collect()
}
