//! Bounded reading and single-write writing of small files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;

use crate::error::SystemError;
use crate::kernel::FileKind;

pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<(), SystemError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(SystemError::path("mkdir", path, error)),
    }
}

pub(crate) fn kind(path: &Path) -> Result<FileKind, SystemError> {
    let failed = |source| SystemError::path("lstat", path, source);
    let found = std::fs::symlink_metadata(path).map_err(failed)?.file_type();
    match (found.is_dir(), found.is_symlink()) {
        (true, _) => Ok(FileKind::Directory),
        (false, true) => Ok(FileKind::Link(std::fs::read_link(path).map_err(failed)?)),
        (false, false) => Ok(FileKind::Other),
    }
}

pub(crate) fn read_file(path: &Path, bytes_max: usize) -> Result<Vec<u8>, SystemError> {
    let failed = |source| SystemError::path("read", path, source);
    let mut bytes = Vec::new();
    let limit = bytes_max as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() > bytes_max {
        return Err(failed(io::Error::other(format!("it is longer than {bytes_max} bytes"))));
    }
    Ok(bytes)
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), SystemError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let written = options.open(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|source| SystemError::path("write", path, source))
}

pub(crate) fn list(directory: &Path) -> Result<Vec<String>, SystemError> {
    let failed = |source| SystemError::path("readdir", directory, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

pub(crate) fn read_at(device: &Path, offset: u64, length: usize) -> Result<Vec<u8>, SystemError> {
    let failed = |source| SystemError::path("pread", device, source);
    let mut bytes = vec![0; length];
    File::open(device).and_then(|file| file.read_exact_at(&mut bytes, offset)).map_err(failed)?;
    Ok(bytes)
}

pub(crate) fn write_at(device: &Path, offset: u64, bytes: &[u8]) -> Result<(), SystemError> {
    let written = OpenOptions::new().write(true).open(device).and_then(|file| {
        file.write_all_at(bytes, offset)?;
        file.sync_all()
    });
    written.map_err(|source| SystemError::path("pwrite", device, source))
}
