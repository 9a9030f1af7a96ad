//! Loads a list of kernel modules, one after the other.
//!
//! Two threads were tried and left: under TCG with two processors the seven modules of stage one took 0.45 s
//! one by one and 0.65 to 1.1 s with threads, which mostly spin on the kernel's lock.
//!
//! A module that fails is told and passed over: the machine may well do without it, and what it cannot do without
//! fails by name later.

use std::path::Path;

use init_boot::ModuleList;
use init_linux::Kernel;

use crate::log;

/// A list of 8192 paths of 100 characters fits, in bytes.
const LIST_BYTES_MAX: usize = 1024 * 1024;

/// Loads what the list at `path` names; gives how many were loaded. No list means nothing to load.
pub(crate) fn load_list(kernel: &dyn Kernel, path: &Path) -> usize {
    if !kernel.exists(path) {
        log::line(kernel, &format!("there is no module list {}", path.display()));
        return 0;
    }
    let bytes = match kernel.read_file(path, LIST_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) => {
            log::line(kernel, &error.story());
            return 0;
        }
    };
    match ModuleList::parse(&String::from_utf8_lossy(&bytes)) {
        Ok(list) => list.paths().iter().filter(|module| load(kernel, Path::new(module))).count(),
        Err(error) => {
            log::line(kernel, &format!("{}: {error}", path.display()));
            0
        }
    }
}

fn load(kernel: &dyn Kernel, module: &Path) -> bool {
    let loaded = kernel.load_module(module);
    if let Err(error) = &loaded {
        log::line(kernel, &error.story());
    }
    loaded.is_ok()
}
