//! dm-verity by three ioctls on /dev/mapper/control: create the device, load its table, resume it.
//!
//! The request is laid out by hand, as linux/dm-ioctl.h has it: a header of 312 bytes, one target description of 40,
//! its parameters.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use init_boot::VerityTable;
use nix::libc::{self, c_ulong};

use crate::error::SystemError;

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
    Resume = 6,
    LoadTable = 9,
}

/// Maps the table under a name and gives the node that devtmpfs makes.
pub(crate) fn map_verity(name: &str, table: &VerityTable) -> Result<PathBuf, SystemError> {
    let control = File::options().read(true).write(true).open(CONTROL);
    let control = control.map_err(|source| SystemError::new("open", CONTROL, source))?;
    let created = call(&control, Command::Create, name, request(name, None))?;
    call(&control, Command::LoadTable, name, request(name, Some(table)))?;
    // The flag for "suspend" is not set, so this resumes: the loaded table becomes the live one.
    call(&control, Command::Resume, name, request(name, None))?;
    // huge_encode_dev(): twelve bits of major in the middle, the minor around them; the node's name needs the minor
    // only.
    let device = u64::from_ne_bytes(field(&created, 40));
    let minor = (device & 0xff) | ((device >> 12) & 0xfff_ff00);
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn request(name: &str, table: Option<&VerityTable>) -> Vec<u8> {
    let mut request = vec![0; HEADER_BYTES];
    for (index, part) in VERSION.iter().enumerate() {
        put(&mut request, index * 4, &part.to_ne_bytes());
    }
    put(&mut request, 16, &(HEADER_BYTES as u32).to_ne_bytes());
    let name = &name.as_bytes()[..name.len().min(NAME_BYTES_MAX - 1)];
    put(&mut request, 48, name);
    put(&mut request, 28, &READ_ONLY.to_ne_bytes());
    if let Some(table) = table {
        put(&mut request, 20, &1_u32.to_ne_bytes());
        let mut target = [0; TARGET_BYTES];
        put(&mut target, 8, &table.sectors.to_ne_bytes());
        put(&mut target, 24, b"verity");
        request.extend_from_slice(&target);
        request.extend_from_slice(table.parameters.as_bytes());
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
        let table = VerityTable { sectors: 80, parameters: "1 254:1 254:1".to_owned() };
        let request = request("cairn-root", Some(&table));
        assert_eq!(request.len() % 8, 0);
        assert_eq!(u32::from_ne_bytes([request[12], request[13], request[14], request[15]]) as usize, request.len());
        assert_eq!(&request[48..59], b"cairn-root\0");
        assert_eq!(&request[HEADER_BYTES + 24..HEADER_BYTES + 31], b"verity\0");
        assert_eq!(request[HEADER_BYTES + TARGET_BYTES + table.parameters.len()], 0);
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_before_its_nul() {
        let request = request(&"x".repeat(300), None);
        assert_eq!(request[48 + NAME_BYTES_MAX - 1], 0);
    }
}
