//! Snapshots: unpacked layers, and the writable layer on top for each container.

use super::{Containerd, unless_gone, unless_there};
use crate::runtime::RuntimeError;
use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::tonic::transport::Channel;
use containerd_client::types::{Descriptor, Mount};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Keeps a layer from containerd's garbage collector, which may run before a container refers to the layer.
/// <https://github.com/containerd/containerd/blob/main/docs/garbage-collection.md>
const GC_ROOT: &str = "containerd.io/gc.root";

impl Containerd {
    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// Whether a committed layer chain of that id is there.
    pub(crate) async fn has_snapshot(&self, key: &str) -> Result<bool, RuntimeError> {
        let request = StatSnapshotRequest { snapshotter: self.config.snapshotter.clone(), key: key.to_owned() };
        let found = unless_gone(self.snapshots().stat(self.request(request)).await);
        Ok(found.map_err(self.failed(format!("look for the layer {key}")))?.is_some())
    }

    /// A writable layer on `parent` that stays until it is removed or committed; a left-over of that name is replaced.
    pub(super) async fn prepare_snapshot(&self, key: &str, parent: &str) -> Result<Vec<Mount>, RuntimeError> {
        self.remove_snapshot(key).await?;
        let request = PrepareSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::from([(GC_ROOT.to_owned(), "cairn".to_owned())]),
        };
        let made = self.snapshots().prepare(self.request(request)).await;
        Ok(made.map_err(self.failed(format!("make a layer on {parent}")))?.into_inner().mounts)
    }

    /// Removes a layer; a missing one is no error.
    pub(super) async fn remove_snapshot(&self, key: &str) -> Result<(), RuntimeError> {
        let request = RemoveSnapshotRequest { snapshotter: self.config.snapshotter.clone(), key: key.to_owned() };
        let removed = unless_gone(self.snapshots().remove(self.request(request)).await);
        removed.map(drop).map_err(self.failed(format!("remove the layer {key}")))
    }

    /// Unpacks one layer blob onto `parent` as `chain`. The blob must unpack to `diff_id`.
    pub(super) async fn unpack_layer(
        &self,
        layer: Descriptor,
        diff_id: &str,
        parent: &str,
        chain: &str,
    ) -> Result<(), RuntimeError> {
        let blob = layer.digest.clone();
        let key = format!("unpack-{chain}");
        let mounts = self.prepare_snapshot(&key, parent).await?;
        let request = ApplyRequest { diff: Some(layer), mounts, payloads: HashMap::new(), sync_fs: true };
        let applied = DiffClient::new(self.channel.clone()).apply(self.request(request)).await;
        let applied = applied.map_err(self.failed(format!("unpack the layer {blob}")))?.into_inner().applied;
        let found = applied.map(|descriptor| descriptor.digest).unwrap_or_default();
        if found != diff_id {
            self.remove_snapshot(&key).await?;
            let message = format!("it unpacks to {found} and the image says {diff_id}");
            return Err(RuntimeError::Refused { doing: format!("use the layer {blob}"), message });
        }
        let request = CommitSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            name: chain.to_owned(),
            key,
            labels: HashMap::new(),
        };
        let committed = self.snapshots().commit(self.leased(request)).await.map(drop);
        unless_there(committed).map_err(self.failed(format!("keep the layer {chain}")))
    }
}

/// Largest /etc/passwd or /etc/group in bytes that is read.
const ACCOUNTS_LIMIT: u64 = 1 << 20;

impl Containerd {
    /// /etc/passwd and /etc/group of an unpacked image; empty where it has none.
    ///
    /// # Errors
    /// When the layers cannot be looked at.
    pub(crate) async fn accounts(&self, chain: &str) -> Result<(String, String), RuntimeError> {
        // Several containers of one image may start at once, and a look that was cut off may have left its snapshot.
        let _one_look_at_a_time = self.looks.lock().await;
        let key = format!("look-{chain}");
        self.remove_snapshot(&key).await?;
        let layers = layers(&self.prepare_snapshot(&key, chain).await?);
        let read = |name: &str| layers.iter().find_map(|layer| read_inside(layer, name)).unwrap_or_default();
        let found = (read("etc/passwd"), read("etc/group"));
        self.remove_snapshot(&key).await?;
        Ok(found)
    }
}

/// Folders of the layers that make up mounts, topmost first.
fn layers(mounts: &[Mount]) -> Vec<PathBuf> {
    let of_mount = |mount: &Mount| -> Vec<PathBuf> {
        match mount.r#type.as_str() {
            "overlay" => {
                let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
                lower.into_iter().flat_map(|list| list.split(':')).map(PathBuf::from).collect()
            }
            _bind => vec![PathBuf::from(&mount.source)],
        }
    };
    mounts.iter().flat_map(of_mount).collect()
}

/// Reads a file of a layer. Links are not followed: they would lead into the host's own files.
fn read_inside(layer: &Path, name: &str) -> Option<String> {
    let path = layer.join(name);
    let real = path.canonicalize().ok()?;
    if real != layer.canonicalize().ok()?.join(name) {
        return None;
    }
    let mut text = String::new();
    std::fs::File::open(real).ok()?.take(ACCOUNTS_LIMIT).read_to_string(&mut text).ok()?;
    Some(text)
}
