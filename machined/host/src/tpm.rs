//! The TPM through the kernel's resource manager, `/dev/tpmrm0`. Commands and responses are `init_boot::tpm`'s.
//!
//! One command at a time for this process; the kernel orders those of different processes, waits for a busy TPM, and drops what is
//! loaded when the file is closed. So the file stays open: the identity key stays loaded in it. Blocking work runs on a thread of its own
//! with a time limit.

mod held_key;
mod seal;

use held_key::HeldKey;
use init_boot::tpm::{
    COUNTER_INDEX, KeyHandle, Pcr, PcrValue, PolicyKey, Sealed, TPM_MESSAGE_BYTES_MAX, TpmCommand, TpmError,
    WrappedKey, create_attestation_key, create_signing_key, create_storage_key, flush, load_key, nv_define_counter,
    nv_increment, nv_read_counter, nv_read_public, nv_undefine, pcr_extend, pcr_read, quote, response_length, sign,
};
use machined_access::ChipKey;
use machined_controllers::tpm::{TpmAccessError, TpmEvidence, TpmHost};
use machined_luks::{Secret, SignedPolicy};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The kernel's resource manager.
const DEVICE: &str = "/dev/tpmrm0";
/// Longest that one call may take. The slowest is making a key, which discrete chips do in less than ten seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// The TPM of this machine.
#[derive(Debug, Clone)]
pub struct LinuxTpm {
    device: PathBuf,
    /// Held while the TPM is talked to; what is open stays so for the next turn.
    turn: Arc<Mutex<Option<Talk>>>,
}

impl Default for LinuxTpm {
    fn default() -> Self {
        LinuxTpm::at(Path::new(DEVICE))
    }
}

/// Where commands go: a device, or the socket of a TPM made of software.
trait Channel: Read + Write + Send {}
impl Channel for File {}
impl Channel for UnixStream {}

/// A TPM that is being talked to.
struct Talk {
    device: PathBuf,
    channel: Box<dyn Channel>,
    /// The key that is loaded for signing.
    key: Option<(WrappedKey, KeyHandle)>,
}

impl fmt::Debug for Talk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Talk").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Talk {
    fn open(device: &Path) -> Result<Self, TpmAccessError> {
        let open = || -> io::Result<Box<dyn Channel>> {
            if std::fs::metadata(device)?.file_type().is_socket() {
                return Ok(Box::new(UnixStream::connect(device)?));
            }
            Ok(Box::new(File::options().read(true).write(true).open(device)?))
        };
        let channel = open().map_err(|source| TpmAccessError::Access { device: device.to_owned(), source })?;
        Ok(Talk { device: device.to_owned(), channel, key: None })
    }

    fn send<T>(&mut self, command: &TpmCommand<T>) -> Result<Result<T, TpmError>, TpmAccessError> {
        let response = self.exchange(command.bytes());
        let response = response.map_err(|source| TpmAccessError::Access { device: self.device.clone(), source })?;
        Ok(command.decode(&response))
    }

    /// A command that must succeed.
    fn run<T>(&mut self, command: &TpmCommand<T>) -> Result<T, TpmAccessError> {
        let answer = self.send(command)?;
        answer.map_err(|source| TpmAccessError::Answer { device: self.device.clone(), source })
    }

    /// The device gives a response in one read; a socket may give it in parts.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.channel.write_all(command)?;
        let (mut response, mut filled) = (vec![0; TPM_MESSAGE_BYTES_MAX], 0);
        loop {
            let wanted = response_length(&response[..filled]);
            if wanted.is_some_and(|wanted| filled >= wanted) {
                break;
            }
            match self.channel.read(&mut response[filled..])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        response.truncate(filled);
        Ok(response)
    }

    /// The counter's value; `None` while there is none.
    fn counter(&mut self) -> Result<Option<u64>, TpmAccessError> {
        match self.send(&nv_read_public(COUNTER_INDEX))? {
            Ok(public) if !public.is_our_counter() => {
                Err(TpmAccessError::Foreign { device: self.device.clone(), index: COUNTER_INDEX.0 })
            }
            Ok(public) if !public.is_written() => Ok(None),
            Ok(_) => self.run(&nv_read_counter(COUNTER_INDEX)).map(Some),
            Err(error) if error.is_missing() => Ok(None),
            Err(source) => Err(TpmAccessError::Answer { device: self.device.clone(), source }),
        }
    }

    fn increment(&mut self) -> Result<u64, TpmAccessError> {
        if self.counter()?.is_none() {
            // Made and not incremented before a power cut: then it is there already.
            match self.send(&nv_read_public(COUNTER_INDEX))? {
                Ok(_) => {}
                Err(_) => self.run(&nv_define_counter(COUNTER_INDEX))?,
            }
        }
        self.run(&nv_increment(COUNTER_INDEX))?;
        self.run(&nv_read_counter(COUNTER_INDEX))
    }

    fn forget_counter(&mut self) -> Result<(), TpmAccessError> {
        match self.send(&nv_read_public(COUNTER_INDEX))? {
            Ok(public) if public.is_our_counter() => self.run(&nv_undefine(COUNTER_INDEX)),
            // What somebody else has there is theirs; the counter says so where it is needed.
            Ok(_) => Ok(()),
            Err(error) if error.is_missing() => Ok(()),
            Err(source) => Err(TpmAccessError::Answer { device: self.device.clone(), source }),
        }
    }

    fn quote(&mut self, nonce: &[u8], pcrs: &[Pcr]) -> Result<TpmEvidence, TpmAccessError> {
        let key = self.run(&create_attestation_key())?;
        let quoted =
            self.run(&quote(key.handle, nonce, pcrs)).and_then(|quote| Ok((quote, self.run(&pcr_read(pcrs))?)));
        // The resource manager forgets it with the file; a TPM without one has room for three.
        self.run(&flush(key.handle))?;
        let (quote, values) = quoted?;
        Ok(TpmEvidence { key: key.public, quote, values })
    }
}

