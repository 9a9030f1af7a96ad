//! Platform configuration registers: which one, its value, and what extending makes of it.

use super::Fault;
use super::wire::{Reader, Writer};
use crate::root_hash::decode_hex;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// How many registers a TPM of a PC has in each bank.
pub const PCR_COUNT: u8 = 24;
/// Bytes of a register of the SHA-256 bank, the only one that is used here.
pub const PCR_BYTES: usize = 32;

const ALG_SHA256: u16 = 0x000b;
/// Bytes of a selection's bitmap.
const SELECT_BYTES: usize = 3;
/// The most registers that one answer holds (`TPML_DIGEST`).
pub(super) const PCRS_MAX: usize = 8;

/// The number of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pcr(u8);

impl Pcr {
    /// Boot loaders and kernels that the firmware started, by their Authenticode digests.
    pub const BOOT_PROGRAMS: Pcr = Pcr(4);
    /// Whether Secure Boot is on, and with which keys.
    pub const SECURE_BOOT: Pcr = Pcr(7);
    /// The sections of the unified kernel image, measured by systemd's stub.
    pub const UKI: Pcr = Pcr(11);
    /// What changes how the image starts and is not part of it: another command line, credentials. Zero on a machine as it should be.
    pub const OVERRIDES: Pcr = Pcr(12);
    /// What machined applied. 8 and 9 are GRUB's, 10 is IMA's, 13 and 14 belong to system extensions and to shim; 15 is what the
    /// UAPI group gives to the identity of the system, and like all below 16 it cannot be reset without a restart.
    pub const APPLIED: Pcr = Pcr(15);

    /// A register's number.
    #[must_use]
    pub const fn new(number: u8) -> Option<Pcr> {
        if number < PCR_COUNT { Some(Pcr(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Pcr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PCR {}", self.0)
    }
}

/// What a register of the SHA-256 bank holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PcrValue([u8; PCR_BYTES]);

impl PcrValue {
    /// As after a start, before anything was extended.
    pub const ZERO: PcrValue = PcrValue([0; PCR_BYTES]);

    /// Takes a value's bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; PCR_BYTES]) -> Self {
        PcrValue(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; PCR_BYTES] {
        &self.0
    }

    /// Reads 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; PCR_BYTES];
        decode_hex(text.as_bytes(), &mut bytes).map(|()| PcrValue(bytes))
    }

    /// The value after a digest was extended.
    #[must_use]
    pub fn extended(self, digest: &[u8; PCR_BYTES]) -> Self {
        PcrValue(Sha256::new().chain_update(self.0).chain_update(digest).finalize().into())
    }
}

impl fmt::Display for PcrValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for PcrValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What a quote says about registers: SHA-256 over their values, in the order of their numbers.
#[must_use]
pub fn pcr_digest(values: &[PcrValue]) -> [u8; PCR_BYTES] {
    values.iter().fold(Sha256::new(), |hash, value| hash.chain_update(value.0)).finalize().into()
}

/// A selection of registers of the SHA-256 bank.
pub(super) fn write_selection(writer: Writer, pcrs: &[Pcr]) -> Writer {
    let mut bits = [0_u8; SELECT_BYTES];
    for Pcr(number) in pcrs {
        bits[usize::from(number / 8)] |= 1 << (number % 8);
    }
    writer.u32(1).u16(ALG_SHA256).u8(SELECT_BYTES as u8).bytes(&bits)
}

/// A selection of the SHA-256 bank alone, in the order of numbers.
pub(super) fn read_selection(reader: &mut Reader<'_>) -> Result<Vec<Pcr>, Fault> {
    reader.expect_u32(1, "it selects another number of banks")?;
    reader.expect_u16(ALG_SHA256, "it selects another bank")?;
    let length = reader.u8()?;
    if usize::from(length) != SELECT_BYTES {
        return Err(Fault::Malformed("its selection has another length"));
    }
    let bits = reader.take(SELECT_BYTES)?;
    let chosen = |number: &u8| bits[usize::from(number / 8)] & (1 << (number % 8)) != 0;
    Ok((0..PCR_COUNT).filter(chosen).map(Pcr).collect())
}

/// A list of values.
pub(super) fn read_values(reader: &mut Reader<'_>) -> Result<Vec<PcrValue>, Fault> {
    let count = reader.u32()? as usize;
    if count > PCRS_MAX {
        return Err(Fault::Malformed("it holds more values than fit into an answer"));
    }
    let value = |reader: &mut Reader<'_>| {
        let bytes = reader.sized()?.try_into().map_err(|_| Fault::Malformed("a value has another length"))?;
        Ok(PcrValue(bytes))
    };
    (0..count).map(|_| value(reader)).collect()
}
