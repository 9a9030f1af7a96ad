//! Where the trust state lies: one file, sealed with the machine's identity key, replaced whole.
//!
//! A power cut leaves the old or the new file. The seal shows tampering; an old copy put back is recognised by machined's
//! ledger only as far as [`crate::source`] compares them.

use crate::machine::{Machine, MachineError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gitsync_verify::{Refusal, TrustState};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of a state file that are read; a state with a full history has about 40 KB.
const MAX_STATE_BYTES: u64 = 1 << 20;

/// The state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot {call} {path}")]
    File {
        call: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the trust state at {path} is not one that this machine wrote; somebody changed it")]
    Seal { path: String },
    #[error("the trust state cannot be read")]
    State(#[from] Refusal),
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct StateFile {
    path: PathBuf,
    machine: Machine,
}

impl StateFile {
    pub(crate) fn new(folder: &Path, machine: Machine) -> Self {
        StateFile { path: folder.join("trust-state"), machine }
    }

    fn failed(&self, call: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        let path = self.path.display().to_string();
        move |source| StoreError::File { call, path, source }
    }

    /// What was recorded last; `None` when nothing ever was.
    pub(crate) async fn read(&self) -> Result<Option<TrustState>, StoreError> {
        let text = match read_bounded(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read")(error)),
        };
        let sealed = text.split_once('\n').and_then(|(seal, json)| Some((STANDARD.decode(seal).ok()?, json)));
        let unsealed = || StoreError::Seal { path: self.path.display().to_string() };
        let (seal, json) = sealed.ok_or_else(unsealed)?;
        if !self.machine.check(json.as_bytes().to_vec(), seal).await? {
            return Err(unsealed());
        }
        Ok(Some(TrustState::from_json(json.as_bytes())?))
    }

    /// Records a state; when this returns, it is on the disk.
    pub(crate) async fn write(&self, state: &TrustState) -> Result<(), StoreError> {
        let json = state.to_json();
        let seal = STANDARD.encode(self.machine.seal(json.clone()).await?);
        let mut text = seal.into_bytes();
        text.push(b'\n');
        text.extend_from_slice(&json);
        replace(&self.path, &text).map_err(self.failed("write"))
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(File::open(path)?, MAX_STATE_BYTES), &mut text)?;
    Ok(text)
}

/// Old or new, never half: write beside it, flush, rename, flush the folder.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("because the state lies in gitsync's folder");
    fs::create_dir_all(folder)?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}
