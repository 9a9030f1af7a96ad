//! dm-verity, dm-linear and dm-crypt by three ioctls on /dev/mapper/control: create the device, load its table, resume it.
//!
//! The request is laid out by hand, as linux/dm-ioctl.h has it: a header of 312 bytes, one target description of 40,
//! its parameters.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use init_boot::VerityTable;
use nix::errno::Errno;
use nix::libc::{self, c_ulong};

use crate::error::SystemError;
use crate::keyring::LogonKey;

const CONTROL: &str = "/dev/mapper/control";
const HEADER_BYTES: usize = 312;
const TARGET_BYTES: usize = 40;
/// DM_NAME_LEN, its closing NUL included, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// The interface version that we speak; the kernel takes every 4.x.
const VERSION: [u32; 3] = [4, 0, 0];
const READ_ONLY: u32 = 1;

/// The commands that we use and their numbers.
#[derive(Clone, Copy)]
enum Command {
    Create = 3,
    Remove = 4,
    Resume = 6,
    LoadTable = 9,
}

/// What is mapped: one target over all of the device.
struct Target<'a> {
    kind: &'static str,
    sectors: u64,
    parameters: &'a str,
    read_only: bool,
}

/// Encrypted data on a partition, as dm-crypt takes it. The key stands nowhere in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CryptTable {
    /// The partition.
    pub device: PathBuf,
    /// Where the data begins, in sectors of 512 bytes.
    pub offset_sectors: u64,
    /// How much there is, in sectors of 512 bytes.
    pub sectors: u64,
    /// The cipher, as the kernel names it.
    pub cipher: &'static str,
    /// Bytes of a sector of the encryption.
    pub sector_size: u32,
}

impl CryptTable {
    /// The parameters, with the key by its name in the kernel's keyring.
    fn parameters(&self, description: &str, key_bytes: usize) -> String {
        let CryptTable { device, offset_sectors, cipher, sector_size, .. } = self;
        let device = device.display();
        format!("{cipher} :{key_bytes}:logon:{description} 0 {device} {offset_sectors} 1 sector_size:{sector_size}")
    }
}

/// Maps encrypted data under a name and gives the node that devtmpfs makes. A mapping of that name that nobody uses goes first.
///
/// The key goes through the kernel's keyring, so that nobody reads it back from the table, and is revoked there before this returns.
///
/// # Errors
/// When the key cannot be handed over or one of the ioctls fails: the modules are not loaded, or something uses the old mapping.
pub fn map_crypt(name: &str, table: &CryptTable, key: &[u8]) -> Result<PathBuf, SystemError> {
    let description = format!("cairn:{name}");
    let _held = LogonKey::add(&description, key)?;
    let parameters = table.parameters(&description, key.len());
    let target = Target { kind: "crypt", sectors: table.sectors, parameters: &parameters, read_only: false };
    match map(name, &target) {
        Err(error) if error.errno() == Some(Errno::EBUSY) => {
            unmap(name)?;
            map(name, &target)
        }
        done => done,
    }
}

/// Removes a mapping.
///
/// # Errors
/// When there is none, or something uses it.
pub fn unmap(name: &str) -> Result<(), SystemError> {
    call(&control()?, Command::Remove, name, request(name, None, false)).map(|_| ())
}

/// Maps a dm-verity table under a name and gives the node that devtmpfs makes.
///
/// # Errors
/// When one of the ioctls fails: something of that name is mapped, or the device cannot be opened.
pub fn map_verity(name: &str, table: &VerityTable) -> Result<PathBuf, SystemError> {
    let parameters = &table.parameters;
    map(name, &Target { kind: "verity", sectors: table.sectors, parameters, read_only: true })
}

/// Maps a part of a device under a name, read-only, and gives its node: for devices of which the kernel shows no partitions.
pub(crate) fn map_linear(name: &str, device: &Path, first: u64, sectors: u64) -> Result<PathBuf, SystemError> {
    let parameters = format!("{} {first}", device.display());
    map(name, &Target { kind: "linear", sectors, parameters: &parameters, read_only: true })
}

fn control() -> Result<File, SystemError> {
    let control = File::options().read(true).write(true).open(CONTROL);
    control.map_err(|source| SystemError::new("open", CONTROL, source))
}

