//! Files in memory, for tests.

use super::{FileError, FilesHost, Lasting};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Every file that was put, with how it was asked to last.
#[derive(Default)]
pub(crate) struct FakeFiles(Mutex<BTreeMap<PathBuf, (Vec<u8>, Lasting)>>);

impl FakeFiles {
    pub(crate) fn put(&self, path: &str, text: &str) {
        let file = (text.as_bytes().to_vec(), Lasting::Durable);
        self.0.lock().expect("because no test panics with it").insert(path.into(), file);
    }
    pub(crate) fn lasting(&self, path: &str) -> Option<Lasting> {
        self.0.lock().expect("because no test panics with it").get(Path::new(path)).map(|(_, lasting)| *lasting)
    }
}

impl FilesHost for FakeFiles {
    async fn read(&self, path: &Path, _limit: usize) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.0.lock().expect("because no test panics with it").get(path).map(|(bytes, _)| bytes.clone()))
    }
    async fn replace(&self, path: &Path, bytes: &[u8], lasting: Lasting) -> Result<(), FileError> {
        self.0.lock().expect("because no test panics with it").insert(path.into(), (bytes.to_vec(), lasting));
        Ok(())
    }
    async fn set(&self, path: &Path, value: &str) -> Result<bool, FileError> {
        self.replace(path, value.as_bytes(), Lasting::Boot).await.map(|()| true)
    }
}
