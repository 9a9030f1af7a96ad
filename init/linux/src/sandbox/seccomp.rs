//! A seccomp filter: what a child that reads strangers' bytes never needs is answered with an error.
//!
//! It is a denylist of the families through which kernels were broken into, and of sockets other than those that were
//! asked for. An allowlist would break with each new libc; Landlock, the user and the limits carry the rest.

use std::io;

use nix::libc::{self, c_long, sock_filter, sock_fprog};

use super::NetworkUse;

/// AUDIT_ARCH_X86_64 of linux/audit.h.
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
/// System call numbers from here on are of the x32 ABI, a second way to each call.
pub(super) const X32_NUMBERS: u32 = 0x4000_0000;
/// Offsets in `struct seccomp_data`, in bytes; the low half of an argument comes first on this architecture.
pub(super) const NUMBER_AT: u32 = 0;
pub(super) const ARCHITECTURE_AT: u32 = 4;
const FIRST_ARGUMENT_AT: u32 = 16;
pub(super) const SECOND_ARGUMENT_AT: u32 = 24;
/// The flags of clone(2) that make name spaces.
const NEW_NAMESPACES: u32 = 0x7e02_0080;

/// Refused with EPERM.
const DENIED: [c_long; 76] = [
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Mounts, roots and name spaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_personality,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_uselib,
    libc::SYS__sysctl,
    libc::SYS_sysfs,
    libc::SYS_ustat,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    // Clocks.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Ways around file permissions.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Ways around this filter, and what exploits like best.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_memfd_secret,
    libc::SYS_vmsplice,
    libc::SYS_set_mempolicy,
    libc::SYS_mbind,
    libc::SYS_get_mempolicy,
    // Privileges that are gone anyway.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_capset,
];

/// A filter in the kernel's form.
#[derive(Debug)]
pub(super) struct Filter(Vec<sock_filter>);

impl Filter {
    pub(super) fn new(network: NetworkUse) -> Self {
        let families: &[libc::c_int] = match network {
            NetworkUse::None => &[libc::AF_UNIX],
            NetworkUse::Client => &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6],
        };
        let mut program = Vec::with_capacity(DENIED.len() * 2 + 32);
        program.push(load(ARCHITECTURE_AT));
        program.extend([jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0), give(libc::SECCOMP_RET_KILL_PROCESS)]);
        program.push(load(NUMBER_AT));
        program.extend([jump(libc::BPF_JGE, X32_NUMBERS, 0, 1), refuse(libc::ENOSYS)]);
        for number in DENIED {
            program.extend([jump(libc::BPF_JEQ, number as u32, 0, 1), refuse(libc::EPERM)]);
        }
        // clone3 hides its flags behind a pointer; libc falls back to clone, whose flags are seen below.
        program.extend([jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1), refuse(libc::ENOSYS)]);
        program.extend([
            jump(libc::BPF_JEQ, libc::SYS_clone as u32, 0, 4),
            load(FIRST_ARGUMENT_AT),
            jump(libc::BPF_JSET, NEW_NAMESPACES, 0, 1),
            refuse(libc::EPERM),
            give(libc::SECCOMP_RET_ALLOW),
        ]);
        // A socket of another family than these: the jump past the rest is worked out from their number.
        let tests = families.len() as u8;
        program.extend([jump(libc::BPF_JEQ, libc::SYS_socket as u32, 0, tests + 2), load(FIRST_ARGUMENT_AT)]);
        for (left, family) in (0..tests).rev().zip(families) {
            program.push(jump(libc::BPF_JEQ, *family as u32, left + 1, 0));
        }
        program.push(refuse(libc::EAFNOSUPPORT));
        program.push(give(libc::SECCOMP_RET_ALLOW));
        Self(program)
    }

    /// Puts it on the calling thread, for good; no_new_privs must be set.
    pub(super) fn install(&self) -> io::Result<()> {
        install(&self.0)
    }
}

/// Puts a filter on the calling thread, for good. The caller made it short: the kernel takes 4096 instructions.
pub(super) fn install(filter: &[sock_filter]) -> io::Result<()> {
    // The filter's length is bounded by its construction, far below 65536.
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions, which outlive the call, and never writes to them.
    let answer = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

/// Keeps only these bits of what was loaded.
pub(super) fn low_bits(mask: u32) -> sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, 0, 0)
}

/// Compares, then skips `yes` or `no` instructions.
pub(super) fn jump(comparison: u32, value: u32, yes: u8, no: u8) -> sock_filter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, value, yes, no)
}

pub(super) fn give(answer: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, answer, 0, 0)
}

pub(super) fn refuse(error: libc::c_int) -> sock_filter {
    give(libc::SECCOMP_RET_ERRNO | error.unsigned_abs())
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}
