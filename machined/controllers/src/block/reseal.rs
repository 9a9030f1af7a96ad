//! Sealing anew: a volume that somebody opened with its recovery key gets a key slot for this TPM and this image's policy.
//!
//! ```text
//! opened by the recovery key   seal, unseal, compare (PCR 11 is still at its value) -- healthy --> written beside the old slots
//! next start                   the new slot opens --------------------------------- -- healthy --> the old slots go
//! ```
//!
//! Until the machine is healthy nothing is written: whoever types a key at a machine that is not this one gives it nothing, because it has another
//! identity. Until a slot opened a start, those before it stay: an image that is gone back to still opens by its own.

use super::encryption::draw;
use super::peers::PeerHost;
use super::volume_spec::VolumeController;
use super::{BlockHost, EncryptionError};
use crate::tpm::TpmHost;
use machined_luks::{Header, Secret, Slot, TPM_TOKEN, Token, VolumeKey};
use machined_reconcile::story;
use std::path::Path;

/// What is left to do with a volume's key slots once the machine is healthy.
pub(super) enum Afterwards {
    /// This slot is written.
    Add(Secret, Token),
    /// These go.
    Forget(Vec<Slot>),
}

/// Whether the machine does what it is there for.
pub type Health = Box<dyn Fn() -> bool + Send + Sync>;

impl<H: BlockHost, T: TpmHost, P: PeerHost> VolumeController<H, T, P> {
    /// Does what is left to do; true when nothing is.
    pub(super) async fn reseal(&mut self) -> bool {
        if !self.afterwards.is_empty() && !(self.healthy)() {
            return false;
        }
        for (target, after) in std::mem::take(&mut self.afterwards) {
            let Some((device, key)) = self.keys.get(target) else { continue };
            let done = match &after {
                Afterwards::Add(secret, token) => add(&*self.host, (device, key), secret, token).await,
                Afterwards::Forget(slots) => forget(&*self.host, device, slots).await,
            };
            match done {
                Ok(()) => tracing::info!(target, "the volume's TPM key slots are those of this machine and image"),
                Err(error) => {
                    tracing::warn!(target, error = story(&error), "the volume's key could not be sealed anew");
                    self.afterwards.insert(target, after);
                }
            }
        }
        self.afterwards.is_empty()
    }
}

/// Writes a slot beside the others, and sees that it opens on the disk before the header names it.
async fn add<H: BlockHost>(
    host: &H,
    (device, key): (&Path, &VolumeKey),
    secret: &Secret,
    token: &Token,
) -> Result<(), EncryptionError> {
    let mut header = Header::parse(&host.front(device).await?)?;
    if !header.has_room() {
        // One that was sealed anew before and never opened a start.
        let oldest: Vec<Slot> = header.slots_of(TPM_TOKEN).into_iter().take(1).collect();
        forget(host, device, &oldest).await?;
        header = Header::parse(&host.front(device).await?)?;
    }
    let mut change = header.add(key, &**secret, token.clone(), &[], &mut draw(host))?;
    let copies = change.split_off(1);
    host.write(device, change).await?;
    header.open(&host.front(device).await?, &**secret)?;
    Ok(host.write(device, copies).await?)
}

/// Takes TPM slots out, and overwrites them.
async fn forget<H: BlockHost>(host: &H, device: &Path, slots: &[Slot]) -> Result<(), EncryptionError> {
    let mut header = Header::parse(&host.front(device).await?)?;
    let known = header.slots_of(TPM_TOKEN);
    let slots: Vec<Slot> = slots.iter().copied().filter(|slot| known.contains(slot)).collect();
    if slots.is_empty() {
        return Ok(());
    }
    let change = header.remove(&slots, &mut draw(host))?;
    let erased = slots.into_iter().map(|slot| Header::erase(slot, &mut draw(host)));
    Ok(host.write(device, change.into_iter().chain(erased).collect()).await?)
}
