//! PID 1: initramfs /init and the real root's first process, one binary for both stages.
//!
//! The kernel starts it without our argument: stage one finds, verifies and mounts the root and starts this program
//! again from there, as stage two, which prepares the machine, runs machined and outlives everything. Neither may
//! ever end or panic: what cannot be handled is told on the console and the machine starts again.

mod boot_times;
mod cgroups;
mod find_slot;
mod last_resort;
mod load_modules;
mod log;
mod mount_table;
mod other_slot;
mod shutdown;
mod stage_one;
mod stage_two;
mod supervision;
#[cfg(test)]
mod tests;
mod trial;

use std::process::ExitCode;

use init_linux::Linux;

use crate::trial::Trial;

/// The argument by which stage one tells stage two what it is.
pub(crate) const STAGE_TWO: &str = "stage-two";
/// Where the image puts this program in the root.
pub(crate) const PID1_PROGRAM: &str = "/usr/bin/pid1";

static KERNEL: Linux = Linux::new();

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "pid1 is the first process of a Cairn machine and does nothing elsewhere; use cairn-image run to boot one"
        );
        return ExitCode::FAILURE;
    }
    last_resort::install_panic_hook();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [STAGE_TWO, times, trial] => stage_two::run(&KERNEL, times, Trial::from_argument(trial)),
        _ => stage_one::run(&KERNEL),
    }
}
