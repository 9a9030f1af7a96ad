//! What PID 1, machined and the image builder must agree on, as values and bytes.
//!
//! The image builder encodes, PID 1 and machined parse. Nothing here opens a file, asks the clock or draws a random
//! number, and bytes from a disk or a socket never panic: they are parsed into typed values or refused with the
//! reason.

mod applied_log;
pub mod artefact;
mod boot_record;
mod command_line;
mod crc32;
pub mod esp;
mod gpt;
mod guid;
mod layout;
mod medium;
mod meta;
mod modules;
mod policy_files;
mod protocol;
mod root_hash;
mod slot;
pub mod tpm;
mod uki;
mod verity;
mod workload;

pub use applied_log::{
    APPLIED_ENTRIES_MAX, APPLIED_LOG_BYTES_MAX, AppliedEntry, AppliedLog, AppliedLogError, LogEntry,
};
pub use boot_record::{Attempt, BootRecord, BootRecordError, DEADLINE_SECONDS, REASON_BYTES_MAX, STARTS_MAX};
pub use command_line::{COMMAND_LINE_BYTES_MAX, CommandLine, CommandLineError, Parameter};
pub use gpt::{
    ALIGN_SECTORS, BACKUP_SECTORS, ENTRIES_MAX, Encoded, GptError, LABEL_UNITS_MAX, PRIMARY_SECTORS, Partition,
    SECTOR_BYTES, Table, TableError, label, type_guid,
};
pub use guid::{Guid, GuidError};
pub use layout::{EPHEMERAL_BYTES_MIN, PartitionSizes, partition_medium};
pub use medium::{
    LOADER_DEVICE_PART_UUID, LOADER_DEVICE_PART_UUID_BYTES, MEDIUM_DESCRIPTION, MEDIUM_DESCRIPTION_BYTES_MAX,
    MEDIUM_IN_INITRAMFS, Medium, MediumError, loader_partition,
};
pub use meta::{META_BYTES, META_RECORD_BYTES_MAX, MetaError, MetaKind, MetaRecord};
pub use modules::{
    ENCRYPTION_MODULES, EXTENSION_MODULES, ModuleList, ModuleListError, ROOT_MODULES, STAGE_ONE_MODULES,
};
pub use policy_files::{POLICY_KEY, POLICY_PART_BYTES_MAX, POLICY_PARTS, POLICY_SIGNATURES};
pub use protocol::{ExitStatus, INIT_FD, INIT_FD_VARIABLE, MESSAGE_BYTES_MAX, ParseMessageError, ToInit, ToMachined};
pub use root_hash::{RootHash, RootHashError};
pub use slot::{
    EFI_VARIABLE_ATTRIBUTES, EMPTY_SLOT_GUID, LOADER_CONFIGURATION, LOADER_ENTRY_ONE_SHOT, RootSlot, Slot, UKI_FOLDER,
    root_slots,
};
pub use uki::{UkiError, expected_uki_pcr, volumes_opened};
pub use verity::{SUPERBLOCK_BYTES, Superblock, VERITY_BLOCK_BYTES, VerityError, VerityTable};
pub use workload::{PID1_PROGRAM, WORKLOAD, WORKLOAD_CGROUP, WORKLOAD_HOLDER, WORKLOAD_READY};
