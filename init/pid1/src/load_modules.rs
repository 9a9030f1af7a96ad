//! Loads a list of kernel modules, those of one level at the same time.
//!
//! A module that fails is told and passed over: the machine may well do without it, and what it cannot do without fails by name later.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use init_boot::ModuleList;
use init_linux::Kernel;

use crate::log;

/// More threads than this only wait for one another: most of the kernel's work on a module is under one lock.
const THREADS_MAX: usize = 4;
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
        Ok(list) => list.levels().iter().map(|level| load_level(kernel, level)).sum(),
        Err(error) => {
            log::line(kernel, &format!("{}: {error}", path.display()));
            0
        }
    }
}

fn load_level(kernel: &dyn Kernel, level: &[String]) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(level.len());
    let (next, loaded) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(path) = level.get(next.fetch_add(1, Ordering::Relaxed)) {
            match kernel.load_module(Path::new(path)) {
                Ok(()) => {
                    loaded.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => log::line(kernel, &error.story()),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without another thread this one does all the work.
            let started = std::thread::Builder::new().spawn_scoped(scope, work);
            if started.is_err() {
                break;
            }
        }
        work();
    });
    loaded.into_inner()
}
