//! Small files, replaced atomically.

use machined_controllers::files::{FileError, FilesHost, Lasting};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

/// Files of this machine.
#[derive(Debug, Default)]
pub struct LinuxFiles;

fn read(path: &Path, limit: usize) -> std::io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    let read = file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if read > limit {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(Some(bytes))
}

fn replace(path: &Path, bytes: &[u8], lasting: Lasting) -> std::io::Result<()> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    if lasting == Lasting::Boot {
        fs::create_dir_all(folder)?;
    }
    let temporary = folder.join(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    if lasting == Lasting::Durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if lasting == Lasting::Durable {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn set(path: &Path, value: &str) -> std::io::Result<bool> {
    match File::options().write(true).open(path) {
        Ok(mut file) => file.write_all(value.as_bytes()).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    path: &Path,
    work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T, FileError> {
    let owned = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&owned)).await;
    let done = done.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    done.map_err(|source| FileError { doing, path: path.to_owned(), source })
}

impl FilesHost for LinuxFiles {
    async fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, FileError> {
        blocking("read", path, move |path| read(path, limit)).await
    }

    async fn replace(&self, path: &Path, bytes: &[u8], lasting: Lasting) -> Result<(), FileError> {
        let bytes = bytes.to_vec();
        blocking("write", path, move |path| replace(path, &bytes, lasting)).await
    }

    async fn set(&self, path: &Path, value: &str) -> Result<bool, FileError> {
        let value = value.to_owned();
        blocking("set", path, move |path| set(path, &value)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let path = folder.path().join("ledger.json");
        let files = LinuxFiles;
        assert_eq!(files.read(&path, 10).await.expect("because missing is no error"), None);
        for text in ["first", "second"] {
            files.replace(&path, text.as_bytes(), Lasting::Durable).await.expect("because the folder is there");
        }
        assert_eq!(files.read(&path, 10).await.expect("because it was written"), Some(b"second".to_vec()));
        assert_eq!(fs::read_dir(folder.path()).expect("because it is there").count(), 1, "nothing is left beside it");
        assert!(files.read(&path, 3).await.is_err(), "it is longer than the limit");
    }

    #[tokio::test]
    async fn a_setting_that_the_kernel_does_not_have_is_said() {
        let files = LinuxFiles;
        let set = files.set(Path::new("/proc/sys/kernel/no_such_setting"), "1").await;
        assert!(!set.expect("because missing is no error"));
    }
}
