//! The disk as a qcow2 file, version 3, which holds only what is not zeros: small to copy, and a base for overlays.
//!
//! Called by `pipeline`. Written once from front to back: header, refcounts, L1, L2, data. Format: QEMU's docs/interop/qcow2.rst.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::disk::{CHUNK_BYTES, Disk};
use crate::files::FileError;

/// Bytes of a cluster: QEMU's default, and the granularity at which the disk leaves zeros out.
const CLUSTER: u64 = CHUNK_BYTES as u64;
const CLUSTER_BITS: u32 = CLUSTER.trailing_zeros();
/// Entries of 8 bytes in a cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Refcounts of 16 bits in a cluster.
const REFCOUNTS: u64 = CLUSTER / 2;
/// Set in table entries whose cluster is used once, and so may be written in place.
const COPIED: u64 = 1 << 63;
/// Bytes of the header of version 3.
const HEADER_BYTES: u32 = 104;

/// Where everything lies in the file, in clusters.
struct Layout {
    refcount_table: u64,
    refcount_table_clusters: u64,
    refcount_blocks: u64,
    refcount_block_count: u64,
    l1: u64,
    l1_entries: u64,
    l2: u64,
    data: u64,
    total: u64,
}

impl Layout {
    fn plan(size: u64, l2_tables: u64, data_clusters: u64) -> Layout {
        let l1_entries = size.div_ceil(CLUSTER * ENTRIES);
        let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
        let payload = 1 + l1_clusters + l2_tables + data_clusters;
        // Refcounts count their own clusters too: repeat until the numbers agree, which they do after two or three rounds.
        let (mut blocks, mut tables) = (1, 1);
        loop {
            let total = payload + blocks + tables;
            let (wanted_blocks, wanted_tables) = (total.div_ceil(REFCOUNTS), total.div_ceil(REFCOUNTS * ENTRIES));
            if (wanted_blocks, wanted_tables) == (blocks, tables) {
                break;
            }
            (blocks, tables) = (wanted_blocks, wanted_tables);
        }
        let refcount_blocks = 1 + tables;
        let l1 = refcount_blocks + blocks;
        let l2 = l1 + l1_clusters;
        let data = l2 + l2_tables;
        Layout {
            refcount_table: 1,
            refcount_table_clusters: tables,
            refcount_blocks,
            refcount_block_count: blocks,
            l1,
            l1_entries,
            l2,
            data,
            total: data + data_clusters,
        }
    }

    fn header(&self, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(b"QFI\xfb");
        bytes.extend(3u32.to_be_bytes());
        bytes.extend(0u64.to_be_bytes()); // no backing file
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(CLUSTER_BITS.to_be_bytes());
        bytes.extend(size.to_be_bytes());
        bytes.extend(0u32.to_be_bytes()); // not encrypted
        bytes.extend((self.l1_entries as u32).to_be_bytes());
        bytes.extend((self.l1 * CLUSTER).to_be_bytes());
        bytes.extend((self.refcount_table * CLUSTER).to_be_bytes());
        bytes.extend((self.refcount_table_clusters as u32).to_be_bytes());
        bytes.extend([0; 12]); // no snapshots
        bytes.extend([0; 24]); // no feature that a reader must know
        bytes.extend(4u32.to_be_bytes()); // refcounts of 2^4 bits
        bytes.extend(HEADER_BYTES.to_be_bytes());
        bytes.extend([0; 8]); // no header extensions
        bytes
    }
}

/// Writes the disk.
///
/// # Errors
/// When the file cannot be written.
pub fn write(disk: &Disk, path: &Path) -> Result<(), FileError> {
    let file = File::create(path).map_err(FileError::because("create", path))?;
    stream(disk, BufWriter::with_capacity(1 << 20, file)).map_err(FileError::because("write", path))
}

/// Writes the disk to a stream.
fn stream(disk: &Disk, mut out: impl Write) -> io::Result<()> {
    let clusters = clusters(disk);
    let mut tables: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for guest in clusters.keys() {
        tables.entry(guest / ENTRIES).or_default().push(*guest);
    }
    let layout = Layout::plan(disk.size, tables.len() as u64, clusters.len() as u64);

    write_padded(&mut out, &layout.header(disk.size))?;
    let blocks = (0..layout.refcount_block_count).map(|block| (layout.refcount_blocks + block) * CLUSTER);
    write_padded(&mut out, &big_endian(blocks))?;
    let mut refcounts = Vec::new();
    for cluster in 0..layout.refcount_block_count * REFCOUNTS {
        refcounts.extend(u16::from(cluster < layout.total).to_be_bytes());
    }
    write_padded(&mut out, &refcounts)?;

    let mut l1 = vec![0; layout.l1_entries as usize];
    for (index, table) in tables.keys().enumerate() {
        l1[*table as usize] = ((layout.l2 + index as u64) * CLUSTER) | COPIED;
    }
    write_padded(&mut out, &big_endian(l1))?;
    let mut next = layout.data;
    for guests in tables.values() {
        let mut l2 = vec![0; ENTRIES as usize];
        for guest in guests {
            l2[(guest % ENTRIES) as usize] = (next * CLUSTER) | COPIED;
            next += 1;
        }
        write_padded(&mut out, &big_endian(l2))?;
    }
    for pieces in clusters.values() {
        let mut cluster = vec![0; CLUSTER as usize];
        for (offset, bytes) in pieces {
            cluster[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        out.write_all(&cluster)?;
    }
    out.flush()
}

/// Guest clusters with content: number to pieces within the cluster.
fn clusters(disk: &Disk) -> BTreeMap<u64, Vec<(usize, &[u8])>> {
    let mut clusters: BTreeMap<u64, Vec<(usize, &[u8])>> = BTreeMap::new();
    for (offset, bytes) in disk.chunks() {
        clusters.entry(offset / CLUSTER).or_default().push(((offset % CLUSTER) as usize, bytes));
    }
    clusters
}

fn big_endian(entries: impl IntoIterator<Item = u64>) -> Vec<u8> {
    entries.into_iter().flat_map(u64::to_be_bytes).collect()
}

fn write_padded(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    let padding = bytes.len().next_multiple_of(CLUSTER as usize) - bytes.len();
    out.write_all(&vec![0; padding])
}

#[cfg(test)]
mod tests;
