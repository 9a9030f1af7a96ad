//! Reading and writing files with errors that say what was being done and where.
//!
//! Every stage goes through here when it touches the disk, so that no message ever says only "No such file".
//! Must never delete anything outside of the build directory: `replace_dir` is handed paths below it only.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct FileError {
    /// What was being done, as in "read", "create".
    pub doing: &'static str,
    /// The path it was done to.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Makes the closure that `map_err` wants.
    pub fn because(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_path_buf();
        move |source| FileError { doing, path, source }
    }
}

/// Reads a whole file.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::because("read", path))
}

/// Reads a whole file that must be UTF-8.
///
/// # Errors
/// When the file cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::because("read", path))
}

/// Writes a file in one go: a reader sees the old content or the new one, never half of it.
///
/// # Errors
/// When the folder does not exist or cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with(path, |partial| fs::write(partial, bytes).map_err(FileError::because("write", partial)))
}

/// Has a file made under another name beside it, and renames it into place when that is done.
///
/// # Errors
/// The maker's own, or when the old file cannot be replaced.
pub fn replace_with<E: From<FileError>>(path: &Path, make: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::because("remove", &partial)(error).into());
        }
        _ => {}
    }
    make(&partial)?;
    Ok(fs::rename(&partial, path).map_err(FileError::because("rename into place", path))?)
}

/// Makes a folder and waits until nobody else holds its lock; `busy` is called when somebody does.
///
/// # Errors
/// When the folder cannot be made or locked.
pub fn lock(folder: &Path, busy: impl FnOnce()) -> Result<File, FileError> {
    create_dir(folder)?;
    let path = folder.join("lock");
    let file = File::create(&path).map_err(FileError::because("create", &path))?;
    if file.try_lock().is_err() {
        busy();
        file.lock().map_err(FileError::because("lock", &path))?;
    }
    Ok(file)
}

/// Makes a folder and its parents.
///
/// # Errors
/// When the folder cannot be made.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::because("create folder", path))
}

/// Removes a folder with all that is in it, when it exists, and makes it again, empty.
///
/// # Errors
/// When it can neither be removed nor made.
pub fn replace_dir(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::because("remove folder", path)(error));
        }
        _ => {}
    }
    create_dir(path)
}

/// Lists a folder, sorted by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let because = || FileError::because("list", path);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(because())? {
        names.push(entry.map_err(because())?.path());
    }
    names.sort();
    Ok(names)
}
