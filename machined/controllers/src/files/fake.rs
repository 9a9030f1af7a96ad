//! Files in memory, for tests.

use super::{FileError, FilesHost, Lasting};
use crate::tpm::fake::{Fate, Power};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Every file that was put, with how it was asked to last.
#[derive(Default)]
pub(crate) struct FakeFiles(Mutex<BTreeMap<PathBuf, (Vec<u8>, Lasting)>>, Mutex<Option<Arc<Power>>>);

impl FakeFiles {
    pub(crate) fn put(&self, path: &str, text: &str) {
        let file = (text.as_bytes().to_vec(), Lasting::Durable);
        self.0.lock().expect("because no test panics with it").insert(path.into(), file);
    }
    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().expect("because no test panics with it").remove(Path::new(path));
    }
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let files = self.0.lock().expect("because no test panics with it");
        files.get(Path::new(path)).map(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned())
    }
    /// From now on a write may be lost, whole, to a power cut.
    pub(crate) fn powered_by(&self, power: &Arc<Power>) {
        *self.1.lock().expect("because no test panics with it") = Some(Arc::clone(power));
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
        let power = self.1.lock().expect("because no test panics with it").clone();
        let fate = power.map_or(Fate::Done, |power| power.operate());
        if fate != Fate::Lost {
            self.0.lock().expect("because no test panics with it").insert(path.into(), (bytes.to_vec(), lasting));
        }
        let source = std::io::Error::other("no power");
        if fate == Fate::Done { Ok(()) } else { Err(FileError { doing: "write", path: path.into(), source }) }
    }
    async fn set(&self, path: &Path, value: &str) -> Result<bool, FileError> {
        self.replace(path, value.as_bytes(), Lasting::Boot).await.map(|()| true)
    }
}
