//! The controllers' traits on Linux: netlink, DHCP, block devices, files, clocks, cgroups, and the socket to PID 1.
//!
//! `machined/daemon` builds these and hands them to controllers. Each struct implements one trait of `machined/controllers`; none
//! decides anything. Every call has a written time limit, because a controller that hangs takes its part of the machine along.

mod block;
mod boot_disk;
mod clock;
mod console;
mod dhcp;
mod extensions;
mod fetch;
mod files;
mod init;
mod install;
mod kernel_log;
mod links;
mod meta;
mod processes;
mod reset;
mod services;
mod tpm;
mod upgrade;
mod walls;

pub use block::LinuxBlock;
pub use boot_disk::boot_disk;
pub use clock::LinuxClock;
pub use console::Console;
pub use dhcp::LinuxDhcp;
pub use extensions::LinuxExtensions;
pub use files::LinuxFiles;
pub use init::{InitError, InitSocket};
pub use install::{InstallError, InstallMedium, MediumReadError, install, list_disks};
pub use kernel_log::{KernelLine, KernelLog};
pub use links::{LinkWatchError, LinuxLinks, watch_links};
pub use meta::LinuxMeta;
pub use processes::{MachineMemory, ProcessMemory, machine_memory, processes};
pub use reset::LinuxReset;
pub use services::{LinuxServices, SERVICES_CGROUP, cgroup_of, log_pipe, memory_of, watch_children};
pub use tpm::LinuxTpm;
pub use upgrade::{ARTEFACT_BYTES_MAX, Incoming, LinuxUpgrade, Staging, StagingError};
