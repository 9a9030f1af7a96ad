//! A seccomp filter against the two ways in which root, in namespaces of its own, gets hold of files outside of them.
//!
//! - open_by_handle_at(2) opens any file of a file system of which one file can be seen, wherever it is mounted;
//! - the ioctls `NS_MNT_GET_NEXT` and `NS_MNT_GET_PREV` (ioctl_nsfs(2), Linux 6.12) hand out every mount namespace of the machine.
//!
//! Everything else stays as it is: what containers need is for their own profiles to say.

use std::io;

use nix::libc::{self, sock_filter};

use super::seccomp::{
    ARCHITECTURE, ARCHITECTURE_AT, NUMBER_AT, SECOND_ARGUMENT_AT, X32_NUMBERS, give, install, jump, load, low_bits,
    refuse,
};

/// AUDIT_ARCH_I386 of linux/audit.h: programs of 32 bits run in containers too.
const ARCHITECTURE_32: u32 = 0x4000_0003;
/// open_by_handle_at and ioctl in the table of that architecture (arch/x86/entry/syscalls/syscall_32.tbl).
const NUMBERS_32: [u32; 2] = [342, 54];
/// The same of this architecture.
const NUMBERS_64: [u32; 2] = [libc::SYS_open_by_handle_at as u32, libc::SYS_ioctl as u32];
/// Type and number of an ioctl; the rest is the size of its argument, which the kernel lets grow.
const IOCTL_BITS: u32 = 0xffff;
/// `_IO(NSIO, 11)` and `_IO(NSIO, 12)` in these bits.
const NEXT_AND_PREVIOUS: [u32; 2] = [0xb70b, 0xb70c];

/// A filter in the kernel's form.
#[derive(Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    pub(crate) fn new() -> Self {
        let (handles, ioctls) = (block(NUMBERS_64), block(NUMBERS_32));
        let mut program = vec![load(ARCHITECTURE_AT), jump(libc::BPF_JEQ, ARCHITECTURE, 0, handles.len() as u8 + 3)];
        program.push(load(NUMBER_AT));
        // The x32 ABI is a third way to each call, and nothing uses it.
        program.extend([jump(libc::BPF_JGE, X32_NUMBERS, 0, 1), refuse(libc::ENOSYS)]);
        program.extend(handles);
        // Not reached from above: each block ends with an answer.
        program.extend([jump(libc::BPF_JEQ, ARCHITECTURE_32, 1, 0), give(libc::SECCOMP_RET_KILL_PROCESS)]);
        program.push(load(NUMBER_AT));
        program.extend(ioctls);
        Self(program)
    }

    /// Puts it on the calling thread and all that it starts; the caller has CAP_SYS_ADMIN, so programs may still gain privileges.
    pub(crate) fn install(&self) -> io::Result<()> {
        install(&self.0)
    }
}

/// With the call's number loaded: refuses the first call, and of the second one the two ioctls; allows the rest.
fn block([handle, ioctl]: [u32; 2]) -> Vec<sock_filter> {
    let [next, previous] = NEXT_AND_PREVIOUS;
    vec![
        jump(libc::BPF_JEQ, handle, 5, 0),
        jump(libc::BPF_JEQ, ioctl, 0, 5),
        load(SECOND_ARGUMENT_AT),
        low_bits(IOCTL_BITS),
        jump(libc::BPF_JEQ, next, 1, 0),
        jump(libc::BPF_JEQ, previous, 0, 1),
        refuse(libc::EPERM),
        give(libc::SECCOMP_RET_ALLOW),
    ]
}
