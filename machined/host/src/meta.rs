//! Records on the META partition.

use crate::block::find_partition;
use init_boot::{MetaKind, MetaRecord, SECTOR_BYTES};
use machined_controllers::block::BlockError;
use machined_controllers::identity::{MetaAccessError, MetaHost};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The META partition of this machine's disk.
#[derive(Debug, Default)]
pub struct LinuxMeta;

fn device() -> Result<PathBuf, MetaAccessError> {
    match find_partition(init_boot::label::META) {
        Ok(found) => found.ok_or(MetaAccessError::Missing),
        Err(BlockError::List { path, source }) => Err(MetaAccessError::Access { device: path, source }),
        Err(other) => {
            Err(MetaAccessError::Access { device: "/sys/class/block".into(), source: std::io::Error::other(other) })
        }
    }
}

fn read(kind: MetaKind) -> Result<Option<Vec<u8>>, MetaAccessError> {
    let device = device()?;
    let access = |source| MetaAccessError::Access { device: device.clone(), source };
    let mut place = vec![0; kind.place_bytes()];
    File::open(&device).and_then(|file| file.read_exact_at(&mut place, kind.offset())).map_err(access)?;
    let record = MetaRecord::parse(kind, &place);
    record.map(|found| found.map(|record| record.bytes)).map_err(|source| MetaAccessError::Record { device, source })
}

fn write(kind: MetaKind, bytes: Vec<u8>) -> Result<(), MetaAccessError> {
    let device = device()?;
    let access = |source| MetaAccessError::Access { device: device.clone(), source };
    let encoded = MetaRecord { kind, bytes }.encode();
    let encoded = encoded.map_err(|source| MetaAccessError::Record { device: device.clone(), source })?;
    let file = File::options().write(true).open(&device).map_err(access)?;
    file.write_all_at(&encoded, kind.offset()).and_then(|()| file.sync_all()).map_err(access)
}

/// The first sector first: once it is zero there is no record, whatever lies behind it.
pub(crate) fn erase(kind: MetaKind) -> Result<(), MetaAccessError> {
    let device = device()?;
    let access = |source| MetaAccessError::Access { device: device.clone(), source };
    let file = File::options().write(true).open(&device).map_err(access)?;
    let zeros = vec![0; kind.place_bytes()];
    for part in [&zeros[..SECTOR_BYTES as usize], &zeros] {
        file.write_all_at(part, kind.offset()).and_then(|()| file.sync_all()).map_err(access)?;
    }
    Ok(())
}

/// Disk work on a thread of its own; a panic in it is an error like any other.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MetaAccessError> + Send + 'static,
) -> Result<T, MetaAccessError> {
    let panicked = |panic| MetaAccessError::Access { device: "META".into(), source: std::io::Error::other(panic) };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(panicked(panic)))
}

impl MetaHost for LinuxMeta {
    async fn read(&self, kind: MetaKind) -> Result<Option<Vec<u8>>, MetaAccessError> {
        blocking(move || read(kind)).await
    }

    async fn write(&self, kind: MetaKind, bytes: Vec<u8>) -> Result<(), MetaAccessError> {
        blocking(move || write(kind, bytes)).await
    }
}
