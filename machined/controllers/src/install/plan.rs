//! What is written to a disk, and in which order. Pure: a plan leaves no choices.
//!
//! ```text
//! mark   sector 0: "cairn:installing"     firmware starts this disk no more, and a second run knows its own
//! clear  the first and the last MiB
//! fill   ESP, root, META with the seed, the beginning and end of what machined formats at first boot
//! second the partition table's second copy
//! first  the partition table
//! boot   sector 0: the protective MBR     without it the table counts for nobody (UEFI specification 2.10, 5.2.3)
//! ```
//!
//! Each phase is kept by the disk and read back before the next begins; the last is one sector.

use init_boot::{
    META_BYTES, MetaError, MetaKind, MetaRecord, Partition, PartitionSizes, RootHash, SECTOR_BYTES, Slot, Table,
    TableError, label,
};

/// The beginning of sector 0 while an installation is not finished.
pub const INSTALLING: &[u8; 16] = b"cairn:installing";

/// What is cleared at the beginning and the end of a disk and of partitions, in bytes: where tables, labels and superblocks lie.
const EDGE_BYTES: u64 = 1 << 20;
/// What is cleared at the beginning of a partition that machined formats, in bytes: a LUKS2 header with its key slots has 16 MiB.
const HEADER_BYTES: u64 = 16 << 20;
const SECTOR: usize = SECTOR_BYTES as usize;

/// What is written.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many zeros.
    Zeros(u64),
    /// The root image of the medium, of this length and SHA-256.
    Root {
        /// Its length.
        bytes: u64,
        /// What it must be.
        sha256: [u8; 32],
    },
}

impl Content {
    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Zeros(bytes) | Content::Root { bytes, .. } => *bytes,
        }
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Content::Zeros(bytes) => write!(f, "{bytes} zeros"),
            Content::Root { bytes, .. } => write!(f, "root image of {bytes} bytes"),
        }
    }
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// What.
    pub content: Content,
}

/// Writes whose order does not matter; all are kept by the disk before the next phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// What people are told.
    pub name: &'static str,
    /// They do not overlap.
    pub writes: Vec<Write>,
}

/// An installation, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The last one makes the disk bootable.
    pub phases: Vec<Phase>,
    /// The partition table that the disk gets.
    pub table: Table,
}

/// What the disk gets.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// How it is divided.
    pub sizes: PartitionSizes,
    /// Content of the EFI system partition: offsets within it, and bytes. What they leave out may hold anything.
    pub esp: &'a [(u64, Vec<u8>)],
    /// Verity root hash of the root image.
    pub root_hash: RootHash,
    /// The root image.
    pub root: Content,
    /// Text of the seed, when the medium has one.
    pub seed: Option<&'a [u8]>,
    /// What no other disk has: random bytes.
    pub identity: [u8; 32],
}

/// Why there is no plan.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The partitions do not fit.
    #[error("the partitions do not fit on this disk")]
    Table(#[from] TableError),
    /// The root image does not fit.
    #[error("the root image has {bytes} bytes, a slot {slot}; build the medium anew")]
    Root {
        /// Its length.
        bytes: u64,
        /// A slot's.
        slot: u64,
    },
    /// The seed does not fit.
    #[error("the seed does not fit on META")]
    Seed(#[from] MetaError),
}

/// What to write to a disk of `disk_bytes` bytes.
///
/// # Errors
/// When something does not fit.
pub fn plan(disk_bytes: u64, parts: &Parts<'_>) -> Result<Plan, PlanError> {
    let table = parts.sizes.partition(disk_bytes / SECTOR_BYTES, &parts.root_hash, &parts.identity)?;
    if parts.root.bytes() > parts.sizes.root {
        return Err(PlanError::Root { bytes: parts.root.bytes(), slot: parts.sizes.root });
    }
    let encoded = table.encode();
    let (mbr, first) = encoded.primary.split_at(SECTOR);
    let mut mark = INSTALLING.to_vec();
    mark.resize(SECTOR, 0);
    let end = table.sectors() * SECTOR_BYTES;
    let phase = |name, writes| Phase { name, writes };
    let bytes = |offset, bytes: &[u8]| Write { offset, content: Content::Bytes(bytes.to_vec()) };
    let phases = vec![
        phase("marking the disk as unfinished", vec![bytes(0, &mark)]),
        phase(
            "clearing what was there",
            vec![zeros(SECTOR_BYTES, EDGE_BYTES - SECTOR_BYTES), zeros(end - EDGE_BYTES, EDGE_BYTES)],
        ),
        phase("writing the image", fill(&table, parts)?),
        phase("writing the partition table's second copy", vec![bytes(encoded.backup_offset, &encoded.backup)]),
        phase("writing the partition table", vec![bytes(SECTOR_BYTES, first)]),
        phase("making the disk bootable", vec![bytes(0, mbr)]),
    ];
    Ok(Plan { phases, table })
}

const fn zeros(offset: u64, bytes: u64) -> Write {
    Write { offset, content: Content::Zeros(bytes) }
}

/// All that lies in partitions.
fn fill(table: &Table, parts: &Parts<'_>) -> Result<Vec<Write>, PlanError> {
    let place = |label: &str| {
        let (_, partition) = table.find_label(label).expect("because every disk has it");
        partition
    };
    let mut writes = Vec::new();
    let esp = place(label::ESP).offset_bytes();
    for (offset, bytes) in parts.esp {
        writes.push(Write { offset: esp + offset, content: Content::Bytes(bytes.clone()) });
    }
    writes.push(Write { offset: place(Slot::A.label()).offset_bytes(), content: parts.root.clone() });
    writes.push(zeros(place(Slot::B.label()).offset_bytes(), EDGE_BYTES));
    let mut meta = match parts.seed {
        Some(seed) => MetaRecord { kind: MetaKind::Seed, bytes: seed.to_vec() }.encode()?,
        None => Vec::new(),
    };
    meta.resize(META_BYTES as usize, 0);
    writes.push(Write {
        offset: place(label::META).offset_bytes() + MetaKind::Seed.offset(),
        content: Content::Bytes(meta),
    });
    for label in [label::STATE, label::EPHEMERAL] {
        writes.extend(empty(place(label)));
    }
    Ok(writes)
}

/// Makes a partition look empty, so that machined formats it at first boot.
fn empty(partition: &Partition) -> Vec<Write> {
    let (begin, size) = (partition.offset_bytes(), partition.size_bytes());
    if size <= HEADER_BYTES + EDGE_BYTES {
        return vec![zeros(begin, size)];
    }
    vec![zeros(begin, HEADER_BYTES), zeros(begin + size - EDGE_BYTES, EDGE_BYTES)]
}