/// The storage key while `work` runs.
fn with_storage_key<T>(
    talk: &mut Talk,
    work: impl FnOnce(&mut Talk, KeyHandle) -> Result<T, TpmAccessError>,
) -> Result<T, TpmAccessError> {
    let storage = talk.run(&create_storage_key())?;
    let done = work(talk, storage);
    talk.run(&flush(storage))?;
    done
}

impl Talk {
    fn make_key(&mut self) -> Result<WrappedKey, TpmAccessError> {
        with_storage_key(self, |talk, storage| talk.run(&create_signing_key(storage)))
    }

    /// The handle of a key, which is loaded when it is not the one that is.
    fn loaded(&mut self, key: &WrappedKey) -> Result<KeyHandle, TpmAccessError> {
        if let Some((known, handle)) = &self.key {
            if known == key {
                return Ok(*handle);
            }
            let handle = *handle;
            self.key = None;
            self.run(&flush(handle))?;
        }
        let handle = with_storage_key(self, |talk, storage| {
            talk.send(&load_key(storage, key))?.map_err(|source| talk.foreign(source))
        })?;
        self.key = Some((key.clone(), handle));
        Ok(handle)
    }

    fn sign(&mut self, key: &WrappedKey, digest: &[u8; 32]) -> Result<[u8; 64], TpmAccessError> {
        let handle = self.loaded(key)?;
        let signature = self.run(&sign(handle, digest));
        if let Err(TpmAccessError::Answer { .. }) = &signature {
            // Whatever became of the key in there, the next signature loads it again. It may be gone already.
            self.key = None;
            let _gone = self.send(&flush(handle))?;
        }
        Ok(signature?.0)
    }
}

impl LinuxTpm {
    /// The TPM behind another device file, or behind the socket of a TPM made of software.
    #[must_use]
    pub fn at(device: &Path) -> Self {
        LinuxTpm { device: device.to_owned(), turn: Arc::default() }
    }

    /// Talks to the TPM on this thread. After an error of the device the next turn opens it anew.
    fn turn<T>(&self, work: impl FnOnce(&mut Talk) -> Result<T, TpmAccessError>) -> Result<T, TpmAccessError> {
        // A turn that panicked left nothing behind: what was open is taken out first.
        let mut turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut talk = match turn.take() {
            Some(talk) => talk,
            None => Talk::open(&self.device)?,
        };
        let done = work(&mut talk);
        if !matches!(done, Err(TpmAccessError::Access { .. })) {
            *turn = Some(talk);
        }
        done
    }

    async fn talk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Talk) -> Result<T, TpmAccessError> + Send + 'static,
    ) -> Result<T, TpmAccessError> {
        let tpm = self.clone();
        let talking = tokio::task::spawn_blocking(move || tpm.turn(work));
        match tokio::time::timeout(LIMIT, talking).await {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => {
                Err(TpmAccessError::Access { device: self.device.clone(), source: io::Error::other(panic) })
            }
            Err(_) => Err(TpmAccessError::Silent { device: self.device.clone(), limit: LIMIT }),
        }
    }
}

impl TpmHost for LinuxTpm {
    fn is_present(&self) -> bool {
        // devtmpfs shows it as soon as the driver, which is built in, has found a TPM 2.0.
        self.device.exists()
    }

    async fn counter(&self) -> Result<Option<u64>, TpmAccessError> {
        self.talk(Talk::counter).await
    }

    async fn increment(&self) -> Result<u64, TpmAccessError> {
        self.talk(Talk::increment).await
    }

    async fn extend(&self, pcr: Pcr, digest: [u8; 32]) -> Result<(), TpmAccessError> {
        self.talk(move |talk| talk.run(&pcr_extend(pcr, &digest))).await
    }

    async fn registers(&self, pcrs: Vec<Pcr>) -> Result<Vec<(Pcr, PcrValue)>, TpmAccessError> {
        self.talk(move |talk| talk.run(&pcr_read(&pcrs))).await
    }

    async fn quote(&self, nonce: Vec<u8>, pcrs: Vec<Pcr>) -> Result<TpmEvidence, TpmAccessError> {
        self.talk(move |talk| talk.quote(&nonce, &pcrs)).await
    }

    async fn forget_counter(&self) -> Result<(), TpmAccessError> {
        self.talk(Talk::forget_counter).await
    }

    async fn make_key(&self) -> Result<WrappedKey, TpmAccessError> {
        self.talk(Talk::make_key).await
    }

    async fn load_key(&self, key: WrappedKey) -> Result<Arc<dyn ChipKey>, TpmAccessError> {
        let loaded = key.clone();
        self.talk(move |talk| talk.loaded(&loaded)).await?;
        Ok(Arc::new(HeldKey::new(self.clone(), key)))
    }

    async fn seal(&self, secret: Secret, key: PolicyKey) -> Result<Sealed, TpmAccessError> {
        self.talk(move |talk| talk.seal(&secret, &key)).await
    }

    async fn unseal(&self, sealed: Sealed, policy: SignedPolicy) -> Result<Secret, TpmAccessError> {
        self.talk(move |talk| talk.unseal(&sealed, &policy)).await
    }
}

#[cfg(test)]
mod attestation_tests;
#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod seal_tests;
#[cfg(test)]
mod tests;
