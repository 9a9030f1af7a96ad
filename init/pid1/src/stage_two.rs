//! Stage two, PID 1 of the running machine: prepare, run machined, reap, until somebody ends the machine.
//!
//! One thread does all of it; two others carry machined's output to the kernel's log and load the root's modules.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use init_boot::{ROOT_MODULES, ToInit};
use init_linux::{Channel, Kernel, Launch, Linux, Power, Propagation, Wake};

use crate::boot_times::{BOOT_TIMES, BootTimes};
use crate::supervision::{Ended, Next, QUICK_FAILURES_MAX, Supervision};
use crate::trial::{self, Trial};
use crate::watchdog::Watchdog;
use crate::{cgroups, last_resort, load_modules, log, mount_table, other_slot, shutdown};

const MACHINED: &str = "/usr/bin/machined";
/// What all processes inherit unless they choose otherwise: containerd holds several descriptors for each container.
const OPEN_FILES_SOFT: u64 = 65_536;
/// What they may raise it to: the kernel's fs.nr_open.
const OPEN_FILES_HARD: u64 = 1_048_576;
/// Waits may fail for want of memory, which passes; more failures than this do not.
const FAILED_WAITS_MAX: u32 = 10;
/// The pause after a failed wait, so that it is not asked again at once.
const FAILED_WAIT_PAUSE: Duration = Duration::from_secs(1);
/// Settings that must be right before anything else runs: name, value, reason.
const SETTINGS: [(&str, &str); 3] = [
    // A kernel that panics starts again: nobody stands beside the machine.
    ("/proc/sys/kernel/panic", "10"),
    // Our lines must not be dropped when there are many; only root can write them.
    ("/proc/sys/kernel/printk_devkmsg", "on"),
    // Addresses of the kernel are for root only.
    ("/proc/sys/kernel/kptr_restrict", "1"),
];

/// Runs stage two on the real kernel; never comes back.
pub(crate) fn run(kernel: &'static Linux, times: &str, trial: Trial) -> ExitCode {
    let mut times = BootTimes::from_argument(times);
    times.mark("stage-two", kernel.uptime());
    if let Err(reason) = prepare(kernel, &mut times) {
        last_resort::restart(kernel, &format!("the machine could not be prepared: {reason}"));
    }
    let loading = std::thread::Builder::new().name("modules".to_owned()).spawn(move || load_root_modules(kernel));
    if let Err(error) = loading {
        log::line(kernel, &format!("the thread that loads modules could not be started: {error}"));
        load_root_modules(kernel);
    }
    supervise(kernel, trial);
    last_resort::restart(kernel, "the machine could not be ended in order")
}

/// Everything that machined may rely on.
pub(crate) fn prepare(kernel: &dyn Kernel, times: &mut BootTimes) -> Result<(), String> {
    kernel.take_signals().map_err(|error| error.story())?;
    // The walls around containers follow what is mounted here later.
    kernel.propagate(Path::new("/"), Propagation::Shared).map_err(|error| error.story())?;
    mount_table::mount_second(kernel)?;
    for (name, value) in SETTINGS {
        // printk_devkmsg insists on the line feed.
        if let Err(error) = kernel.write_file(Path::new(name), format!("{value}\n").as_bytes()) {
            log::line(kernel, &error.story());
        }
    }
    kernel.limit_open_files(OPEN_FILES_SOFT, OPEN_FILES_HARD).map_err(|error| error.story())?;
    cgroups::make(kernel).map_err(|error| error.story())?;
    times.mark("prepared", kernel.uptime());
    kernel.write_file(Path::new(BOOT_TIMES), times.to_file().as_bytes()).map_err(|error| error.story())?;
    log::line(kernel, "stage two is prepared");
    Ok(())
}

fn load_root_modules(kernel: &dyn Kernel) {
    let loaded = load_modules::load_list(kernel, Path::new(ROOT_MODULES));
    mount_table::mount_variables(kernel);
    log::line(kernel, &format!("{loaded} modules of the root are loaded"));
}

