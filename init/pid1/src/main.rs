//! PID 1: initramfs /init and the real root's first process, one binary for both stages.
//!
//! machined starts it as the first process behind the walls around containers, which is another thing altogether (`workload`).
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
mod watchdog;
mod workload;

use std::process::ExitCode;

use init_boot::WORKLOAD;
use init_linux::Linux;

use crate::trial::Trial;

/// The argument by which stage one tells stage two what it is.
pub(crate) const STAGE_TWO: &str = "stage-two";

static KERNEL: Linux = Linux::new();

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "pid1 is the first process of a Cairn machine and does nothing elsewhere; use cairn-image run to boot one"
        );
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if arguments == [WORKLOAD] {
        return workload::run(&KERNEL);
    }
    last_resort::install_panic_hook();
    match arguments.as_slice() {
        [STAGE_TWO, times, trial] => stage_two::run(&KERNEL, times, Trial::from_argument(trial)),
        _ => stage_one::run(&KERNEL),
    }
}