fn map(name: &str, target: &Target<'_>) -> Result<PathBuf, SystemError> {
    let (control, read_only) = (control()?, target.read_only);
    let created = call(&control, Command::Create, name, request(name, None, read_only))?;
    // The flag for "suspend" is not set, so the third call resumes: the loaded table becomes the live one.
    let loaded = call(&control, Command::LoadTable, name, request(name, Some(target), read_only))
        .and_then(|_| call(&control, Command::Resume, name, request(name, None, read_only)));
    if let Err(error) = loaded {
        // Without a table it is only in the way of the next attempt.
        let _gone = call(&control, Command::Remove, name, request(name, None, read_only));
        return Err(error);
    }
    // huge_encode_dev(): twelve bits of major in the middle, the minor around them; the node's name needs the minor
    // only.
    let device = u64::from_ne_bytes(field(&created, 40));
    let minor = (device & 0xff) | ((device >> 12) & 0xfff_ff00);
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn request(name: &str, target: Option<&Target<'_>>, read_only: bool) -> Vec<u8> {
    let mut request = vec![0; HEADER_BYTES];
    for (index, part) in VERSION.iter().enumerate() {
        put(&mut request, index * 4, &part.to_ne_bytes());
    }
    put(&mut request, 16, &(HEADER_BYTES as u32).to_ne_bytes());
    let name = &name.as_bytes()[..name.len().min(NAME_BYTES_MAX - 1)];
    put(&mut request, 48, name);
    if read_only {
        put(&mut request, 28, &READ_ONLY.to_ne_bytes());
    }
    if let Some(target) = target {
        put(&mut request, 20, &1_u32.to_ne_bytes());
        let mut description = [0; TARGET_BYTES];
        put(&mut description, 8, &target.sectors.to_ne_bytes());
        put(&mut description, 24, target.kind.as_bytes());
        request.extend_from_slice(&description);
        request.extend_from_slice(target.parameters.as_bytes());
        // The closing NUL, and padding to a multiple of eight.
        request.resize((request.len() + 1).next_multiple_of(8), 0);
    }
    let length = request.len() as u32;
    put(&mut request, 12, &length.to_ne_bytes());
    request
}

fn call(control: &File, command: Command, name: &str, mut request: Vec<u8>) -> Result<Vec<u8>, SystemError> {
    let what = match command {
        Command::Create => "ioctl(DM_DEV_CREATE)",
        Command::Remove => "ioctl(DM_DEV_REMOVE)",
        Command::Resume => "ioctl(DM_DEV_SUSPEND)",
        Command::LoadTable => "ioctl(DM_TABLE_LOAD)",
    };
    let number: c_ulong = nix::request_code_readwrite!(0xfd, command as u8, HEADER_BYTES);
    // SAFETY: the kernel reads and writes at most the `data_size` bytes that the request's own header states, which
    // is the length of this vector, and the vector outlives the call.
    let answer = unsafe { libc::ioctl(control.as_raw_fd(), number, request.as_mut_ptr()) };
    match answer {
        -1 => Err(SystemError::new(what, name, std::io::Error::last_os_error())),
        _ => Ok(request),
    }
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn field(bytes: &[u8], offset: usize) -> [u8; 8] {
    let mut copied = [0; 8];
    copied.copy_from_slice(&bytes[offset..offset + 8]);
    copied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_request_states_its_own_length_and_ends_with_a_nul() {
        let table = Target { kind: "verity", sectors: 80, parameters: "1 254:1 254:1", read_only: true };
        let request = request("cairn-root", Some(&table), true);
        assert_eq!(request.len() % 8, 0);
        assert_eq!(u32::from_ne_bytes([request[12], request[13], request[14], request[15]]) as usize, request.len());
        assert_eq!(&request[48..59], b"cairn-root\0");
        assert_eq!(&request[HEADER_BYTES + 24..HEADER_BYTES + 31], b"verity\0");
        assert_eq!(request[HEADER_BYTES + TARGET_BYTES + table.parameters.len()], 0);
    }

    #[test]
    fn an_encrypted_volume_is_writable_and_its_table_holds_no_key() {
        let table = CryptTable {
            device: PathBuf::from("/dev/vda5"),
            offset_sectors: 2048,
            sectors: 80,
            cipher: "aes-xts-plain64",
            sector_size: 4096,
        };
        let parameters = table.parameters("cairn:state", 64);
        assert_eq!(parameters, "aes-xts-plain64 :64:logon:cairn:state 0 /dev/vda5 2048 1 sector_size:4096");
        let target = Target { kind: "crypt", sectors: 80, parameters: &parameters, read_only: false };
        let request = request("state", Some(&target), false);
        assert_eq!(request[28..32], [0; 4]);
        assert_eq!(&request[HEADER_BYTES + 24..HEADER_BYTES + 30], b"crypt\0");
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_before_its_nul() {
        let request = request(&"x".repeat(300), None, false);
        assert_eq!(request[48 + NAME_BYTES_MAX - 1], 0);
    }
}
