//! What happens when PID 1 itself cannot go on: it says so on the console, leaves time to read it, and starts the
//! machine again.
//!
//! A PID 1 that ends is a kernel panic, which shows less and may not restart.

use std::time::Duration;

use init_linux::{Kernel, Linux, Power};

use crate::log;

/// How long a message stays on the console before the machine starts again: long enough to read, short enough for a
/// machine that nobody watches.
const READING_TIME: Duration = Duration::from_secs(10);

/// Makes every panic end in [`restart`].
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| restart(&Linux::new(), &format!("PID 1 failed: {panic}"))));
}

/// Says why on console and log and starts the machine again.
pub(crate) fn restart(kernel: &dyn Kernel, reason: &str) -> ! {
    announce(kernel, reason);
    kernel.sync();
    let error = kernel.end(Power::Reboot);
    kernel.shout(&format!("{}\r\n", error.story()));
    loop {
        std::thread::park();
    }
}

/// Says why on console and log and leaves time to read it.
pub(crate) fn announce(kernel: &dyn Kernel, reason: &str) {
    log::line(kernel, reason);
    let seconds = READING_TIME.as_secs();
    kernel.shout(&format!(
        "\r\n\r\n*** Cairn cannot go on ***\r\n{reason}\r\nThe machine starts again in {seconds} s.\r\n"
    ));
    kernel.pause(READING_TIME);
}
