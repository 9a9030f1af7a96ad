//! PID 1's lines in the kernel's log: `cairn: <seconds since the kernel started> <what happened>`.

use init_linux::Kernel;

/// Writes one line.
pub(crate) fn line(kernel: &dyn Kernel, text: &str) {
    let uptime = kernel.uptime();
    kernel.log(&format!("cairn: {:.3} {text}", uptime.as_secs_f64()));
}
