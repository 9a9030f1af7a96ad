//! reboot(2).

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};

use crate::error::SystemError;
use crate::kernel::Power;

/// Ends the machine at once, without writing anything; comes back only with the reason why not.
pub(crate) fn end(power: Power) -> SystemError {
    let (mode, subject) = match power {
        Power::Reboot => (RebootMode::RB_AUTOBOOT, "restart"),
        Power::Off => (RebootMode::RB_POWER_OFF, "power off"),
    };
    match reboot(mode) {
        Ok(never) => match never {},
        Err(source) => SystemError::new("reboot", subject, source),
    }
}

/// Makes Ctrl-Alt-Del a SIGINT to PID 1 instead of an immediate restart.
///
/// # Errors
/// When the caller may not.
pub(crate) fn soften_ctrl_alt_del() -> Result<(), SystemError> {
    set_cad_enabled(false).map_err(|source: Errno| SystemError::new("reboot", "Ctrl-Alt-Del", source))
}