/// Keeps machined running until the machine is to end, and then ends it; comes back only when that fails.
pub(crate) fn supervise(kernel: &dyn Kernel, mut trial: Trial) {
    let mut supervision = Supervision::new();
    let mut channel: Option<Channel> = None;
    let mut failed_waits = 0;
    let mut watchdog = Watchdog::new(kernel.uptime());
    loop {
        let petted = watchdog.turn(kernel);
        let now = kernel.uptime();
        let timeout = match supervision.next(now) {
            Next::Start => {
                channel = start(kernel, &mut supervision);
                continue;
            }
            Next::WaitUntil(until) => Some(until.saturating_sub(now)),
            Next::Wait => None,
            Next::GiveUp => {
                let why = format!("machined failed {QUICK_FAILURES_MAX} times in a row and never became healthy");
                return give_up(kernel, &why);
            }
        };
        let timeout = match (timeout, trial.left(now)) {
            (_, Some(Duration::ZERO)) => {
                return give_up(kernel, "this image is being tried and did not become good in time");
            }
            (Some(timeout), Some(left)) => Some(timeout.min(left)),
            (timeout, left) => timeout.or(left),
        };
        let timeout = [timeout, petted].into_iter().flatten().min();
        let blocked = channel.as_ref().is_some_and(|channel| !send_all(kernel, &mut supervision, channel));
        match kernel.wait(channel.as_ref(), blocked, timeout) {
            Ok(Wake::Child) => reap_all(kernel, &mut supervision, &mut channel),
            Ok(Wake::Message(packet)) => match ToInit::parse(&packet) {
                Ok(ToInit::Healthy) => {
                    log::line(kernel, "machined is healthy");
                    supervision.said_healthy();
                }
                Ok(ToInit::Good) => {
                    log::line(kernel, "this image is good");
                    trial = Trial::None;
                }
                Ok(ToInit::Reboot) => return shutdown::end(kernel, Power::Reboot),
                Ok(ToInit::Poweroff) => return shutdown::end(kernel, Power::Off),
                Err(error) => log::line(kernel, &error.to_string()),
            },
            // Its end, which follows, is what counts.
            Ok(Wake::Closed) => channel = None,
            Ok(Wake::Writable | Wake::Timeout) => {}
            Ok(Wake::Restart) => return shutdown::end(kernel, Power::Reboot),
            Ok(Wake::PowerOff) => return shutdown::end(kernel, Power::Off),
            Err(error) => {
                log::line(kernel, &error.story());
                failed_waits += 1;
                if failed_waits == FAILED_WAITS_MAX {
                    return shutdown::end(kernel, Power::Reboot);
                }
                kernel.pause(FAILED_WAIT_PAUSE);
            }
        }
    }
}

fn start(kernel: &dyn Kernel, supervision: &mut Supervision) -> Option<Channel> {
    let launch = Launch {
        program: PathBuf::from(MACHINED),
        arguments: Vec::new(),
        environment: vec![("PATH".to_owned(), "/usr/bin:/usr/sbin".to_owned())],
        cgroup: PathBuf::from(cgroups::MACHINED_GROUP),
    };
    match kernel.start(&launch) {
        Ok(started) => {
            log::line(kernel, &format!("machined runs as process {}", started.pid));
            supervision.started(started.pid, kernel.uptime());
            Some(started.channel)
        }
        Err(error) => {
            log::line(kernel, &error.story());
            supervision.start_failed(kernel.uptime());
            None
        }
    }
}

/// Sends what is waiting; `false` when there was no room for all of it.
fn send_all(kernel: &dyn Kernel, supervision: &mut Supervision, channel: &Channel) -> bool {
    while let Some(message) = supervision.to_send() {
        match kernel.send(channel, message.to_string().as_bytes()) {
            Ok(true) => supervision.sent(),
            Ok(false) => return false,
            // machined is ending; the next one gets them.
            Err(_) => return true,
        }
    }
    true
}

fn reap_all(kernel: &dyn Kernel, supervision: &mut Supervision, channel: &mut Option<Channel>) {
    while let Ok(Some(reaped)) = kernel.reap() {
        match supervision.reaped(reaped.pid, reaped.status, kernel.uptime()) {
            Ended::Machined => {
                *channel = None;
                let failures = supervision.quick_failures();
                log::line(
                    kernel,
                    &format!("machined ended with {}, quick failure {failures} of {QUICK_FAILURES_MAX}", reaped.status),
                );
            }
            Ended::Other => {}
        }
    }
}

/// This root does not work: the other slot is tried when it holds something, else the same one again.
fn give_up(kernel: &dyn Kernel, why: &str) {
    trial::end(kernel, why);
    let next = other_slot::choose(kernel);
    last_resort::announce(kernel, &format!("{why}. {next}"));
    shutdown::end(kernel, Power::Reboot);
}
