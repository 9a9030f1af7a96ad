//! UEFI firmware: OVMF from the host's package `ovmf`.
//!
//! Each machine gets its own copy of the variables, made once; the code is shared and read-only.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Pairs of code and variables by folder, as Debian and others name them; larger flash first.
const CANDIDATES: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

/// Pairs that know Secure Boot; the variables hold no keys, so the machine starts in setup mode.
const SECURE: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
];

/// Code and variables that fit each other.
#[derive(Debug, Clone)]
pub(crate) struct Firmware {
    /// The code, read-only.
    pub(crate) code: PathBuf,
    /// Empty variables that fit it, to be copied.
    pub(crate) variables: PathBuf,
    /// Whether the code knows Secure Boot; it protects its variables by system management mode.
    pub(crate) secure: bool,
}

/// Finds the host's firmware, one with Secure Boot when asked for.
pub(crate) fn find(secure: bool) -> anyhow::Result<Firmware> {
    let candidates: &[(&str, &str)] = if secure { &SECURE } else { &CANDIDATES };
    for (code, variables) in candidates {
        if Path::new(code).exists() && Path::new(variables).exists() {
            return Ok(Firmware { code: code.into(), variables: variables.into(), secure });
        }
    }
    bail!("there is no UEFI firmware for virtual machines on this host; install it with: apt-get install ovmf")
}
